"""Nodes behind routers of both kinds take part like everybody else, with nothing configured."""

import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from demo_protocol.reach import Reachability
from tests.wan.nat_run import CONE, FIRST, PUBLIC, SYMMETRIC, Part, measure, members, routed
from tests.wan.network import Network
from tests.wan.nodes import PORT

pytestmark = [pytest.mark.wan, pytest.mark.slow, pytest.mark.timeout(600)]

ROUNDS, MISSED_MAX = 20, 1
"""At least 95 % of the rounds that have a record. `tests.wan.nat_run` counts more, at night."""

EMPTY_MAX = 3
"""Rounds without a record: those of a busy machine, which no router is the cause of."""

FEWER_ROUNDS = 5


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    with routed(tmp_path / "network") as made:
        yield made


def assert_full(parts: Sequence[Part]) -> None:
    assert max(len(part.missed) for part in parts) <= MISSED_MAX, parts
    assert max(len(part.empty) for part in parts) <= EMPTY_MAX, parts


def test_who_is_behind_a_router_contributes_in_nearly_every_round(
    network: Network, tmp_path: Path
) -> None:
    with members(network, tmp_path) as nodes:
        assert_full(measure(nodes, ROUNDS))
        statuses = [node.status() for node in nodes]
        assert [status.reach.state for status in statuses] == [
            Reachability.PUBLIC,
            Reachability.PUBLIC,
            Reachability.PRIVATE,
            Reachability.PRIVATE,
        ]
        # It was told its own address by those whom it dialled, and told it to the hidden ones.
        assert (
            statuses[PUBLIC].addresses[0].startswith(f"/ip4/{network.address(PUBLIC)}/tcp/{PORT}/")
        )
        assert [status.peers for status in statuses] == [3, 3, 2, 2]
        assert [statuses[hidden].reach.holders for hidden in (CONE, SYMMETRIC)] == [2, 2]

        # Neither reaches the other: what they learn of each other comes by one public node.
        nodes[PUBLIC].signal(signal.SIGKILL)
        left = [nodes[index] for index in (FIRST, CONE, SYMMETRIC)]
        assert_full(measure(left, FEWER_ROUNDS))
        assert [nodes[hidden].status().peers for hidden in (CONE, SYMMETRIC)] == [1, 1]
