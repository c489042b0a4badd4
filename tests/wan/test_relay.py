"""Two behind symmetric routers meet by public relays, and by another one when theirs is killed."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import wait_until_sync
from tests.wan.child import Child, child
from tests.wan.network import made_network

pytestmark = [pytest.mark.wan, pytest.mark.slow, pytest.mark.timeout(180)]

RELAYS, HIDDEN = (0, 1), (2, 3)
SIZE = 300_000
MEET_S = 60.0
SOON_S = 30.0
"""Less than it takes who was told nothing to ask once more."""


def by_way_of(one: Child, other: Child) -> str:
    """The address at which one sees the other, empty for nowhere."""
    address: str = one.ask("show")["peers"].get(other.ask("show")["name"], "")
    return address


def count_circuits(relay: Child) -> int:
    return int(relay.ask("show")["figures"]["demo_relay_circuits"])


def test_two_behind_symmetric_routers_meet_and_outlive_their_relay(tmp_path: Path) -> None:
    with ExitStack() as stack:
        network = stack.enter_context(made_network(tmp_path / "network", 4))
        for index in HIDDEN:
            network.hide(index, is_symmetric=True)
        network.change(delay_ms=20)

        def begin(index: int, *named: str) -> Child:
            folder = str(tmp_path / str(index))
            return stack.enter_context(child(network, index, "relay_child", folder, *named))

        relays = [begin(index) for index in RELAYS]
        lines = [
            next(a for a in relay.ask("show")["addresses"] if network.address(index) in a)
            for index, relay in zip(RELAYS, relays, strict=True)
        ]
        hidden: list[Child] = []

        def shows(check: str, wanted: Any) -> bool:
            return all(node.ask("show")[check] == wanted for node in hidden)

        # Together: a relay dials back twice a second at most, and the other is to ask again soon.
        hidden += [begin(index, *lines) for index in HIDDEN]
        wait_until_sync(lambda: shows("state", "relayed"), SOON_S)
        wait_until_sync(lambda: all(len(n.ask("show")["relays"]) == 2 for n in hidden), MEET_S)
        one, other = hidden
        for node in hidden:
            shown = node.ask("show")
            assert sorted(shown["relays"]) == sorted(lines)
            own = [a for a in shown["addresses"] if "/p2p-circuit/p2p/" in a]
            assert len(own) == len(RELAYS)
        wait_until_sync(lambda: bool(by_way_of(one, other) and by_way_of(other, one)), MEET_S)
        place = by_way_of(one, other)
        assert "/p2p-circuit/p2p/" in place
        names = [node.ask("show")["name"] for node in hidden]
        for node, name in zip(hidden, names[::-1], strict=True):
            assert node.ask("pull", name, str(SIZE)) == SIZE
        carriers = [relay for relay in relays if count_circuits(relay)]
        assert carriers

        # Whichever carries them is killed: they meet again by way of the other.
        first = 0 if place.startswith(lines[0]) else 1
        relays[first].kill()
        left = lines[1 - first]
        wait_until_sync(lambda: shows("relays", [left]), MEET_S)
        wait_until_sync(lambda: by_way_of(one, other).startswith(left), MEET_S)
        wait_until_sync(lambda: one.ask("pull", names[1], str(SIZE)) == SIZE, MEET_S)

        # Without any they are private again, and alive.
        relays[1 - first].kill()
        wait_until_sync(lambda: shows("peers", {}), MEET_S)
        wait_until_sync(lambda: shows("relays", []), MEET_S)
        assert all(node.is_alive for node in hidden)
