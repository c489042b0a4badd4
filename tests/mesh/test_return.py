"""Peers that go and come back: killed, cut off without a goodbye, twice with one key."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

import pytest

from demo_node.mesh import bounds
from demo_node.mesh.blob import PROTOCOL
from demo_node.mesh.guest import Guest
from demo_node.mesh.libp2p import Libp2pMesh
from demo_node.mesh.peer_id import encode_peer_id
from demo_node.ports import Blob, BlobRequest, Topic, Unreachable
from tests.mesh.hosts import Host, free_port, hosts, link, on_uvloop, seed
from tests.waiting import wait_until

BACK_S = 10.0
"""For gossip to flow again; below 2 s on a quiet machine, and the library's memory is 60 s."""


@contextlib.asynccontextmanager
async def host(guest: Guest, number: int, port: int = 0) -> AsyncIterator[Host]:
    """A mesh with the key of `number`, joined. At the end its sockets are closed, nothing else."""
    made = Host(Libp2pMesh(seed(number), [f"/ip4/127.0.0.1/tcp/{port}"], guest=guest))
    await made.mesh.start()
    try:
        await made.join()
        yield made
    finally:
        await made.mesh.stop()


async def heard_both_ways(a: Host, b: Host) -> None:
    """Publish once on each side; fail unless each hears the other soon."""
    ready = time.monotonic()
    await wait_until(lambda: all(h.mesh.mesh_peers(t) for h in (a, b) for t in Topic), BACK_S)
    words = [f"{name} {ready}".encode() for name in ("from a", "from b")]
    await a.mesh.publish(Topic.HEADERS, words[0])
    await b.mesh.publish(Topic.HEADERS, words[1])
    await wait_until(lambda: words[0] in b.messages() and words[1] in a.messages(), BACK_S)


class Wire:
    """A way to a port that can go dead: nothing passes any more, and nobody is told."""

    def __init__(self, port: int) -> None:
        self.dead = False
        self._to = port
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: list[asyncio.Task[None]] = []

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[int]:
        """The port at this end."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            for writer in self._writers:
                writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._to)
        self._writers += [writer, back]
        for source, sink in ((reader, back), (there, writer)):
            self._tasks.append(asyncio.create_task(self._carry(source, sink)))

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while (piece := await source.read(1 << 16)) and not self.dead:
            sink.write(piece)
        await asyncio.Event().wait()  # neither the data nor the end of it goes on


@pytest.mark.parametrize("who_dials", ["the one that stayed", "the one that returns"])
@on_uvloop
async def test_a_killed_peer_that_returns_is_dialled_and_heard_at_once(who_dials: str) -> None:
    port = free_port()
    async with hosts(1) as (a,):
        guest = a.mesh._guest
        async with host(guest, 9, port) as b:
            address = b.address
            await link((a, b))
        await wait_until(lambda: not a.mesh.peers())
        for _ in range(3):
            with pytest.raises(Unreachable, match="refused"):
                await a.mesh.connect(address)
        async with host(guest, 9, port) as again:
            if who_dials == "the one that stayed":
                await a.mesh.connect(address)
            else:
                await again.mesh.connect(a.address)
            await heard_both_ways(a, again)


@on_uvloop
async def test_a_peer_may_restart_many_times_and_every_message_is_heard() -> None:
    """Its numbers must not be those of an earlier life: they would count as seen."""
    async with hosts(1) as (a,):
        for life in range(4):
            async with host(a.mesh._guest, 9) as b:
                await link((b, a))
                for i in range(20):  # more than one a second
                    await b.mesh.publish(Topic.HEADERS, bytes([life, i]))
                await wait_until(lambda life=life: len(a.heard) == 20 * (life + 1))  # type: ignore[misc]
            await wait_until(lambda: not a.mesh.peers())


@pytest.mark.parametrize("dialled", ["in", "out"])
@on_uvloop
async def test_a_connection_that_died_in_silence_makes_way_for_a_new_one(dialled: str) -> None:
    """Trap 40: power lost, cable pulled, address changed: no FIN. And the peer is back soon."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bounds, "HEALTH_INTERVAL_S", 60)  # not the monitor: the newcomer shows it
        patch.setattr(bounds, "PROBE_S", 0.5)
        async with hosts(1) as (a,), contextlib.AsyncExitStack() as stack:
            guest = a.mesh._guest
            b = await stack.enter_async_context(host(guest, 9))
            wire = Wire(_port(b if dialled == "out" else a))
            way = await stack.enter_async_context(wire.open())
            if dialled == "out":
                await a.mesh.connect(_at(way, b))
            else:
                await b.mesh.connect(_at(way, a))
            await heard_both_ways(a, b)
            wire.dead = True
            async with host(guest, 9) as again:
                await again.mesh.connect(a.address)
                assert len(a.mesh._swarm.get_connections(again.mesh._host.get_id())) == 2
                await heard_both_ways(a, again)
                await wait_until(lambda: _connections(a, again) == 1)
                await heard_both_ways(a, again)


@on_uvloop
async def test_two_that_dial_each_other_at_once_end_with_one_connection() -> None:
    async with hosts(2) as (a, b):
        for _ in range(3):
            await asyncio.gather(_dial_anyway(a, b), _dial_anyway(b, a))
            await wait_until(lambda: _connections(a, b) == _connections(b, a) == 1)
            await wait_until(lambda: _gossips_over_a_live_connection(a, b))
            await wait_until(lambda: _gossips_over_a_live_connection(b, a))
            await heard_both_ways(a, b)
            for c in a.mesh._swarm.get_connections(b.mesh._host.get_id()):
                await a.mesh._guest.call(c.close)
            await wait_until(lambda: not a.mesh.peers() and not b.mesh.peers())


@on_uvloop
async def test_a_request_outlives_its_connection_where_the_peer_has_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of two that cross one is closed, when somebody may just have asked by it."""
    monkeypatch.setattr(bounds, "CROSSING_S", 0.0)  # both stay until the first is asked by
    times = 0

    async def answer(peer: bytes, request: BlobRequest) -> bytes:
        nonlocal times
        times += 1
        if request.key == b"gone" or times == 1:
            await a.mesh._guest.call(_close_asked, a, b)
        return request.key

    async def pull(key: bytes) -> bytes:
        request = BlobRequest(Blob.PAYLOAD, key)
        return await b.mesh.request(a.mesh.peer, request, bytes_max=9, timeout_s=20)

    async with hosts(2, join=False) as (a, b):
        a.on_blob = answer
        for each in (a, b):
            await each.join()
        await asyncio.gather(_dial_anyway(a, b), _dial_anyway(b, a))
        await wait_until(lambda: _connections(a, b) == _connections(b, a) == 2)
        assert await pull(b"here") == b"here"
        assert times == 2
        with pytest.raises(Unreachable, match="broke off"):  # and not with its last one
            await pull(b"gone")
        assert times == 3


@on_uvloop
async def test_two_with_one_key_hear_each_other_and_everybody_else() -> None:
    """Trap 41: the library sends gossip to one of them only, and none to an author."""
    async with hosts(2) as (a, b):
        await link((a, b))
        async with host(a.mesh._guest, 1) as twin:
            assert twin.mesh.peer == a.mesh.peer
            await twin.mesh.connect(b.address)
            await wait_until(lambda: twin.mesh.mesh_peers(Topic.HEADERS))
            await twin.mesh.publish(Topic.HEADERS, b"from the twin")
            await wait_until(lambda: b"from the twin" in a.messages(), BACK_S)
            await a.mesh.publish(Topic.HEADERS, b"from the first")
            await wait_until(lambda: b"from the first" in twin.messages(), BACK_S)
            await b.mesh.publish(Topic.HEADERS, b"from another")
            await wait_until(
                lambda: b"from another" in a.messages() and b"from another" in twin.messages()
            )
            assert a.messages() == [b"from the twin", b"from another"]  # nothing of its own
            assert sorted(b.messages()) == [b"from the first", b"from the twin"]
        await wait_until(lambda: _connections(b, a) == 1)
        await heard_both_ways(a, b)


@on_uvloop
async def test_two_with_one_key_hear_each_other_through_peers_of_peers() -> None:
    async with hosts(3) as (a, b, c):
        await link((a, b), (b, c))
        async with host(a.mesh._guest, 1) as twin:
            await twin.mesh.connect(c.address)
            await wait_until(lambda: twin.mesh.mesh_peers(Topic.HEADERS))
            await twin.mesh.publish(Topic.HEADERS, b"from the twin")
            await wait_until(lambda: b"from the twin" in a.messages(), BACK_S)
            await a.mesh.publish(Topic.HEADERS, b"from the first")
            await wait_until(lambda: b"from the first" in twin.messages(), BACK_S)


@on_uvloop
async def test_the_first_of_two_with_one_key_is_as_before_when_the_second_has_gone() -> None:
    async with hosts(2) as (a, b):
        async with host(a.mesh._guest, 1) as twin:  # here the copy came first
            await twin.mesh.connect(b.address)
            await heard_both_ways(twin, b)
            await a.mesh.connect(b.address)
            await heard_both_ways(a, b)
        await wait_until(lambda: _connections(b, a) == 1)
        await heard_both_ways(a, b)


def _connections(host: Host, peer: Host) -> int:
    return len(host.mesh._swarm.get_connections(peer.mesh._host.get_id()))


def _gossips_over_a_live_connection(host: Host, peer: Host) -> bool:
    stream = host.mesh._gossip.pubsub.peers.get(peer.mesh._host.get_id())
    return stream is not None and not stream.muxed_conn.is_closed


def _port(host: Host) -> int:
    return int(host.address.split("/")[4])


def _at(port: int, host: Host) -> str:
    return f"/ip4/127.0.0.1/tcp/{port}/p2p/{encode_peer_id(host.mesh.peer)}"


async def _close_asked(host: Host, peer: Host) -> None:
    """End the connection by which a request of the peer has come."""
    for connection in host.mesh._swarm.get_connections(peer.mesh._host.get_id()):
        if any(s.get_protocol() == PROTOCOL for s in connection.get_streams()):
            await connection.close()


async def _dial_anyway(host: Host, peer: Host) -> None:
    """Dial as if the other's dial had not come yet: what one look earlier would have done."""
    with pytest.MonkeyPatch.context() as patch:
        never: Callable[..., bool] = lambda peer_id, *, or_relayed=True: False  # noqa: E731
        patch.setattr(host.mesh, "_is_connected", never)
        await host.mesh.connect(peer.address)
