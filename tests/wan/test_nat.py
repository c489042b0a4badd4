"""Nodes behind routers of both kinds take part like everybody else, with nothing configured: by way
of a relay, and without it when it is killed.
"""

import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from demo_protocol.reach import Reachability
from tests.needs import needs_hivemind
from tests.wan.nat_run import CONE, FIRST, PUBLIC, SYMMETRIC, Part, measure, members, routed
from tests.wan.network import Network
from tests.wan.nodes import PORT

pytestmark = [pytest.mark.wan, pytest.mark.slow, pytest.mark.timeout(600)]

ROUNDS, MISSED_MAX = 20, 1
"""At least 95 % of the rounds that have a record, and that a node without a router did not miss
either: on a busy machine all of them miss some. `tests.wan.nat_run` counts more, at night."""

EMPTY_MAX = BUSY_MAX = 4
"""Rounds without a record, and such as a public node missed: no router is the cause of them."""

FEWER_ROUNDS = 5


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    with routed(tmp_path / "network") as made:
        yield made


def assert_full(public: Sequence[Part], hidden: Sequence[Part]) -> None:
    busy = max(len(part.missed) for part in public)
    assert busy <= BUSY_MAX, public
    assert max(len(part.missed) for part in hidden) <= busy + MISSED_MAX, [*public, *hidden]
    assert max(len(part.empty) for part in public) <= EMPTY_MAX, public


def test_who_is_behind_a_router_contributes_in_nearly_every_round(
    network: Network, tmp_path: Path
) -> None:
    with members(network, tmp_path) as nodes:
        parts = measure(nodes, ROUNDS)
        assert_full(parts[:CONE], parts[CONE:])
        statuses = [node.status() for node in nodes]
        assert [status.reach.state for status in statuses] == [
            Reachability.PUBLIC,
            Reachability.PUBLIC,
            Reachability.RELAYED,
            Reachability.RELAYED,
        ]
        # It was told its own address by those whom it dialled, and told it to the hidden ones.
        assert (
            statuses[PUBLIC].addresses[0].startswith(f"/ip4/{network.address(PUBLIC)}/tcp/{PORT}/")
        )
        # It brings the hidden ones to each other.
        assert [status.peers for status in statuses] == [3, 3, 3, 3]
        assert [statuses[hidden].reach.holders for hidden in (CONE, SYMMETRIC)] == [2, 2]

        # Without, neither reaches the other: what they learn comes by the public node that is left.
        nodes[PUBLIC].signal(signal.SIGKILL)
        left = [nodes[index] for index in (FIRST, CONE, SYMMETRIC)]
        first, *hidden_parts = measure(left, FEWER_ROUNDS)
        assert_full([first], hidden_parts)
        assert [nodes[hidden].status().peers for hidden in (CONE, SYMMETRIC)] == [1, 1]
        states = [nodes[hidden].status().reach.state for hidden in (CONE, SYMMETRIC)]
        assert states == [Reachability.PRIVATE, Reachability.PRIVATE]


def test_so_it_does_over_go_libp2p(network: Network, tmp_path: Path) -> None:
    needs_hivemind()
    with members(network, tmp_path, mesh="hivemind") as nodes:
        parts = measure(nodes, FEWER_ROUNDS)
        assert_full(parts[:CONE], parts[CONE:])
        for public in nodes[:CONE]:  # the hidden ones need not have each other
            public.wait_for_status(lambda status: status.peers == 3)
