"""A lid that closes and opens, another address: the node is back by itself within two rounds."""

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from demo_node.ports import PeerView
from tests.e2e.nodes import RunningNode, make_run
from tests.e2e.processes import find_processes
from tests.waiting import wait_until_sync
from tests.wan.network import Network, made_network
from tests.wan.nodes import started_on, wait_agreed

pytestmark = [pytest.mark.wan, pytest.mark.slow, pytest.mark.timeout(420)]

ROUND_S = 5
ASLEEP_S = 60.0
BACK_S = 20.0
"""Two rounds of 10 s; here they are shorter, to learn more in less time."""

LAST = 2


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    with made_network(tmp_path / "network", 3) as made:
        made.change(delay_ms=20)
        yield made


@contextmanager
def three(network: Network, folder: Path) -> Iterator[list[RunningNode]]:
    """Nodes with a record that all of them made."""
    make_run(folder / "0", "--preset", "tiny", "--round-seconds", str(ROUND_S), "--genesis", "+15")
    with ExitStack() as stack:
        nodes = [stack.enter_context(started_on(network, 0, folder / "0"))]
        line = nodes[0].invitation()
        for index in (1, LAST):
            started = started_on(network, index, folder / str(index), *line, anywhere=True)
            nodes.append(stack.enter_context(started))
        nodes[0].wait_for_status(lambda status: status.members == 3)
        wait_agreed(nodes, 2)
        yield nodes


def wait_for_peers(nodes: Sequence[RunningNode], count: int, deadline_s: float = 60) -> None:
    wait_until_sync(lambda: all(node.status().peers == count for node in nodes), deadline_s)


def test_a_node_that_slept_for_a_minute(
    network: Network, tmp_path: Path, figures: dict[str, str]
) -> None:
    with three(network, tmp_path) as nodes:
        *others, last = nodes
        asleep = find_processes(last.datadir)
        for pid in asleep:
            os.kill(pid, signal.SIGSTOP)
        begin_s = time.monotonic()
        wait_for_peers(others, 1)
        figures["seconds until a frozen peer was noticed"] = f"{time.monotonic() - begin_s:.1f}"
        time.sleep(max(0.0, begin_s + ASLEEP_S - time.monotonic()))
        woke = others[0].status()
        for pid in asleep:
            os.kill(pid, signal.SIGCONT)
        wait_for_peers(nodes, 2, BACK_S)
        last.wait_for_rounds(
            lambda views: any(view.included and view.round > woke.round for view in views)
        )
        wait_agreed(nodes, woke.height)


def test_a_node_whose_address_changed(
    network: Network, tmp_path: Path, figures: dict[str, str]
) -> None:
    with three(network, tmp_path) as nodes:
        before = nodes[LAST].status()
        network.move(LAST, 77)
        begin_s = time.monotonic()
        wait_until_sync(lambda: "10.99.0.77" in show_peers(nodes[0]), BACK_S)
        assert "10.99.0.77" in nodes[LAST].status().addresses[0]
        wait_for_peers(nodes, 2, BACK_S)
        figures["seconds until a changed address was connected"] = (
            f"{time.monotonic() - begin_s:.1f}"
        )
        wait_agreed(nodes, before.height + 2)


def test_a_link_that_becomes_slow_is_not_taken_for_death(network: Network, tmp_path: Path) -> None:
    with three(network, tmp_path) as nodes:
        first, *others = nodes
        network.change([0], [1, LAST], delay_ms=3000)
        before_s = {peer.peer: peer.connected_s for peer in ask_peers(first)}
        time.sleep(15)  # three times as long as a peer may be silent
        after_s = {peer.peer: peer.connected_s for peer in ask_peers(first)}
        assert before_s.keys() == after_s.keys() == {other.status().peer for other in others}
        assert all(after_s[peer] >= before_s[peer] + 14 for peer in before_s)


def ask_peers(node: RunningNode) -> Sequence[PeerView]:
    return node.ask(lambda client: client.peers())


def show_peers(node: RunningNode) -> str:
    """Addresses of whom it is connected to."""
    return " ".join(peer.address for peer in ask_peers(node))
