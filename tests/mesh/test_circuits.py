"""Two meshes that have only a relay in common: what they do by way of it, and what ends it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
import trio

from demo_node.mesh import bounds
from demo_node.mesh.circuit import CircuitStream
from demo_node.mesh.dial_back import find_remote
from demo_node.mesh.peer_id import encode_peer_id
from demo_node.mesh.relaying import Rates
from demo_node.mesh.yamux import PatientYamux
from demo_node.ports import Offence, PeerView, Topic, Unreachable
from tests.mesh.hosts import Host, hosts, link, on_uvloop
from tests.mesh.test_blob import hold, pull
from tests.waiting import wait_until


def by_way_of(relay: Host, to: Host) -> str:
    return f"{relay.address}/p2p-circuit/p2p/{encode_peer_id(to.mesh.peer)}"


def view_of(host: Host, other: Host) -> PeerView | None:
    return next((v for v in host.mesh.peers() if v.peer == other.mesh.peer), None)


def is_linked(host: Host, other: Host) -> bool:
    return view_of(host, other) is not None


async def reserve(host: Host, relay: Host) -> float:
    await wait_until(lambda: relay.mesh.peer in host.mesh.relays())
    return await host.mesh.reserve(relay.mesh.peer)


def circuits(host: Host) -> list[CircuitStream]:
    found = [c for c in host.mesh._tcp.circuits if isinstance(c, CircuitStream)]
    assert len(found) == len(host.mesh._tcp.circuits)
    return found


@contextlib.asynccontextmanager
async def relayed(swarm_key: bytes = b"") -> AsyncIterator[list[Host]]:
    """A relay, and two that are connected by way of it alone."""
    async with hosts(3, relays=1, swarm_key=swarm_key) as made:
        relay, a, b = made
        await link((a, relay), (b, relay))
        await reserve(b, relay)
        await a.mesh.connect(by_way_of(relay, b))
        await wait_until(lambda: is_linked(b, a))
        yield made


@pytest.mark.parametrize("swarm_key", [b"", bytes(32)], ids=["open", "private"])
def test_payloads_and_gossip_pass_by_way_of_a_relay(swarm_key: bytes) -> None:
    @on_uvloop
    async def run() -> None:
        async with relayed(swarm_key) as (relay, a, b):
            key = hold(b, 3 << 20)
            raw = await pull(a, b, key, bytes_max=4 << 20)
            assert raw == b.held[key]
            other = hold(a, 1 << 20)  # the other way, on the same circuit
            assert await pull(b, a, other) == a.held[other]
            assert relay.asked == []
            assert relay.mesh._relay is not None
            assert relay.mesh._relay.bytes > 4 << 20
            await wait_until(lambda: a.mesh.mesh_peers(Topic.HEADERS) == 2)
            for host, there in ((a, b), (b, a)):
                view = view_of(host, there)
                assert view is not None
                assert "/p2p-circuit/p2p/" in view.address
                assert view.address.startswith(relay.address)

    run()


@on_uvloop
async def test_a_relay_cannot_read_what_it_carries() -> None:
    async with relayed() as (_, a, b):
        body = b"as plain as can be " * 4096
        b.held[key := bytes(32)] = body
        [circuit] = circuits(a)
        read, carried = circuit._circuit.read, bytearray()

        async def listen(n: int | None = None) -> bytes:
            carried.extend(piece := await read(n))
            return piece

        circuit._circuit.read = listen  # type: ignore[method-assign]
        assert await pull(a, b, key) == body
        assert len(carried) > len(body) - bounds.READ_AHEAD_BYTES
        assert b"as plain" not in carried


@on_uvloop
async def test_a_peer_is_at_no_address_of_the_relay() -> None:
    """What a relayed peer does is held against its key; the relay's address stays clean."""
    async with relayed() as (relay, a, b):
        for host in (a, b):
            [circuit] = circuits(host)
            assert circuit._remote is None
            assert circuit.inbound_host == ""
        inside = b.mesh._tcp.gate.inside.total()
        circuits(b)[0].blame_host(Offence.GARBAGE)
        assert b.mesh.counters().offences == {}
        peer_id = a.mesh._host.get_id()
        assert find_remote(b.mesh._swarm.get_connections(peer_id), 4001) == ""
        assert await b.mesh.dial_back(a.mesh.peer, 4001) is None
        b.mesh.ban(a.mesh.peer, 60)
        await wait_until(lambda: not is_linked(b, a))
        assert [ban.address for ban in b.mesh.bans()] == [""]
        assert is_linked(b, relay)
        assert b.mesh._tcp.gate.inside.total() == inside
        with pytest.raises(Unreachable):
            await a.mesh.connect(by_way_of(relay, b))


@on_uvloop
async def test_a_frozen_peer_behind_a_relay_is_dropped() -> None:
    async with relayed() as (relay, a, b):
        [circuit] = circuits(a)
        circuit._circuit.read = never  # type: ignore[assignment, method-assign]
        circuit._circuit.write = swallow  # type: ignore[method-assign]
        await wait_until(lambda: not is_linked(b, a), 30)
        assert is_linked(b, relay)


async def swallow(data: bytes) -> None:
    await trio.lowlevel.checkpoint()


async def never(*_: object) -> bytes:
    await trio.sleep_forever()
    raise AssertionError


@on_uvloop
async def test_a_circuit_that_ends_in_the_middle_of_a_frame_leaves_the_relays_connection() -> None:
    """Half a frame of a cancelled writer would end it, at either end or at the relay."""
    async with relayed() as (relay, a, b):
        carried = relay.mesh._relay
        assert carried is not None
        carried._connects = Rates(1e6, 1e6)
        below = [circuits(host)[0]._below for host in (a, b)]
        b.held[key := bytes(32)] = bytes(8 << 20)
        for turn in range(12):
            if turn:
                await a.mesh.connect(by_way_of(relay, b))
            begin = carried.bytes
            pulling = asyncio.create_task(pull(a, b, key, bytes_max=8 << 20))
            await wait_until(lambda begin=begin: carried.bytes > begin + (1 << 19))  # type: ignore[misc]
            circuits((a, b)[turn % 2])[0].abort()
            with pytest.raises(Unreachable):
                await pulling
            await wait_until(lambda: not is_linked(a, b) and not is_linked(b, a))
        assert below == [next(iter(host.mesh._tcp.open)) for host in (a, b)]


@on_uvloop
async def test_a_direct_connection_takes_the_place_of_the_circuit() -> None:
    async with relayed() as (relay, a, b):
        assert relay.mesh._relay is not None
        await a.mesh.connect(b.address)
        await wait_until(lambda: not circuits(a) and not circuits(b))
        await wait_until(lambda: relay.mesh._relay is not None and relay.mesh._relay.circuits == 0)
        view = view_of(a, b)
        assert view is not None
        assert "/p2p-circuit" not in view.address
        key = hold(b, 1 << 16)
        assert await pull(a, b, key) == b.held[key]
        await a.mesh.connect(by_way_of(relay, b))  # they are connected: nothing is dialled
        assert not circuits(a)
        await wait_until(lambda: a.mesh.mesh_peers(Topic.HEADERS) == 2)
        await b.mesh.publish(Topic.HEADERS, b"still heard")
        await wait_until(lambda: b"still heard" in a.messages())


@on_uvloop
async def test_without_a_reservation_or_a_relay_nobody_is_brought() -> None:
    async with hosts(4, relays=1) as (relay, a, b, plain):
        await link((a, relay), (b, relay), (a, plain), (b, plain))
        with pytest.raises(Unreachable):
            await a.mesh.connect(by_way_of(relay, b))  # b reserved nothing
        with pytest.raises(Unreachable):
            await a.mesh.connect(by_way_of(plain, b))
        with pytest.raises(Unreachable):
            await b.mesh.reserve(plain.mesh.peer)
        with pytest.raises(Unreachable, match="itself"):
            await relay.mesh.connect(by_way_of(relay, b))
        assert plain.mesh.peer not in b.mesh.relays()
        await reserve(b, relay)
        b.mesh.release(relay.mesh.peer)  # the relay still thinks so
        with pytest.raises(Unreachable):
            await a.mesh.connect(by_way_of(relay, b))
        assert not is_linked(b, a)


@on_uvloop
async def test_the_end_of_the_relay_ends_the_circuit_and_no_mesh() -> None:
    async with relayed() as (relay, a, b):
        ended = [asyncio.create_task(host.mesh.wait()) for host in (a, b)]
        relay.mesh._tcp.abort()
        await wait_until(lambda: not is_linked(a, b) and not is_linked(b, a))
        assert not circuits(a)
        assert not circuits(b)
        await link((a, b))
        assert not any(task.done() for task in ended)
        for task in ended:
            task.cancel()


@on_uvloop
async def test_the_connection_below_a_circuit_is_the_relays() -> None:
    async with relayed() as (relay, a, b):
        [circuit] = circuits(a)
        [below] = a.mesh._swarm.get_connections(relay.mesh._host.get_id())
        muxed = getattr(below, "muxed_conn", None)
        assert isinstance(muxed, PatientYamux)
        assert circuit._below is muxed.socket
        before = a.mesh._tcp.bytes_in
        key = hold(b, 1 << 20)
        await pull(a, b, key)
        come = a.mesh._tcp.bytes_in - before
        assert 1 << 20 < come < 1.3 * (1 << 20)  # counted once, by the socket
