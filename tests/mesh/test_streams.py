"""What streams cost: turns of the scheduler and frames, which is what a node's time goes into."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import trio
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.stream_muxer.yamux.yamux import (
    TYPE_DATA,
    TYPE_WINDOW_UPDATE,
    YAMUX_HEADER_FORMAT,
)

from demo_node.mesh.blob import PROTOCOL
from demo_node.mesh.streams import FrugalStream, read_ahead
from demo_node.mesh.yamux import PatientYamux
from demo_node.ports import Blob, BlobRequest, Unreachable
from tests.mesh.hosts import Host, hosts, link, on_uvloop

RAW = TProtocol("/demo-node/test/1")
WINDOW = 256 << 10


class Frames:
    """Frames that one host wrote, in order: connection, kind, stream, length."""

    def __init__(self) -> None:
        self.written: list[tuple[PatientYamux, int, int, int]] = []

    def of(self, host: Host, kind: int) -> list[int]:
        """Lengths of the host's frames of a kind; a window update's is what it gives back."""
        ours = {
            connection.muxed_conn
            for live in host.mesh._swarm.connections.values()
            for connection in live
            if not connection.is_closed
        }
        return [n for conn, k, _, n in self.written if conn in ours and k == kind and n]


@contextmanager
def frames_written(monkeypatch: pytest.MonkeyPatch) -> Iterator[Frames]:
    frames, write = Frames(), PatientYamux._write_frame

    async def watched(conn: PatientYamux, data: bytes) -> None:
        _, kind, _, stream, length = struct.unpack(YAMUX_HEADER_FORMAT, data[:12])
        frames.written.append((conn, kind, stream, length))
        await write(conn, data)

    with monkeypatch.context() as patch:
        patch.setattr(PatientYamux, "_write_frame", watched)
        yield frames


async def send(sender: Host, receiver: Host, data: bytes, piece: int) -> bytes:
    """`data` by a stream that is read in pieces of so many bytes at most; what came of it."""
    came: list[bytes] = []
    done = trio.Event()

    async def take(stream: INetStream) -> None:
        while sum(map(len, came)) < len(data):
            came.append(await stream.read(piece))
        done.set()

    async def run() -> None:
        receiver.mesh._host.set_stream_handler(RAW, take)
        stream = await sender.mesh._host.new_stream(receiver.mesh._host.get_id(), [RAW])
        await stream.write(data)
        await done.wait()
        await stream.reset()

    await sender.mesh._guest.call(run)
    return b"".join(came)


@on_uvloop
async def test_small_reads_are_not_answered_with_a_frame_each() -> None:
    async with hosts(2, join=False) as (a, b):
        await a.mesh.connect(b.address)
        with pytest.MonkeyPatch.context() as patch, frames_written(patch) as frames:
            assert await send(a, b, bytes(range(256)) * 4, 1) == bytes(range(256)) * 4
        assert frames.of(b, TYPE_WINDOW_UPDATE) == []


@on_uvloop
async def test_a_paced_pull_gives_back_what_it_reads_and_no_more() -> None:
    """A sender gives up after 5 s without room: half a window may take longer at the cap."""
    body = bytes(2 * WINDOW)
    async with hosts(2) as (a, b):
        await a.mesh.connect(b.address)
        b.held = {b"key": body}
        a.mesh.set_caps(0, 2_000_000)
        with pytest.MonkeyPatch.context() as patch, frames_written(patch) as frames:
            asked = BlobRequest(Blob.PAYLOAD, b"key")
            got = await a.mesh.request(b.mesh.peer, asked, bytes_max=len(body), timeout_s=30)
        assert got == body
        given = frames.of(a, TYPE_WINDOW_UPDATE)
        assert max(given) <= 2_000_000 // 20
        assert len(body) - WINDOW <= sum(given) <= len(body) + 1000


@on_uvloop
async def test_half_a_window_is_given_back_so_that_all_of_many_windows_arrives() -> None:
    body = bytes(range(256)) * (8 * WINDOW // 256)
    async with hosts(2, join=False) as (a, b):
        await a.mesh.connect(b.address)
        with pytest.MonkeyPatch.context() as patch, frames_written(patch) as frames:
            assert await send(a, b, body, 10_000) == body
        given = frames.of(b, TYPE_WINDOW_UPDATE)
        assert min(given) >= WINDOW // 2
        assert sum(given) >= len(body) - WINDOW  # else its end could not have been sent


@on_uvloop
async def test_a_pull_asks_in_one_frame_and_is_answered_in_one_beside_the_choice() -> None:
    async with hosts(2) as (a, b):
        await link((a, b))
        b.held[b"key"] = b"body"
        with pytest.MonkeyPatch.context() as patch, frames_written(patch) as frames:
            request = BlobRequest(Blob.PAYLOAD, b"key")
            assert await a.mesh.request(b.mesh.peer, request, bytes_max=9, timeout_s=9) == b"body"
        pulled = {s for conn, k, s, n in frames.written if k == TYPE_DATA and n == 9 + len(b"body")}
        (stream,) = pulled
        sizes = [n for _, k, s, n in frames.written if k == TYPE_DATA and s == stream]
        assert len(sizes) == 4, sizes  # choice and request; the choice's two halves; the reply


@on_uvloop
async def test_who_does_not_speak_the_protocol_cannot_be_asked() -> None:
    async with hosts(2) as (a, b):
        await link((a, b))
        host: Any = b.mesh._host
        del host.multiselect.handlers[PROTOCOL]
        with pytest.raises(Unreachable, match=r"broke off|does not speak"):
            await a.mesh.request(b.mesh.peer, BlobRequest(Blob.HEAD), bytes_max=9, timeout_s=19)


@on_uvloop
async def test_all_streams_are_frugal_on_either_side() -> None:
    async with hosts(2) as (a, b):
        await link((a, b))
        for host in (a, b):
            for live in host.mesh._swarm.connections.values():
                (connection,) = live
                streams = connection.muxed_conn.streams.values()  # type: ignore[attr-defined]
                assert streams
                assert all(isinstance(stream, FrugalStream) for stream in streams)


def test_what_was_read_ahead_is_given_in_the_pieces_asked_for() -> None:
    asked: list[int | None] = []
    parts = [b"abc", b"de", b""]

    class Stream:
        name = "inner"

        async def read(self, n: int | None = None) -> bytes:
            asked.append(n)
            return parts.pop(0)

    async def run() -> list[bytes]:
        stream: Any = read_ahead(Stream())  # type: ignore[arg-type]
        assert stream.name == "inner"
        return [await stream.read(n) for n in (1, 1, 9, None, 1)]

    assert trio.run(run) == [b"a", b"b", b"c", b"de", b""]
    assert len(asked) == 3
