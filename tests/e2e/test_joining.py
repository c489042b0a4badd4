"""A fourth node joins late, over thin uplinks; the exact figures are in docs/benchmarks.md."""

from pathlib import Path

import pytest

from tests.e2e.join_run import HOLDERS, measure

pytestmark = [pytest.mark.swarm, pytest.mark.slow, pytest.mark.timeout(400)]

SHARE_MAX = 0.6
"""With three sources none gives more of a snapshot."""

PATIENCE = 3
"""Times the budget: other tests use the cores too."""


def test_a_joiner_takes_a_snapshot_from_several_peers_and_soon_contributes(tmp_path: Path) -> None:
    joining = measure(tmp_path)
    assert joining.snapshot_peers == HOLDERS
    assert joining.largest_share <= SHARE_MAX
    assert joining.snapshot_bytes >= 4 * joining.parameters
    assert joining.included_s <= PATIENCE * joining.budget_s
