"""Nodes of all continents, over links that lose frames, are cut and heal; joins over IPv6, too."""

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.nodes import make_run
from tests.waiting import wait_until_sync
from tests.wan.network import Network, made_network
from tests.wan.nodes import place, started_on, wait_agreed

pytestmark = [pytest.mark.wan, pytest.mark.slow, pytest.mark.timeout(420)]

ROUND_S = 4


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    with made_network(tmp_path / "network", 5) as made:
        yield made


def test_a_cut_a_kill_and_a_late_joiner_over_bad_links(network: Network, tmp_path: Path) -> None:
    place(network, loss=0.01)
    network.change([1], [], rate_mbit_s=10)
    make_run(
        tmp_path / "0", "--preset", "tiny", "--round-seconds", str(ROUND_S), "--genesis", "+25"
    )
    with ExitStack() as stack:
        nodes = [stack.enter_context(started_on(network, 0, tmp_path / "0"))]
        line = nodes[0].invitation()
        nodes += [
            stack.enter_context(started_on(network, index, tmp_path / str(index), *line))
            for index in (1, 2, 3)
        ]
        height = wait_agreed(nodes, 3)

        network.change([0, 1], [2, 3], is_cut=True)
        wait_until_sync(lambda: all(node.status().peers == 1 for node in nodes), 60)
        network.change([0, 1], [2, 3], is_cut=False)
        height = wait_agreed(nodes, height + 2)

        nodes[3].signal(signal.SIGKILL)
        assert nodes[3].wait() == 128 + signal.SIGKILL
        late = stack.enter_context(started_on(network, 4, tmp_path / "4", *line))
        back = stack.enter_context(started_on(network, 3, tmp_path / "3"))
        height = wait_agreed([*nodes[:3], back, late], height + 4)
        nodes[0].wait_for_status(lambda status: status.members == 5)
        told = network.change()
    assert told["lost"] > 0
    assert told["cut"] > 0


def test_a_joiner_over_the_newer_protocol(network: Network, tmp_path: Path) -> None:
    network.change(delay_ms=30)
    make_run(tmp_path / "0", "--preset", "tiny")
    with started_on(network, 0, tmp_path / "0", over_6=True) as first:
        line = first.invitation()
        assert f"/ip6/{network.address_6(0)}/tcp/" in " ".join(line)
        with started_on(network, 1, tmp_path / "1", *line, over_6=True) as second:
            first.wait_for_status(lambda status: status.members == 2)
            wait_agreed([first, second], 2)
