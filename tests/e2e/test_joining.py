"""A fourth node joins late, over thin uplinks; the exact figures are in docs/benchmarks.md."""

import json
from pathlib import Path

import pytest

from demo_node.views import NodeState
from tests.docs.shell import opened_shell
from tests.e2e.join_run import HOLDERS
from tests.e2e.nodes import make_run, started
from tests.e2e.swarm_run import read_metrics
from tests.pages import take_line
from tests.waiting import wait_until_sync

pytestmark = [pytest.mark.swarm, pytest.mark.slow, pytest.mark.timeout(400)]

SHARE_MAX = 0.6
"""With three sources none gives more of a snapshot."""

PATIENCE = 3
"""Times the budget: other tests use the cores too."""


def test_a_joiner_takes_a_snapshot_from_several_peers_and_soon_contributes(tmp_path: Path) -> None:
    with opened_shell(tmp_path / "home") as shell:
        command = take_line("docs/benchmarks.md", "python -m tests.e2e.join_run")
        joining = json.loads(shell.run(command, timeout_s=380))
    assert joining["snapshot_peers"] == HOLDERS
    assert joining["largest_share"] <= SHARE_MAX
    assert joining["snapshot_bytes"] >= 4 * joining["parameters"]
    assert joining["included_s"] <= PATIENCE * joining["budget_s"]


def test_an_archive_is_no_member_and_an_anchor_is_asked_for(tmp_path: Path) -> None:
    make_run(tmp_path / "first", "--genesis", "+8")
    with started(tmp_path / "first") as first:
        line = first.invitation()
        with started(tmp_path / "archive", *line, "--role", "archive") as archive:
            seen = archive.wait_for_status(
                lambda status: status.state is NodeState.PAUSED and status.height >= 4
            )
            assert "an archive" in seen.detail
            url = archive.metrics_url()
            wait_until_sync(lambda: read_metrics(url)["demo_node_archive"] == 1)
            assert first.status().members == 1
            assert first.status().candidates == 0

            with started(tmp_path / "misled", *line, "--anchor", "ab" * 32) as misled:
                assert misled.wait() == 75
                assert "the anchor abababababababab is on the chain of no peer" in misled.stderr

            anchor = seen.head.hex()
            with started(tmp_path / "sure", *line, "--anchor", anchor) as sure:
                sure.wait_until_active()
                joined = sure.wait_for_status(lambda status: status.members == 2)
                assert joined.height > seen.height
