"""What `ports.Mesh` promises, held against each mesh there is."""

import asyncio
import os
import time

import pytest

from demo_node.mesh.bounds import ANSWER_S, BULK_PULLS_PER_PEER_MAX, TOPIC_BYTES_MAX, TURN_S
from demo_node.ports import (
    Blob,
    BlobRequest,
    DialResult,
    Direction,
    NotHeld,
    PeerChange,
    PullResult,
    Topic,
    Unreachable,
    Use,
)
from demo_protocol.errors import LocalFault
from tests.mesh.contract.nodes import UP_S, Node, link, made
from tests.mesh.hosts import on_uvloop
from tests.waiting import wait_until

BACKENDS = ["memory", "libp2p", pytest.param("hivemind", marks=pytest.mark.swarm)]

every_mesh = pytest.mark.parametrize("backend", BACKENDS)

REQUEST = BlobRequest(Blob.PAYLOAD, b"key")


async def pull(node: Node, holder: Node, bytes_max: int = 1 << 24, timeout_s: float = 30) -> bytes:
    return await node.mesh.request(
        holder.mesh.peer, REQUEST, bytes_max=bytes_max, timeout_s=timeout_s
    )


@every_mesh
@on_uvloop
async def test_a_message_reaches_everybody_once_unless_somebody_on_the_way_refuses_it(
    backend: str,
) -> None:
    async with made(backend, 3) as (a, b, c):
        await asyncio.gather(*(node.join() for node in (a, b, c)))
        await link((a, b), (b, c))
        b.verdict = False
        await a.mesh.publish(Topic.HEADERS, b"refused")
        await wait_until(lambda: b.heard, UP_S)
        b.verdict = True
        for topic in Topic:
            await a.mesh.publish(topic, b"taken")
        await wait_until(lambda: len(b.heard) == 4 and len(c.heard) == 3, UP_S)
        assert b.heard[0] == (Topic.HEADERS, a.mesh.peer, b"refused")
        assert set(b.heard[1:]) == {(topic, a.mesh.peer, b"taken") for topic in Topic}
        assert set(c.heard) == {(topic, b.mesh.peer, b"taken") for topic in Topic}
        await link((a, c))
        for number in range(20):
            await c.mesh.publish(Topic.PROPOSALS, b"%d" % number)
        wanted = sorted(b"%d" % number for number in range(20))
        await wait_until(lambda: len(a.heard) >= 20 and len(b.heard) >= 24, UP_S)
        await asyncio.sleep(0.2)  # for what must not come: a second copy, by the other way
        assert sorted(message for *_, message in a.heard) == wanted
        assert sorted(message for *_, message in b.heard[4:]) == wanted
        # The author itself may tell c by now what b has refused to.
        assert [peer for _, peer, _ in c.heard if peer != a.mesh.peer] == [b.mesh.peer] * 3


@every_mesh
@on_uvloop
async def test_a_request_is_answered_or_says_why_not(backend: str) -> None:
    async with made(backend, 2) as (a, b):
        with pytest.raises(Unreachable):
            await pull(b, a)
        await a.join()
        assert await b.mesh.connect(a.address) == a.mesh.peer
        with pytest.raises(NotHeld):
            await pull(b, a)
        a.held[b"key"] = os.urandom(3_000_000)
        assert await pull(b, a, bytes_max=3_000_000) == a.held[b"key"]
        with pytest.raises(Unreachable):
            await pull(b, a, bytes_max=2_999_999)
        a.held[b"key"] = b""
        assert await pull(b, a, bytes_max=0) == b""
        a.held[b"key"] = bytes(10)
        found = await asyncio.gather(*(pull(b, a) for _ in range(100)))
        assert found == [bytes(10)] * 100
        with pytest.raises(NotHeld):  # who has not joined holds nothing
            await pull(a, b)
        a.stuck = asyncio.Event()
        begin_s = time.monotonic()
        with pytest.raises(Unreachable):
            await pull(b, a, timeout_s=0.5)
        assert 0.4 <= time.monotonic() - begin_s < 10
        waiting = asyncio.create_task(pull(b, a))
        await wait_until(lambda: a.mesh.serving(), UP_S)
        a.stuck.set()
        assert await waiting == bytes(10)
        await wait_until(lambda: not a.mesh.serving(), UP_S)
        pulls = b.mesh.counters().pulls
        assert pulls == {
            (Blob.PAYLOAD, PullResult.OK): 103,
            (Blob.PAYLOAD, PullResult.NOT_HELD): 1,
            (Blob.PAYLOAD, PullResult.UNREACHABLE): 3,
        }


@every_mesh
@on_uvloop
async def test_a_request_that_is_called_off_is_served_no_longer_and_counts_for_nothing(
    backend: str,
) -> None:
    """Neither while the holder looks for it nor while it waits for its turn."""
    async with made(backend, 2) as (a, b):
        await a.join()
        await b.mesh.connect(a.address)
        a.held[b"key"] = os.urandom(500_000)

        async def call_off(count: int) -> None:
            pulls = [asyncio.create_task(pull(b, a)) for _ in range(count)]
            await wait_until(lambda: a.mesh.serving() == count or backend == "memory", UP_S)
            await asyncio.sleep(0.2)  # until the look-up is over, where it is not stuck
            for each in pulls:
                each.cancel()
            await asyncio.wait(pulls)
            begin_s = time.monotonic()
            await wait_until(lambda: not a.mesh.serving(), UP_S)
            assert time.monotonic() - begin_s < 0.5 * min(TURN_S, ANSWER_S)

        a.stuck = asyncio.Event()
        await call_off(10)
        assert not a.answered
        a.stuck = None
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("demo_node.mesh.bounds.COPIES_AT_ONCE", 0)  # it is nobody's turn
            patch.setattr("demo_node.mesh.memory.COPIES_AT_ONCE", 0)
            await call_off(1)
        assert a.answered == [(b.mesh.peer, REQUEST, 0)]
        if backend != "memory":  # which keeps its line of nobody's turn
            assert await pull(b, a) == a.held[b"key"]
            assert a.answered[1:] == [(b.mesh.peer, REQUEST, 500_000)]


@every_mesh
@on_uvloop
async def test_what_is_small_does_not_wait_for_payloads(backend: str) -> None:
    """However many of them wait at that very peer."""
    async with made(backend, 2) as (a, b):
        await a.join()
        await b.mesh.connect(a.address)
        a.stuck = asyncio.Event()
        a.held[b"key"] = b"payload"
        a.held[b"now"] = b"time"
        pulls = [asyncio.create_task(pull(b, a)) for _ in range(40)]
        served = 40 if backend == "memory" else BULK_PULLS_PER_PEER_MAX
        await wait_until(lambda: a.mesh.serving() == served, UP_S)
        for kind in (Blob.TIME, Blob.HEADERS, Blob.PROPOSAL):
            request = BlobRequest(kind, b"now")
            given = await b.mesh.request(a.mesh.peer, request, bytes_max=9, timeout_s=10)
            assert given == b"time"
        await wait_until(lambda: a.mesh.serving() == served, UP_S)
        a.stuck.set()
        assert await asyncio.gather(*pulls) == [b"payload"] * 40


@every_mesh
@on_uvloop
async def test_who_misuses_it_is_told(backend: str) -> None:
    async with made(backend, 1) as (a,):
        with pytest.raises(LocalFault, match="no run"):
            await a.mesh.publish(Topic.HEADERS, b"")
        await a.join()
        with pytest.raises(LocalFault, match="joined before"):
            await a.join()
        for topic, bytes_max in TOPIC_BYTES_MAX.items():
            await a.mesh.publish(topic, bytes(bytes_max))
            with pytest.raises(LocalFault, match=f"{bytes_max + 1} bytes"):
                await a.mesh.publish(topic, bytes(bytes_max + 1))
        for address in (a.address, "/ip4/127.0.0.1/tcp/1", "nonsense"):
            with pytest.raises(Unreachable):
                await a.mesh.connect(address)
        assert not a.mesh.peers()


@every_mesh
@on_uvloop
async def test_who_comes_and_who_goes_is_seen_and_counted(backend: str) -> None:
    async with made(backend, 2) as (a, b):
        await asyncio.gather(a.join(), b.join())
        assert a.mesh.addresses()
        for _ in range(2):  # a second time is no second connection
            assert await b.mesh.connect(a.address) == a.mesh.peer
        await wait_until(lambda: a.mesh.peers(), UP_S)
        ((from_a,), (from_b,)) = (a.mesh.peers(), b.mesh.peers())
        assert (from_a.peer, from_a.outbound) == (b.mesh.peer, False)
        assert (from_b.peer, from_b.outbound) == (a.mesh.peer, True)
        assert from_b.address == a.address
        assert b.mesh.counters().changes[PeerChange.CONNECTED] == 1
        assert b.mesh.counters().dials[DialResult.CONNECTED] >= 1
        await a.stop()
        await wait_until(lambda: not b.mesh.peers(), UP_S)
        await wait_until(lambda: b.mesh.counters().changes[PeerChange.DISCONNECTED] == 1, UP_S)
        with pytest.raises(Unreachable):
            await pull(b, a)
        with pytest.raises(Unreachable):
            await b.mesh.connect(from_b.address)
        failed = {r: n for r, n in b.mesh.counters().dials.items() if r != DialResult.CONNECTED}
        assert sum(failed.values()) == 1


@every_mesh
@on_uvloop
async def test_every_byte_is_counted_once(backend: str) -> None:
    async with made(backend, 2) as (a, b):
        await asyncio.gather(a.join(), b.join())
        await link((a, b))
        a.held[b"key"] = os.urandom(500_000)
        await pull(b, a)
        await b.mesh.request(
            a.mesh.peer, BlobRequest(Blob.RECORDS, b"key"), bytes_max=1 << 20, timeout_s=30
        )
        for _ in range(20):
            await a.mesh.publish(Topic.PROPOSALS, os.urandom(1000))
        await wait_until(lambda: len(b.heard) == 20, UP_S)

        def adds_up(node: Node) -> bool:
            done = node.mesh.counters()
            sums = [sum(n for (d, _), n in done.traffic.items() if d is way) for way in Direction]
            return sums == [done.bytes_in, done.bytes_out]

        await wait_until(lambda: adds_up(a) and adds_up(b), UP_S)
        for node, way in ((a, Direction.OUT), (b, Direction.IN)):
            traffic = node.mesh.counters().traffic
            assert 500_000 <= traffic[way, Use.PAYLOAD] <= 520_000
            assert 500_000 <= traffic[way, Use.SYNC] <= 520_000
            assert traffic[way, Use.GOSSIP] >= 20_000
