"""What all end-to-end tests share: one swarm, run once."""

import pytest

from tests.e2e.swarm_run import Audit, SwarmRun, audit, run_swarm


@pytest.fixture(scope="session")
def swarm_run(tmp_path_factory: pytest.TempPathFactory, figures: dict[str, str]) -> SwarmRun:
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
