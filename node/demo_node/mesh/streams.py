"""Yamux streams that go through trio's scheduler once where the library's go five times.

The library takes a lock at each step, though all of it runs in one thread and most steps wait for
nothing: taking a free lock is a turn of trio's scheduler, and a gossip message was read in three
such reads. It also answers every read, be it of a single byte, with a frame that gives the bytes
back to the sender's window: half of all frames.
"""

import struct
from typing import Any, Final, cast

import libp2p.stream_muxer.yamux.yamux
import trio
from libp2p.abc import INetStream
from libp2p.stream_muxer.exceptions import MuxedStreamEOF, MuxedStreamError, MuxedStreamReset
from libp2p.stream_muxer.yamux.yamux import (
    HEADER_SIZE,
    MAX_MESSAGE_SIZE,
    TYPE_DATA,
    YAMUX_HEADER_FORMAT,
    YamuxStream,
)

from demo_node.mesh import bounds

PIECE_BYTES_MAX: Final = MAX_MESSAGE_SIZE - HEADER_SIZE
"""Of a frame's content, as the library has it."""


class FrugalStream(YamuxStream):
    """The library's stream; what others see of it is the same but for when its window grows."""

    is_paced = False
    """Whether its reader takes its time on purpose (`receiving.py`).

    Then each read lets the peer send as much more at once: half a window may be more than the cap
    lets us read in the 5 s that a sender waits. And the window stays what it was at first.
    """

    async def read(self, n: int | None = -1) -> bytes:
        """What is there, at most `n` bytes, waiting until something is."""
        if self.conn.stream_buffers.get(self.stream_id):
            await trio.lowlevel.checkpoint()  # who finds enough to read must not keep the others
        buffer = await self._wait_for_data()
        size = len(buffer) if n is None or n < 0 else n
        data = bytes(buffer[:size])
        del buffer[:size]
        if self.closed and not buffer:
            await self.conn._finalize_stream(self, fully_closed=True)
        await self._auto_tune_and_send_window_update(bytes_read=len(data))
        return data

    async def _wait_for_data(self) -> bytearray:
        """The buffer, once something is in it. Raises as the library does."""
        conn, stream_id = self.conn, self.stream_id
        while True:
            buffer = conn.stream_buffers.get(stream_id)
            if buffer and (self.recv_closed or not self.reset_received):
                return buffer
            if self.reset_received:
                raise MuxedStreamReset("Stream was reset")
            if buffer is None or self.recv_closed or conn.event_shutting_down.is_set():
                raise MuxedStreamEOF("Stream is closed for receiving")
            if self.closed:
                raise MuxedStreamReset("Stream is closed")
            event = conn.stream_events[stream_id]
            await event.wait()
            if conn.stream_events.get(stream_id) is event:
                conn.stream_events[stream_id] = trio.Event()

    async def write(self, data: bytes) -> None:
        """All of `data`, in frames as large as the peer's window allows."""
        sent = 0
        while sent < len(data):
            if self.send_closed or self.closed:
                raise MuxedStreamError("Stream is closed for sending")
            if self.send_window <= 0:
                await super().write(data[sent:])  # waits for the window
                return
            size = min(self.send_window, PIECE_BYTES_MAX, len(data) - sent)
            self.send_window -= size
            header = struct.pack(YAMUX_HEADER_FORMAT, 0, TYPE_DATA, 0, self.stream_id, size)
            await self.conn._write_frame(header + data[sent : sent + size])
            sent += size

    async def _auto_tune_and_send_window_update(self, *, bytes_read: int = 0) -> None:
        """Give back what was read once that is half a window, as go-yamux and its protocol have it.

        The sender has the other half to go on with meanwhile. A stream that nothing more will come
        on needs none.
        """
        buffered = len(self.conn.stream_buffers.get(self.stream_id, b""))
        credit = self.target_recv_window - self.recv_window - buffered
        if self.recv_closed or credit <= 0:
            return
        if self.is_paced:
            self.recv_window += credit
            await self.send_window_update(credit)
            return
        if 2 * credit < self.target_recv_window:
            return
        self.recv_window += credit
        await self.send_window_update(credit + self._apply_autotune_epoch(buffered))


class ReadAhead:
    """A stream of which is read what has come, and given what is asked for.

    For the library's readers of gossip: they ask for the length of a message byte by byte.
    """

    def __init__(self, stream: INetStream) -> None:
        self._stream = stream
        self._ahead = b""
        self._at = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def read(self, n: int | None = None) -> bytes:
        """At most `n` bytes."""
        if self._at == len(self._ahead):
            self._ahead, self._at = await self._stream.read(bounds.READ_AHEAD_BYTES), 0
        end = len(self._ahead) if n is None else self._at + n
        piece = self._ahead[self._at : end]
        self._at += len(piece)
        return piece


def read_ahead(stream: INetStream) -> INetStream:
    """`stream`, read ahead."""
    return cast(INetStream, ReadAhead(stream))


# The library makes its streams by this name.
libp2p.stream_muxer.yamux.yamux.YamuxStream = FrugalStream  # type: ignore[misc]
