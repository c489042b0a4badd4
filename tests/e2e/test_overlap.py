"""Real nodes that train a round while they exchange the one before (overlap_rounds 1)."""

from pathlib import Path

import pytest

from demo_protocol.schedule import BPS
from tests.e2e.swarm_run import run_swarm

pytestmark = [pytest.mark.swarm, pytest.mark.slow, pytest.mark.timeout(300)]

ROUNDS, ROUND_S = 8, 5


def test_nodes_train_in_every_phase_and_hold_the_same_parameters(tmp_path: Path) -> None:
    flags = ("--overlap", "1", "--rounds", str(ROUNDS), "--round-seconds", str(ROUND_S))
    run = run_swarm(tmp_path, *flags)
    assert run.exit_code == 0, run.stderr
    document = run.document
    assert document["digests_equal"] is True
    assert document["rounds_completed"] >= ROUNDS - 2
    assert document["loss_last"] < document["loss_first"]
    for look in run.last_looks:
        # How much of a round is spent in steps depends on the machine, and grows with the samples
        # that are dealt. More of one than its train phase has is only there with overlap.
        train_phase_ms = look.status.round_ms * look.status.train_bps // BPS
        assert max(view.train_ms for view in look.rounds) > 1.1 * train_phase_ms
