"""A swarm on Go libp2p: equal parameters, whatever is killed: a node, its p2pd, what holds it."""

import os
import signal
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.nodes import RunningNode, make_run, started
from tests.e2e.processes import find_processes, is_alive
from tests.needs import needs_hivemind
from tests.waiting import wait_until_sync
from tests.wan.nodes import wait_agreed

pytestmark = [pytest.mark.swarm, pytest.mark.slow, pytest.mark.timeout(300)]

HIVEMIND = ("--mesh", "hivemind")
P2PD, HOLDER = b"/p2pd\0", b"demo_node.mesh.hivemind.child"

BACK_S = 60.0
"""A second for p2pd, two for what holds it; others use the cores, too."""


def find(node: RunningNode, what: bytes) -> int:
    """The process of a node whose command line has `what`; 0 where there is none."""
    found = [pid for pid in find_processes(node.datadir) if what in _read_command(pid)]
    assert len(found) <= 1
    return found[0] if found else 0


def kill(node: RunningNode, what: bytes) -> None:
    """End it, and wait until another has taken its place and the node knows its peers again."""
    old = find(node, what)
    assert old
    os.kill(old, signal.SIGKILL)
    wait_until_sync(lambda: find(node, what) not in (0, old), BACK_S)
    wait_until_sync(lambda: "mesh.restarted" in node.stderr, BACK_S)
    node.wait_for_status(lambda status: status.peers == 3, BACK_S)


def test_four_nodes_agree_although_one_and_the_meshes_of_two_are_killed(tmp_path: Path) -> None:
    needs_hivemind()
    make_run(tmp_path / "0", "--preset", "tiny", "--genesis", "+20")
    with ExitStack() as stack:
        nodes = [stack.enter_context(started(tmp_path / "0", "start", *HIVEMIND))]
        line = nodes[0].invitation()
        assert tuple(line[-2:]) == HIVEMIND
        nodes += [stack.enter_context(started(tmp_path / str(i), *line)) for i in (1, 2, 3)]
        nodes[0].wait_for_status(lambda status: status.members == 4 and status.peers == 3)
        before = wait_agreed(nodes, 0)
        kill(nodes[1], P2PD)
        kill(nodes[2], HOLDER)
        beside = [find(nodes[3], what) for what in (P2PD, HOLDER)]
        assert all(beside)
        nodes[3].signal(signal.SIGKILL)
        nodes[3].wait()
        wait_until_sync(lambda: not any(map(is_alive, beside)), BACK_S)
        nodes[3] = stack.enter_context(started(tmp_path / "3", "start", *HIVEMIND))
        round_ = nodes[0].status().round
        for node in nodes:  # all four are in records that came after all of it
            node.wait_for_rounds(
                lambda rounds: any(view.included and view.round > round_ for view in rounds)
            )
        wait_agreed(nodes, before + 3)
        processes = [find(node, what) for node in nodes for what in (P2PD, HOLDER)]
        assert len(set(processes)) == 8
        for node in nodes:
            node.signal(signal.SIGTERM)
        assert [node.wait() for node in nodes] == [0] * 4
        wait_until_sync(lambda: not any(map(is_alive, processes)), BACK_S)
        for node in nodes:
            assert "Traceback" not in node.stderr


def _read_command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
