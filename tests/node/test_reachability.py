"""A node asks peers of different networks to dial it back, and draws its conclusion."""

import asyncio
from collections.abc import Iterator, Sequence

import pytest

from demo_node.observer import Figure
from demo_node.ports import Blob, BlobRequest, Busy, NotHeld, PeerView, Unreachable
from demo_node.reachability import EVERY_S, LOOK_S, RETRY_S, Reachable
from demo_protocol.answers import decode_port, encode_dial_back
from demo_protocol.networks import NETWORKS_WANTED
from demo_protocol.reach import DialBack, Reachability

PORT = 4001
SEEN = f"/ip4/8.8.8.8/tcp/{PORT}"


class FakeMesh:
    """Peers that answer what a test says, and who was asked."""

    def __init__(self) -> None:
        self.reached_at: tuple[str, ...] = ()
        self.local: Sequence[str] = ("/ip4/127.0.0.1/tcp/4001",)
        self.answers: dict[bytes, DialBack | bytes | Exception] = {}
        self.views: list[PeerView] = []
        self.asked: list[bytes] = []
        self.open_port = PORT

    def port(self) -> int:
        return self.open_port

    def local_addresses(self) -> Sequence[str]:
        return self.local

    def peers(self) -> Sequence[PeerView]:
        return self.views

    def add(
        self, number: int, answer: DialBack | bytes | Exception, *, host: str = "", out: bool = True
    ) -> None:
        peer = bytes([number]) * 32
        self.answers[peer] = answer
        self.views.append(PeerView(peer, f"{host or f'/ip4/9.{number}.0.1'}/tcp/4001", out))

    async def dial_back(self, peer: bytes, port: int) -> DialBack | None:
        raise NotImplementedError

    async def request(
        self, peer: bytes, request: BlobRequest, *, bytes_max: int, timeout_s: float
    ) -> bytes:
        assert request.kind is Blob.REACH
        assert decode_port(request.key) == PORT
        self.asked.append(peer)
        match self.answers[peer]:
            case DialBack() as found:
                return encode_dial_back(found)
            case bytes() as raw:
                return raw
            case Exception() as error:
                raise error


class RelayingMesh(FakeMesh):
    """Some of its peers are relays."""

    def __init__(self) -> None:
        super().__init__()
        self.relayed_at: tuple[str, ...] = ()
        self.offers: dict[bytes, str] = {}

    def carries(self, peer: bytes) -> bool:
        return False

    def relays(self) -> dict[bytes, str]:
        return self.offers

    async def reserve(self, relay: bytes) -> float:
        return 1800.0

    def release(self, relay: bytes) -> None:
        pass

    def relay_figures(self) -> Iterator[Figure]:
        return iter(())


YES, NO = DialBack(SEEN, reached=True), DialBack(SEEN, reached=False)


class Stage:
    def __init__(self, make: type[FakeMesh] = FakeMesh) -> None:
        self.mesh = make()
        self.now_s = 0.0
        self.told: list[tuple[str, dict[str, object]]] = []
        self.reachable = Reachable(
            self.mesh, lambda name, **fields: self.told.append((name, fields)), lambda: self.now_s
        )

    def look(self, after_s: float = 1.0) -> Reachability:
        self.now_s += after_s
        asyncio.run(self.reachable.look())
        return self.reachable.view().state


def test_where_most_come_through_the_address_is_told_to_peers() -> None:
    stage = Stage()
    assert stage.look() is Reachability.UNKNOWN
    for number, answer in enumerate([YES, NO, YES]):
        stage.mesh.add(number, answer)
    assert stage.look() is Reachability.PUBLIC
    assert stage.mesh.reached_at == (SEEN,)
    view = stage.reachable.view()
    assert (view.addresses, view.reached, view.asked, view.port) == ((SEEN,), 2, 3, PORT)
    assert [name for name, _ in stage.told] == ["reach.changed"]


def test_where_nobody_comes_through_it_takes_part_by_those_it_dialled() -> None:
    stage = Stage()
    stage.mesh.add(1, NO)
    stage.mesh.add(2, NO)
    stage.mesh.add(3, NO, out=False)
    assert stage.look() is Reachability.PRIVATE
    assert stage.mesh.reached_at == ()
    assert stage.reachable.view().holders == 2


def test_each_network_is_asked_once_and_no_more_than_are_needed() -> None:
    stage = Stage()
    for number in range(20):
        stage.mesh.add(number, YES, host=f"/ip4/9.{number % 10}.0.{number}")
    for _ in range(5):
        stage.look()
    assert len(stage.mesh.asked) == NETWORKS_WANTED
    assert len({peer[0] % 10 for peer in stage.mesh.asked}) == NETWORKS_WANTED
    stage.look(EVERY_S)
    assert len(stage.mesh.asked) == 2 * NETWORKS_WANTED


@pytest.mark.parametrize("fault", [NotHeld("too soon"), Unreachable("slow"), b"\xff"])
def test_no_answer_is_no_evidence_and_asked_for_later(fault: Exception | bytes) -> None:
    stage = Stage()
    stage.mesh.add(1, fault)
    assert stage.look() is Reachability.UNKNOWN
    assert stage.look(RETRY_S - 1) is Reachability.UNKNOWN
    assert len(stage.mesh.asked) == 1
    stage.mesh.answers[bytes([1]) * 32] = YES
    assert stage.look(1) is Reachability.PUBLIC


def test_who_has_others_to_dial_first_is_asked_again_at_the_next_look() -> None:
    stage = Stage()
    stage.mesh.add(1, Busy("others"))
    assert stage.look() is Reachability.UNKNOWN
    stage.mesh.answers[bytes([1]) * 32] = NO
    assert stage.look(LOOK_S) is Reachability.PRIVATE


def test_another_address_of_this_machine_is_asked_for_at_once() -> None:
    stage = Stage()
    stage.mesh.add(1, YES)
    stage.look()
    moved = DialBack(f"/ip4/8.8.4.4/tcp/{PORT}", reached=True)
    stage.mesh.answers[bytes([1]) * 32] = moved
    stage.look()
    assert stage.mesh.reached_at == (SEEN,)
    stage.mesh.local = ("/ip4/10.0.0.2/tcp/4001",)
    stage.look()
    assert stage.mesh.reached_at == (moved.address,)


def test_a_link_that_was_away_is_asked_for_again() -> None:
    stage = Stage()
    stage.mesh.add(1, YES)
    stage.look()
    views, stage.mesh.views = stage.mesh.views, []
    assert stage.look() is Reachability.UNKNOWN
    stage.mesh.views = views
    stage.mesh.answers[bytes([1]) * 32] = NO
    assert stage.look() is Reachability.PRIVATE
    states = [fields["state"] for _, fields in stage.told]
    assert states == ["public", "unknown", "private"]


def test_what_was_said_long_ago_does_not_count() -> None:
    stage = Stage()
    stage.mesh.add(1, YES)
    stage.look()
    stage.mesh.answers[bytes([1]) * 32] = NotHeld("not any more")
    assert stage.look(EVERY_S + 1) is Reachability.PUBLIC
    assert stage.look(EVERY_S) is Reachability.UNKNOWN


def test_who_listens_nowhere_asks_nobody() -> None:
    stage = Stage()
    stage.mesh.open_port = 0
    stage.mesh.add(1, YES)
    assert stage.look() is Reachability.UNKNOWN
    assert not stage.mesh.asked


def test_one_figure_is_one() -> None:
    stage = Stage()
    stage.mesh.add(1, NO)
    stage.look()
    shown = {figure.labels: figure.value for figure in stage.reachable.figures()}
    assert shown == {("unknown",): 0, ("public",): 0, ("private",): 1, ("relayed",): 0}


def test_who_cannot_be_dialled_and_has_a_relay_is_relayed_until_it_has_none() -> None:
    stage = Stage(RelayingMesh)
    relay = "/ip4/9.1.0.1/tcp/4001/p2p/relay"
    assert isinstance(stage.mesh, RelayingMesh)
    stage.mesh.add(1, NO)
    stage.mesh.offers[bytes([1]) * 32] = relay
    assert stage.look() is Reachability.RELAYED
    assert stage.mesh.relayed_at == (f"{relay}/p2p-circuit",)
    view = stage.reachable.view()
    assert (view.addresses, view.reached, view.asked) == ((relay,), 0, 1)
    shown = {figure.labels[0]: figure.value for figure in stage.reachable.figures()}
    assert shown == {"unknown": 0, "public": 0, "private": 0, "relayed": 1}
    stage.mesh.offers.clear()
    assert stage.look() is Reachability.PRIVATE
    assert not stage.mesh.relayed_at
    assert [fields["state"] for _, fields in stage.told] == ["relayed", "private"]


def test_who_sees_us_by_way_of_a_relay_is_not_asked() -> None:
    stage = Stage()
    stage.mesh.add(1, YES, host="/ip4/9.1.0.1/tcp/4001/p2p/relay/p2p-circuit")
    assert stage.look() is Reachability.UNKNOWN
    assert not stage.mesh.asked
