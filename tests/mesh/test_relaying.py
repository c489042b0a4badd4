"""What a relay does for whom, each bound at its limit."""

import contextlib
from collections.abc import AsyncIterator

import pytest
import trio
from libp2p.peer.id import ID
from libp2p.relay.circuit_v2.pb.circuit_pb2 import HopMessage, PeerId
from libp2p.relay.circuit_v2.utils import read_delimited_msg, write_delimited_msg

from demo_node.mesh import bounds
from demo_node.mesh.relaying import HOP, Rates, Relay
from demo_node.ports import Unreachable
from tests.mesh.hosts import Host, hosts, link, on_uvloop
from tests.mesh.test_blob import hold, pull
from tests.mesh.test_circuits import by_way_of, circuits, is_linked, reserve, swallow
from tests.waiting import wait_until


@contextlib.asynccontextmanager
async def around(count: int) -> AsyncIterator[tuple[Host, Relay, list[Host]]]:
    """A relay and so many that are connected with it alone."""
    async with hosts(1 + count, relays=1) as (relay, *others):
        await link(*((other, relay) for other in others))
        assert relay.mesh._relay is not None
        yield relay, relay.mesh._relay, others


async def expect_refused(dialling: Host, relay: Host, to: Host) -> None:
    with pytest.raises(Unreachable):
        await dialling.mesh.connect(by_way_of(relay, to))


@on_uvloop
async def test_one_reservation_more_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "RESERVATIONS_MAX", 2)
    async with around(3) as (relay, carried, (a, b, c)):
        for host in (a, b, a):  # again is the same one
            assert await reserve(host, relay) == pytest.approx(bounds.RESERVATION_S, abs=5)
        with pytest.raises(Unreachable, match="no room"):
            await reserve(c, relay)
        assert (carried.count_reservations(), carried.refused) == (2, 1)
        a.mesh._tcp.abort()  # with its connection ends its reservation
        await wait_until(lambda: carried.count_reservations() == 1)
        await reserve(c, relay)
        assert carried.count_reservations() == 2


@on_uvloop
async def test_one_circuit_more_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "CIRCUITS_MAX", 1)
    async with around(4) as (relay, carried, (a, b, c, d)):
        await reserve(b, relay)
        await reserve(d, relay)
        await a.mesh.connect(by_way_of(relay, b))
        assert carried.circuits == 1
        await expect_refused(c, relay, d)
        circuits(a)[0].abort()
        await wait_until(lambda: carried.circuits == 0)
        await c.mesh.connect(by_way_of(relay, d))


@pytest.mark.parametrize("end", ["that dials", "that is dialled"])
def test_one_circuit_more_than_there_is_for_one_peer(
    monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    monkeypatch.setattr(bounds, "CIRCUITS_PER_PEER_MAX", 1)

    @on_uvloop
    async def run() -> None:
        async with around(4) as (relay, carried, (a, b, c, d)):
            for host in (b, d):
                await reserve(host, relay)
            await a.mesh.connect(by_way_of(relay, b))
            if end == "that dials":
                await expect_refused(a, relay, d)
            else:
                await expect_refused(c, relay, b)
            await c.mesh.connect(by_way_of(relay, d))
            assert carried.circuits == 2

    run()


@on_uvloop
async def test_a_circuit_ends_with_the_last_byte_it_may_carry(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bounds, "CIRCUIT_BYTES_MAX", 1 << 20)
    async with around(2) as (relay, carried, (a, b)):
        await reserve(b, relay)
        await a.mesh.connect(by_way_of(relay, b))
        small, large = hold(b, 1 << 18), hold(b, 3 << 20)
        assert await pull(a, b, small) == b.held[small]
        with pytest.raises(Unreachable):
            await pull(a, b, large, bytes_max=4 << 20)
        assert carried.bytes <= 1 << 20
        await wait_until(lambda: not is_linked(a, b) and not is_linked(b, a))
        assert carried.circuits == 0
        await a.mesh.connect(by_way_of(relay, b))  # another one
        assert await pull(a, b, small) == b.held[small]


@on_uvloop
async def test_a_circuit_ends_when_its_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the clock, whether anything comes or not."""
    monkeypatch.setattr(bounds, "CIRCUIT_S", 1.5)
    async with around(2) as (relay, carried, (a, b)):
        await reserve(b, relay)
        begin_s = await a.mesh._guest.call(now_s)
        with contextlib.suppress(Unreachable):  # on a busy machine it is over in the handshake
            await a.mesh.connect(by_way_of(relay, b))
        await wait_until(lambda: carried.circuits == 0)
        assert carried.bytes > 0
        assert await a.mesh._guest.call(now_s) - begin_s >= 1.5
        await wait_until(lambda: not is_linked(a, b) and not is_linked(b, a))
        assert is_linked(a, relay)


@on_uvloop
async def test_a_circuit_ends_when_nothing_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HEALTH_SILENT_MAX", "HEALTH_STUCK_MAX"):  # its ends do not mind
        monkeypatch.setattr(bounds, name, 1000)
    async with around(2) as (relay, carried, (a, b)):
        await reserve(b, relay)
        await a.mesh.connect(by_way_of(relay, b))
        monkeypatch.setattr(bounds, "CIRCUIT_IDLE_S", 2.5)  # its ends ping every second
        key = hold(b, 1 << 16)
        assert await pull(a, b, key) == b.held[key]
        for host in (a, b):
            circuits(host)[0]._circuit.write = swallow  # type: ignore[method-assign]
        await wait_until(lambda: carried.circuits == 0)
        await wait_until(lambda: not is_linked(a, b) and not is_linked(b, a))
        assert is_linked(a, relay)


async def now_s() -> float:
    return trio.current_time()


@on_uvloop
async def test_the_end_of_one_circuit_leaves_the_peers_others_alone() -> None:
    """The library's closes whichever circuit of that peer was made last."""
    async with around(3) as (relay, carried, (a, b, c)):
        await reserve(b, relay)
        await a.mesh.connect(by_way_of(relay, b))
        await c.mesh.connect(by_way_of(relay, b))
        circuits(a)[0].abort()
        await wait_until(lambda: carried.circuits == 1)
        key = hold(b, 1 << 16)
        assert await pull(c, b, key) == b.held[key]
        assert not is_linked(a, b)


@on_uvloop
async def test_who_is_no_member_gets_neither_a_reservation_nor_a_circuit() -> None:
    async with around(3) as (relay, carried, (a, b, c)):
        relay.mesh.carries = lambda peer: peer in (b.mesh.peer, c.mesh.peer)
        with pytest.raises(Unreachable):
            await reserve(a, relay)
        await reserve(b, relay)
        await expect_refused(a, relay, b)
        await c.mesh.connect(by_way_of(relay, b))
        relay.mesh.carries = lambda peer: peer == a.mesh.peer  # b is none any more
        await expect_refused(a, relay, b)
        assert carried.refused == 3


@on_uvloop
async def test_a_node_that_nobody_can_dial_is_no_relay() -> None:
    async with hosts(3, relays=2) as (relay, hidden, a):
        await link((hidden, relay), (a, hidden))
        await reserve(hidden, relay)
        with pytest.raises(Unreachable, match="no room"):
            await reserve(a, hidden)


@on_uvloop
async def test_nobody_reserves_for_another() -> None:
    async with around(2) as (relay, carried, (a, b)):

        async def lie() -> HopMessage:
            stream = await a.mesh._host.new_stream(relay.mesh._host.get_id(), [HOP])
            other = PeerId(id=b.mesh._host.get_id().to_bytes())
            await write_delimited_msg(stream, HopMessage(type=HopMessage.RESERVE, peer=other))
            return await read_delimited_msg(stream, HopMessage)

        assert (await a.mesh._guest.call(lie)).status == 100
        manager = carried.resource_manager
        assert manager.has_reservation(a.mesh._host.get_id())
        assert not manager.has_reservation(b.mesh._host.get_id())


@pytest.mark.parametrize("raw", [b"", b"\xff" * 32, b"\x03\xff\xff\xff", b"\x02\x08\x02"])
def test_garbage_for_a_request_ends_its_stream_alone(raw: bytes) -> None:
    @on_uvloop
    async def run() -> None:
        async with around(2) as (relay, carried, (a, b)):

            async def say() -> None:
                stream = await a.mesh._host.new_stream(relay.mesh._host.get_id(), [HOP])
                await stream.write(raw)
                await stream.close()
                with contextlib.suppress(Exception):
                    while await stream.read(1024):
                        pass

            await a.mesh._guest.call(say)
            await reserve(b, relay)
            await a.mesh.connect(by_way_of(relay, b))
            assert carried.circuits == 1

    run()


@on_uvloop
async def test_who_reserves_too_often_is_refused_and_others_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bounds, "RESERVES_BURST", 2 * bounds.ASKING_PEERS_PART)
    monkeypatch.setattr(bounds, "RESERVES_PER_S", 1e-6)
    async with around(2) as (relay, carried, (a, b)):
        for _ in range(3):  # one overdrawn
            await reserve(a, relay)
        with pytest.raises(Unreachable, match="no room"):
            await reserve(a, relay)
        assert carried.refused == 1
        await reserve(b, relay)


@on_uvloop
async def test_who_asks_for_circuits_too_often_is_refused_and_others_are_not() -> None:
    async with around(3) as (relay, carried, (a, b, c)):
        carried._connects = Rates(bounds.ASKING_PEERS_PART, 1e-6)  # of each one, and one overdrawn
        for _ in range(2):
            await expect_refused(a, relay, b)  # b has reserved nothing
        await reserve(b, relay)
        await expect_refused(a, relay, b)
        await c.mesh.connect(by_way_of(relay, b))


@on_uvloop
async def test_a_node_takes_no_more_circuits_than_it_may_hold(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bounds, "CIRCUITS_MAX", 1)  # each relay carries one
    async with hosts(5, relays=2) as (relay, other, a, b, c):
        await link((a, relay), (b, relay), (b, other), (c, other))
        await reserve(b, relay)
        await reserve(b, other)
        await a.mesh.connect(by_way_of(relay, b))
        await wait_until(lambda: is_linked(b, a))
        await expect_refused(c, other, b)
        circuits(a)[0].abort()
        await wait_until(lambda: not is_linked(b, a))
        await c.mesh.connect(by_way_of(other, b))


def test_one_peer_has_a_part_of_what_all_may_ask() -> None:
    rates = Rates(burst=16, rate=8)  # of each peer 2, and 1 a second
    first, *others = [ID(bytes([n])) for n in range(100)]
    assert [rates.take(first, 0) for _ in range(5)] == [True, True, True, False, False]
    assert not rates.take(first, 0.5)
    assert rates.take(first, 1.5)
    granted = sum(rates.take(other, 1.5) for other in others for _ in range(3))
    assert granted <= 17  # all together have their bound, too
    assert rates.take(first, 100)
