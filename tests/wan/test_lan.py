"""A joiner that knows a run's id and nobody's address finds a node of its LAN by multicast DNS."""

from pathlib import Path

import pytest

from tests.cli.command import demo_node
from tests.e2e.nodes import LOCAL, make_run
from tests.wan.network import made_network
from tests.wan.nodes import started_on, wait_agreed

pytestmark = [pytest.mark.wan, pytest.mark.slow, pytest.mark.timeout(300)]


def test_two_in_one_home_meet_without_an_address(tmp_path: Path) -> None:
    make_run(tmp_path / "0", "--preset", "tiny")
    with (
        made_network(tmp_path / "network", 2) as network,
        started_on(network, 0, tmp_path / "0", "start", anywhere=True, mdns=True) as first,
    ):
        line = first.invitation()
        run = line[line.index("--run-id") :][:2]
        assert first.status().peers == 0
        alone = demo_node("start", *run, "--no-mdns", "--datadir", tmp_path / "alone", *LOCAL)
        assert alone.returncode == 78
        assert "holds no run" in alone.stderr
        with started_on(
            network, 1, tmp_path / "1", "start", *run, anywhere=True, mdns=True
        ) as second:
            second.wait_until_active()
            first.wait_for_status(lambda status: status.members == 2)
            wait_agreed([first, second], 2)


def test_where_nobody_is_near_the_operator_is_told(tmp_path: Path) -> None:
    run = ("--run-id", "ab" * 32, "--datadir", tmp_path / "node")
    done = demo_node("start", *run, *LOCAL, timeout_s=100)
    assert done.returncode == 75
    line = done.stderr.splitlines()[-1]
    assert line == (
        "demo-node: nobody on this LAN takes part in run abababababababab; name a peer with --peers"
    )
