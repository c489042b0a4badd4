"""What peers may do on streams of p2pd; here each is a socket pair, and no p2pd is there."""

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from demo_node.mesh import bounds
from demo_node.mesh.blob_frames import encode_request
from demo_node.mesh.bounds import (
    BLOB_STREAMS_PER_PEER_MAX,
    BULK_SERVED_PER_PEER_MAX,
    TOPIC_BYTES_MAX,
)
from demo_node.mesh.hivemind import links
from demo_node.mesh.hivemind.blobs import Blobs
from demo_node.mesh.hivemind.links import FRAME_BYTES_MAX, JOIN, PING, PLACES, TOPICS, Links
from demo_node.mesh.hivemind.pacing import Pacer
from demo_node.mesh.hivemind.streams import Meter
from demo_node.ports import Blob, BlobRequest, Offence, PeerChange, Topic
from tests.mesh.hosts import RUN, on_uvloop
from tests.waiting import wait_until

PEER, OTHER = bytes([1]) * 32, bytes([2]) * 32
FRAMES = 3000


@dataclass
class Node:
    """The links of a node that has joined RUN, and what went wrong in it."""

    heard: list[tuple[Topic, bytes, bytes]] = field(default_factory=list)
    dropped: list[bytes] = field(default_factory=list)
    offences: list[tuple[bytes, Offence]] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)
    socks: list[socket.socket] = field(default_factory=list)
    """The peers' ends."""

    def __post_init__(self) -> None:
        self.meter = Meter(Pacer())
        self.links = Links(
            self.meter,
            list,
            self.dropped.append,
            lambda *offence: self.offences.append(offence),
            self.failures.append,
        )
        self.blobs = Blobs(_open_nothing, self.meter, self.failures.append)

    def on_gossip(self, topic: Topic, peer: bytes, message: bytes) -> bool:
        self.heard.append((topic, peer, message))
        return True

    def link(self, peer: bytes) -> socket.socket:
        """The peer's end of a new link."""
        ours, theirs = socket.socketpair()
        self.links.take(peer, "/ip4/192.0.2.1/tcp/1", ours.detach(), outbound=False)
        theirs.setblocking(False)
        self.socks.append(theirs)
        return theirs


@contextlib.asynccontextmanager
async def joined() -> AsyncIterator[Node]:
    node = Node()
    node.links.join(RUN, node.on_gossip)
    try:
        yield node
    finally:
        await node.links.stop()
        await node.blobs.stop()
        for sock in node.socks:
            sock.close()
        assert not node.failures


async def _open_nothing(peer: bytes, protocol: str, timeout_s: float) -> int:
    raise AssertionError


def frame(kind: int, content: bytes = b"") -> bytes:
    return (1 + len(content)).to_bytes(4) + bytes([kind]) + content


async def send(sock: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):
        await asyncio.get_running_loop().sock_sendall(sock, data)


async def is_ended(sock: socket.socket) -> bool:
    """Does the node close it?"""
    with contextlib.suppress(OSError):
        async with asyncio.timeout(20):
            while await asyncio.get_running_loop().sock_recv(sock, 1 << 16):
                pass
    return True


HELLO = frame(PLACES, b"/ip4/192.0.2.1/tcp/4001") + frame(JOIN, RUN)


@on_uvloop
async def test_a_peer_is_here_from_its_first_frame_to_its_last() -> None:
    async with joined() as node:
        sock = node.link(PEER)
        await asyncio.sleep(0.05)
        assert not node.links.is_connected(PEER)
        await send(sock, HELLO)
        await wait_until(lambda: node.links.is_connected(PEER))
        assert node.links.count_joined() == 1
        sock.close()
        await wait_until(lambda: not node.links.is_connected(PEER))
        assert node.links.changes == dict.fromkeys(PeerChange, 1)
        assert not node.meter.heard_s


@on_uvloop
async def test_only_messages_of_the_run_that_are_short_enough_and_new_are_heard() -> None:
    async with joined() as node:
        sock, other = node.link(PEER), node.link(OTHER)
        await send(other, frame(JOIN, bytes(32)) + frame(TOPICS, b"12345678not of the run"))
        await send(sock, frame(TOPICS, b"12345678before it said its run") + HELLO)
        too_long = bytes(TOPIC_BYTES_MAX[Topic.HEADERS] + 1)
        for content in (b"1234567", b"12345678" + too_long, b"12345678good", b"12345678good"):
            await send(sock, frame(TOPICS, content))
        await send(sock, frame(TOPICS + len(Topic), b"12345678no topic") + frame(99, b"?"))
        await send(sock, frame(TOPICS + 1, b"12345678last"))
        await wait_until(lambda: node.heard and node.heard[-1][-1] == b"last")
        topics = tuple(Topic)
        assert node.heard == [(topics[0], PEER, b"good"), (topics[1], PEER, b"last")]
        assert node.links.count_joined() == 1


@on_uvloop
async def test_of_a_flood_of_joins_a_part_is_taken_and_who_brings_it_is_blamed() -> None:
    membership = TOPICS + list(Topic).index(Topic.MEMBERSHIP)

    def join(number: int) -> bytes:
        return frame(membership, number.to_bytes(8) + number.to_bytes(2))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bounds, "JOINS_PER_S", 1e-3)
        patch.setattr(bounds, "JOINS_BURST", 8)
        patch.setattr(bounds, "JOINS_BEYOND", 4)
        async with joined() as node:
            evil, other = node.link(PEER), node.link(OTHER)
            await send(evil, HELLO + b"".join(map(join, range(13))))
            await wait_until(lambda: node.offences == [(PEER, Offence.FLOOD)])
            taken = [(Topic.MEMBERSHIP, PEER, n.to_bytes(2)) for n in range(9)]
            assert node.heard == taken
            # All together have as much as one, known ones cost nothing, and other topics go on.
            known = b"".join(map(join, range(9)))
            await send(other, HELLO + known + join(99) + frame(TOPICS, b"12345678goes on"))
            await wait_until(lambda: len(node.heard) > len(taken))
            assert node.heard == [*taken, (Topic.HEADERS, OTHER, b"goes on")]
            assert len(node.offences) == 1


@pytest.mark.parametrize("head", [bytes(4), (FRAME_BYTES_MAX + 1).to_bytes(4), b"\xff" * 4])
@on_uvloop
async def test_a_frame_without_measure_ends_the_link(head: bytes) -> None:
    async with joined() as node:
        sock = node.link(PEER)
        await send(sock, HELLO + head)
        assert await is_ended(sock)
        await wait_until(lambda: not node.links.is_connected(PEER))


@on_uvloop
async def test_garbage_harms_nobody_else() -> None:
    dice = random.Random(8)
    async with joined() as node:
        honest = node.link(OTHER)
        await send(honest, HELLO)
        for _ in range(FRAMES // 100):
            sock = node.link(PEER)
            good = b"".join(
                frame(dice.randrange(256), dice.randbytes(dice.randrange(64))) for _ in range(100)
            )
            await send(sock, good + dice.randbytes(dice.randrange(64)))
            sock.close()
        await send(honest, frame(TOPICS, b"12345678still here"))
        await wait_until(lambda: (Topic.HEADERS, OTHER, b"still here") in node.heard)
        await wait_until(lambda: not node.links.is_connected(PEER))


@on_uvloop
async def test_who_is_silent_is_dropped_who_pings_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "SILENT_S", 2.5)
    async with joined() as node:
        watching = asyncio.create_task(node.links.watch())
        frozen, alive = node.link(PEER), node.link(OTHER)
        await send(frozen, HELLO)
        await send(alive, HELLO)
        while not node.dropped:
            await send(alive, frame(PING))
            await asyncio.sleep(0.2)
        assert set(node.dropped) == {PEER}
        assert await is_ended(frozen)
        assert node.links.is_connected(OTHER)
        watching.cancel()


@on_uvloop
async def test_a_peer_has_three_links_at_most_and_the_newest_stay() -> None:
    async with joined() as node:
        socks = [node.link(PEER) for _ in range(5)]
        for sock in socks:
            await send(sock, HELLO)
        assert await is_ended(socks[0])
        assert await is_ended(socks[1])
        await asyncio.sleep(0.05)
        assert len(node.links._links[PEER]) == 3


@on_uvloop
async def test_what_a_peer_asks_for_is_bounded_and_garbage_is_hung_up_on() -> None:
    async with joined() as node:
        gate = asyncio.Event()

        async def on_blob(peer: bytes, request: BlobRequest) -> bytes | None:
            await gate.wait()
            return b"x"

        node.blobs.on_blob = on_blob

        def ask(request: bytes) -> socket.socket:
            ours, theirs = socket.socketpair()
            theirs.setblocking(False)
            node.socks.append(theirs)
            theirs.send(request)
            node.blobs.take(PEER, ours.detach())
            return theirs

        large, small = (
            encode_request(BlobRequest(Blob.PAYLOAD)),
            encode_request(BlobRequest(Blob.HEAD)),
        )
        asking = [ask(large) for _ in range(BULK_SERVED_PER_PEER_MAX)]
        await wait_until(lambda: node.blobs.serving() == BULK_SERVED_PER_PEER_MAX)
        assert await is_ended(ask(large))
        asking += [ask(small) for _ in range(BLOB_STREAMS_PER_PEER_MAX - len(asking))]
        await wait_until(lambda: node.blobs.serving() == BLOB_STREAMS_PER_PEER_MAX)
        assert await is_ended(ask(small))
        gate.set()
        for sock in asking:
            assert (await asyncio.get_running_loop().sock_recv(sock, 99))[:1] == b"\0"
            sock.close()
        await wait_until(lambda: not node.blobs.serving())
        for garbage in (b"\xff" * 8, (3).to_bytes(8) + b"\xff\xff\xff", b"GET / HTTP/1.1\r\n\r\n"):
            assert await is_ended(ask(garbage))
        await wait_until(lambda: not node.blobs.serving())
