"""Nodes of all continents, over links that lose frames, are cut and heal; joins over IPv6, too."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.nodes import make_run
from tests.wan.network import Network, made_network
from tests.wan.nodes import started_on, wait_agreed
from tests.wan.story import Size, play

pytestmark = [pytest.mark.wan, pytest.mark.slow, pytest.mark.timeout(420)]


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    with made_network(tmp_path / "network", 5) as made:
        yield made


def test_a_cut_a_kill_and_a_late_joiner_over_bad_links(network: Network, tmp_path: Path) -> None:
    lines = play(network, tmp_path, Size(nodes=5, round_s=4, rounds=2, cut_s=12, start_s=25))
    assert len([line for line in lines if line.startswith("|")]) == 7
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
