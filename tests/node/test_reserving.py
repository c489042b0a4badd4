"""A node that nobody can dial keeps room at relays, on virtual time."""

import asyncio
from collections.abc import Iterator

from demo_node.observer import Figure
from demo_node.ports import Unreachable
from demo_node.reserving import RELAYS_WANTED, RETRY_FIRST_S, RETRY_MAX_S, RelayedMesh, Reserving
from demo_protocol.reach import Reachability

LASTS_S = 1800.0
PRIVATE, PUBLIC, UNKNOWN = Reachability.PRIVATE, Reachability.PUBLIC, Reachability.UNKNOWN


class FakeMesh:
    """Relays that grant what a test says, and who was asked when."""

    def __init__(self) -> None:
        self.relayed_at: tuple[str, ...] = ()
        self.there: dict[bytes, str] = {}
        self.full: set[bytes] = set()
        self.asked: list[bytes] = []
        self.released: list[bytes] = []

    def carries(self, peer: bytes) -> bool:
        return False

    def relays(self) -> dict[bytes, str]:
        return self.there

    async def reserve(self, relay: bytes) -> float:
        self.asked.append(relay)
        if relay in self.full:
            raise Unreachable("no room")
        return LASTS_S

    def release(self, relay: bytes) -> None:
        self.released.append(relay)

    def relay_figures(self) -> Iterator[Figure]:
        return iter(())


class Stage:
    def __init__(self, relays: int) -> None:
        self.mesh = FakeMesh()
        assert isinstance(self.mesh, RelayedMesh)
        self.now_s = 0.0
        self.reserving = Reserving(self.mesh, lambda: self.now_s)
        for number in range(relays):
            self.mesh.there[bytes([number])] = f"/ip4/9.9.9.{number}/tcp/4001/p2p/relay{number}"

    def look(self, reach: Reachability, after_s: float = 1.0) -> int:
        """How many relays bring others to it then."""
        self.now_s += after_s
        asyncio.run(self.reserving.look(reach))
        assert self.mesh.relayed_at == tuple(f"{a}/p2p-circuit" for a in self.reserving.addresses)
        return len(self.reserving.addresses)


def test_who_can_be_dialled_or_does_not_know_asks_nobody() -> None:
    stage = Stage(3)
    assert stage.look(UNKNOWN) == stage.look(PUBLIC) == 0
    assert not stage.mesh.asked


def test_who_cannot_reserves_at_two_and_announces_them() -> None:
    stage = Stage(5)
    assert stage.look(PRIVATE) == RELAYS_WANTED == 2
    assert stage.look(PRIVATE) == 2
    assert len(stage.mesh.asked) == 2


def test_a_reservation_is_renewed_before_it_ends() -> None:
    stage = Stage(1)
    stage.look(PRIVATE)
    stage.look(PRIVATE, LASTS_S / 2 - 2)
    assert len(stage.mesh.asked) == 1
    stage.look(PRIVATE, 3)
    assert len(stage.mesh.asked) == 2
    stage.look(UNKNOWN, LASTS_S / 2 + 1)  # also while nobody answers REACH
    assert len(stage.mesh.asked) == 3


def test_one_that_is_not_renewed_is_tried_again_and_given_up_when_it_ends() -> None:
    stage = Stage(1)
    stage.look(PRIVATE)
    stage.mesh.full = set(stage.mesh.there)
    tries = 0
    while stage.look(PRIVATE, 10):
        tries += 1
        assert stage.now_s < LASTS_S + 20
    assert stage.now_s >= LASTS_S
    assert 3 < len(stage.mesh.asked) < 12
    assert stage.mesh.released == [b"\0"]


def test_a_relay_that_is_gone_is_replaced_at_once() -> None:
    stage = Stage(3)
    stage.look(PRIVATE)
    gone = stage.mesh.asked[0]
    del stage.mesh.there[gone]
    assert stage.look(PRIVATE) == 2
    assert stage.mesh.released == [gone]
    assert len(set(stage.mesh.asked)) == 3
    stage.mesh.there.clear()
    assert stage.look(PRIVATE) == 0


def test_a_relay_that_refuses_is_asked_ever_more_seldom_and_another_instead() -> None:
    stage = Stage(3)
    stage.mesh.full = {b"\0"}
    for _ in range(3):
        stage.look(PRIVATE)
    assert len(stage.reserving.addresses) == 2
    assert stage.mesh.asked.count(b"\0") <= 1
    lonely = Stage(1)
    lonely.mesh.full = {b"\0"}
    lonely.look(PRIVATE)
    lonely.look(PRIVATE, RETRY_FIRST_S - 1)
    assert len(lonely.mesh.asked) == 1
    for _ in range(3600):
        lonely.look(PRIVATE)
    assert 3600 / RETRY_MAX_S <= len(lonely.mesh.asked) <= 3600 / RETRY_MAX_S + 6


def test_who_can_be_dialled_now_needs_none() -> None:
    stage = Stage(2)
    stage.look(PRIVATE)
    assert stage.look(UNKNOWN) == 2
    assert stage.look(PUBLIC) == 0
    assert sorted(stage.mesh.released) == [b"\0", b"\1"]
