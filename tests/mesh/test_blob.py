import asyncio
import hashlib
import os
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from libp2p.abc import INetStream
from libp2p.exceptions import BaseLibp2pError

from demo_node.mesh import bounds
from demo_node.mesh.blob import PROTOCOL
from demo_node.ports import Blob, BlobRequest, NotHeld, Unreachable
from demo_protocol.limits import KEY_BYTES_MAX, REQUEST_BYTES_MAX
from demo_protocol.pb import wire_pb2
from tests.mesh.hosts import Host, hosts, link, link_all, on_uvloop
from tests.waiting import wait_until

Raw = Callable[[INetStream], Awaitable[Any]]


def hold(host: Host, size: int) -> bytes:
    """Make the host hold random bytes; return their hash."""
    body = os.urandom(size)
    key = hashlib.sha256(body).digest()
    host.held[key] = body
    return key


async def pull(
    client: Host, server: Host, key: bytes, *, bytes_max: int = 1 << 20, timeout_s: float = 20
) -> bytes:
    return await client.mesh.request(
        server.mesh.peer,
        BlobRequest(Blob.PAYLOAD, key),
        bytes_max=bytes_max,
        timeout_s=timeout_s,
    )


async def talk(evil: Host, victim: Host, script: Raw) -> Any:
    """Let `script` speak on a raw stream of the blob protocol."""

    async def run() -> Any:
        stream = await evil.mesh._host.new_stream(victim.mesh._host.get_id(), [PROTOCOL])
        return await script(stream)

    return await evil.mesh._guest.call(run)


def answer_with(evil: Host, script: Raw) -> None:
    """Replace the server side of the blob protocol."""

    async def handle(stream: INetStream) -> None:
        await script(stream)

    evil.mesh._host.set_stream_handler(PROTOCOL, handle)


async def read_all(stream: INetStream) -> bytes:
    """Everything until the other side ends the stream, one way or the other."""
    out = b""
    try:
        with trio.fail_after(10):
            while piece := await stream.read(1 << 16):
                out += piece
    except BaseLibp2pError:
        pass
    return out


def frame(request: wire_pb2.BlobRequest) -> bytes:
    body = request.SerializeToString()
    return len(body).to_bytes(8) + body


@on_uvloop
async def test_four_hosts_pull_a_megabyte_from_each_other_at_once() -> None:
    async with hosts(4) as made:
        await link_all(made)
        keys = [hold(h, 1_000_000) for h in made]
        bodies = await asyncio.gather(
            *(pull(a, b, key) for a in made for b, key in zip(made, keys, strict=True) if a != b)
        )
        wanted = [key for i in range(4) for j, key in enumerate(keys) if i != j]
        assert [hashlib.sha256(body).digest() for body in bodies] == wanted


@on_uvloop
async def test_the_server_sees_who_asks_and_what_for() -> None:
    async with hosts(2) as (a, b):
        await link((a, b))
        a.held[b""] = b"records"
        request = BlobRequest(Blob.RECORDS, b"", limit=7)
        reply = await b.mesh.request(a.mesh.peer, request, bytes_max=7, timeout_s=10)
        assert reply == b"records"
        assert a.asked == [(b.mesh.peer, request)]


@on_uvloop
async def test_nothing_and_a_byte_and_an_odd_size_arrive() -> None:
    async with hosts(2) as (a, b):
        await link((a, b))
        for size in (0, 1, bounds.PIECE_BYTES, 3 * bounds.PIECE_BYTES + 1):
            key = hold(a, size)
            assert await pull(b, a, key, bytes_max=size) == a.held[key]


@on_uvloop
async def test_what_is_not_held_is_said_so() -> None:
    async with hosts(2) as (a, b):
        await link((a, b))
        with pytest.raises(NotHeld, match="PAYLOAD 0101"):
            await pull(b, a, b"\1" * 32)


@on_uvloop
async def test_before_a_run_is_joined_nothing_is_held_and_then_it_is() -> None:
    async with hosts(2, join=False) as (a, b):
        key = hold(a, 10)
        await b.mesh.connect(a.address)
        with pytest.raises(NotHeld):
            await pull(b, a, key)
        await a.join()
        assert await pull(b, a, key) == a.held[key]  # b has no run yet: it may ask all the same


@on_uvloop
async def test_who_is_not_connected_cannot_be_asked() -> None:
    async with hosts(2) as (a, b):
        with pytest.raises(Unreachable, match="not connected"):
            await pull(b, a, b"")


@on_uvloop
async def test_a_reply_above_the_limit_is_refused_before_it_is_read() -> None:
    async with hosts(2) as (a, b):
        await link((a, b))
        key = hold(a, 1_000_000)
        before = b.mesh.counters().bytes_in
        with pytest.raises(Unreachable, match="offered 1000000 bytes, at most 999999"):
            await pull(b, a, key, bytes_max=999_999)
        assert b.mesh.counters().bytes_in - before < 600_000


@on_uvloop
async def test_a_handler_that_never_answers_times_out_and_is_cancelled() -> None:
    ended: list[str] = []

    async def frozen(peer: bytes, request: BlobRequest) -> bytes | None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("cancelled")
        return None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bounds, "ANSWER_S", 0.3)
        async with hosts(2, join=False) as (a, b):
            a.on_blob = frozen
            await asyncio.gather(a.join(), b.join())
            await link((a, b))
            with pytest.raises(Unreachable, match="too slow with PAYLOAD"):
                await pull(b, a, b"", timeout_s=0.1)
            with pytest.raises(Unreachable, match="broke off"):
                await pull(b, a, b"", timeout_s=20)
            # The first may have been called off before it was heard.
            await wait_until(lambda: ended and not a.mesh.serving())


@on_uvloop
async def test_a_caller_that_gives_up_leaves_nothing_behind() -> None:
    asked: list[bytes] = []

    async def frozen(peer: bytes, request: BlobRequest) -> bytes | None:
        asked.append(peer)
        await asyncio.sleep(60)
        return None

    async with hosts(2, join=False) as (a, b):
        a.on_blob = frozen
        await asyncio.gather(a.join(), b.join())
        await link((a, b))
        call = asyncio.create_task(pull(b, a, b""))
        await wait_until(lambda: asked)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert not b.mesh._blobs._pulls


@on_uvloop
async def test_more_pulls_than_streams_wait_for_their_turn() -> None:
    """Trap 15: yamux hangs, without an error, at the 257th open stream."""
    async with hosts(2) as (a, b):
        await link((a, b))
        key = hold(a, 1000)
        bodies = await asyncio.gather(*(pull(b, a, key) for _ in range(300)))
        assert len(bodies) == 300
        assert not b.mesh._blobs._pulls


@on_uvloop
async def test_a_bug_in_our_handler_ends_the_mesh_and_wait_tells() -> None:
    async def broken(peer: bytes, request: BlobRequest) -> bytes | None:
        raise ZeroDivisionError("our bug")

    async with hosts(2, join=False) as (a, b):
        a.on_blob = broken
        await asyncio.gather(a.join(), b.join())
        await link((a, b))
        with pytest.raises((NotHeld, Unreachable)):
            await pull(b, a, b"")
        with pytest.raises(ZeroDivisionError, match="our bug"):
            await a.mesh.wait()


@pytest.mark.parametrize(
    "junk",
    [
        (1 << 62).to_bytes(8),
        (REQUEST_BYTES_MAX + 1).to_bytes(8) + bytes(REQUEST_BYTES_MAX + 1),
        (3).to_bytes(8) + b"\xff\xff\xff",
        frame(wire_pb2.BlobRequest(kind=Blob.PAYLOAD, key=bytes(KEY_BYTES_MAX + 1))),
        b"GET / HTTP/1.1\r\n\r\n",
        os.urandom(5000),
    ],
    ids=["huge", "oversize", "not protobuf", "long key", "http", "random"],
)
@on_uvloop
async def test_garbage_on_a_stream_gets_no_answer_and_does_no_harm(junk: bytes) -> None:
    async def say(stream: INetStream) -> bytes:
        await stream.write(junk)
        return await read_all(stream)

    async with hosts(2) as (a, evil):
        await link((a, evil))
        assert await talk(evil, a, say) == b""
        key = hold(a, 10)
        assert await pull(evil, a, key) == a.held[key]
        assert a.asked == [(evil.mesh.peer, BlobRequest(Blob.PAYLOAD, key))]


@on_uvloop
async def test_an_unknown_kind_is_not_held() -> None:
    async def say(stream: INetStream) -> bytes:
        await stream.write(frame(wire_pb2.BlobRequest(kind=99)))
        return await read_all(stream)

    async with hosts(2) as (a, later_version):
        await link((a, later_version))
        assert await talk(later_version, a, say) == b"\1" + bytes(8)
        assert not a.asked


@on_uvloop
async def test_a_request_that_never_comes_is_given_up() -> None:
    async def say(stream: INetStream) -> bytes:
        await stream.write(b"\0\0\0")
        return await read_all(stream)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bounds, "REQUEST_FRAME_S", 0.1)
        async with hosts(2) as (a, evil):
            await link((a, evil))
            assert await talk(evil, a, say) == b""
            await wait_until(lambda: not a.mesh.serving())


@on_uvloop
async def test_a_peer_with_too_many_streams_is_refused_and_others_are_not() -> None:
    async def silence(stream: INetStream) -> None:
        await stream.write(b"\0")

    async with hosts(3) as (a, evil, good):
        await link((a, evil), (a, good))
        for _ in range(bounds.BLOB_STREAMS_PER_PEER_MAX):
            await talk(evil, a, silence)
        await wait_until(
            lambda: a.mesh._blobs._served.count(evil.mesh.peer) == bounds.BLOB_STREAMS_PER_PEER_MAX
        )
        key = hold(a, 10)
        with pytest.raises(Unreachable):
            await pull(evil, a, key)
        assert await pull(good, a, key) == a.held[key]


@on_uvloop
async def test_payloads_of_one_peer_leave_room_for_what_else_it_asks_for() -> None:
    """Whatever it means by asking for so many: who asks as we do would not."""

    async def ask(stream: INetStream) -> None:
        await stream.write(frame(wire_pb2.BlobRequest(kind=Blob.PAYLOAD, key=b"key")))

    async def frozen(peer: bytes, request: BlobRequest) -> bytes | None:
        if request.kind is Blob.PAYLOAD:
            await asyncio.sleep(60)
        return b"head"

    async with hosts(2, join=False) as (a, greedy):
        a.on_blob = frozen
        await asyncio.gather(a.join(), greedy.join())
        await link((a, greedy))
        for _ in range(bounds.BLOB_STREAMS_PER_PEER_MAX - 1):
            await talk(greedy, a, ask)
        await wait_until(lambda: a.mesh.serving() == bounds.BULK_SERVED_PER_PEER_MAX)
        request = BlobRequest(Blob.HEAD)
        assert await greedy.mesh.request(a.mesh.peer, request, bytes_max=9, timeout_s=10) == b"head"
        await wait_until(lambda: a.mesh.serving() == bounds.BULK_SERVED_PER_PEER_MAX)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (b"\3" + bytes(8), "answered with status 3"),
        (b"\0" + (1 << 62).to_bytes(8), "offered 4611686018427387904 bytes"),
        (b"\0" + (10).to_bytes(8) + b"short", "broke off"),
        (b"", "broke off"),
    ],
    ids=["status", "huge", "short", "nothing"],
)
@on_uvloop
async def test_garbage_as_a_reply_is_refused(reply: bytes, reason: str) -> None:
    async def say(stream: INetStream) -> None:
        await stream.write(reply)
        await stream.close()

    async with hosts(2) as (a, evil):
        await link((a, evil))
        answer_with(evil, say)
        with pytest.raises(Unreachable, match=reason) as raised:
            await pull(a, evil, b"")
        assert "\n" not in str(raised.value)


@on_uvloop
async def test_a_reply_that_stops_midway_is_given_up_before_the_time_is_out() -> None:
    async def say(stream: INetStream) -> None:
        await stream.write(b"\0" + (10).to_bytes(8) + b"short")
        await trio.sleep_forever()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bounds, "STALL_S", 0.1)
        async with hosts(2) as (a, evil):
            await link((a, evil))
            answer_with(evil, say)
            with pytest.raises(Unreachable, match="too slow"):
                await pull(a, evil, b"", timeout_s=60)


@on_uvloop
async def test_a_reply_nobody_reads_is_given_up() -> None:
    async def ask_and_sleep(stream: INetStream) -> None:
        await stream.write(frame(wire_pb2.BlobRequest(kind=Blob.PAYLOAD, key=key)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bounds, "SERVE_S", 0.2)
        patch.setattr(bounds, "SERVE_BYTES_PER_S_MIN", 1 << 40)
        async with hosts(2) as (a, evil):
            await link((a, evil))
            key = hold(a, 4_000_000)
            await talk(evil, a, ask_and_sleep)
            await wait_until(lambda: a.asked)
            await wait_until(lambda: not a.mesh.serving())
            other = hold(a, 1000)
            assert await pull(evil, a, other) == a.held[other]
