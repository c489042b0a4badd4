"""What all end-to-end tests share: one swarm, run once, and a place for what was measured."""

from typing import Any

import pytest

from tests.e2e.swarm_run import Audit, SwarmRun, audit, run_swarm

Figures = dict[str, str]
"""What was measured, by name: shown at the end, judged by no test."""

FIGURES = pytest.StashKey[Figures]()


@pytest.fixture(scope="session")
def figures(pytestconfig: pytest.Config) -> Figures:
    """Put measurements in here."""
    return pytestconfig.stash.setdefault(FIGURES, {})


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A process of pytest-xdist gives its own to the one that shows them."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["figures"] = session.config.stash.get(FIGURES, {})


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take them."""
    node.config.stash.setdefault(FIGURES, {}).update(node.workeroutput.get("figures", {}))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Show them."""
    for name, text in config.stash.get(FIGURES, {}).items():
        terminalreporter.write_line(f"{name}: {text}")


@pytest.fixture(scope="session")
def swarm_run(tmp_path_factory: pytest.TempPathFactory, figures: Figures) -> SwarmRun:
    """Four nodes that trained together and have ended."""
    run = run_swarm(tmp_path_factory.mktemp("swarm"))
    assert run.stdout, run.stderr
    assert all(run.looks), run.stderr
    for key in ("rounds_completed", "participants_median", "train_share", "exchange_p95_s"):
        figures[key] = f"{run.document[key]:g}"
    figures["bytes sent per node and round"] = (
        f"{run.document['bytes_sent_per_node_per_round']:.0f}"
    )
    figures["payload bytes per parameter"] = f"{run.document['payload_bytes_per_parameter']:.4f}"
    return run


@pytest.fixture(scope="session")
def swarm_audit(swarm_run: SwarmRun) -> Audit:
    """That run, replayed from the first node's data folder."""
    return audit(swarm_run, 0)
