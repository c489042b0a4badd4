"""Settings every test runs with, and a place for what was measured."""

import os
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadFileScheduling

# No deadline per example: on shared cores a pause of 200 ms says nothing about the code.
settings.register_profile("shared-cores", deadline=None)
settings.load_profile("shared-cores")


@pytest.fixture(scope="session", autouse=True)
def _state_home(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What commands remember (`demo-node runs`) is not for the home of whoever runs the tests."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))


SHARED = ("tests/monitoring/", "tests/containers/")
"""The tests of each have a swarm, or an engine, in common: one process runs them all."""


class ByFile(LoadFileScheduling):  # type: ignore[misc]
    """What `--dist loadfile` means: files of their own to each process of pytest-xdist."""

    def _split_scope(self, nodeid: str) -> str:
        shared = next((folder for folder in SHARED if nodeid.startswith(folder)), "")
        return shared or super()._split_scope(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile | None:
    """Another than the library's, where files were asked for."""
    return ByFile(config, log) if config.getoption("dist") == "loadfile" else None


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
