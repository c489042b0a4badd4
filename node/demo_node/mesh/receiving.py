"""The reply to one request, read at the pace of the download cap. Trio code.

A peer may send what its window holds, whether we read or not. So we pay for that window before we
ask, and for every further byte before we read it: reading is what lets the peer send more.
"""

import io
from dataclasses import dataclass
from typing import Final

import trio
from libp2p.abc import INetStream

from demo_node.mesh import bounds
from demo_node.mesh.pacing import Pacer
from demo_node.ports import Blob, OnPiece, OnWait, ignore_piece, ignore_wait

WINDOW_BYTES: Final = 256 << 10
"""What a peer may send on a new stream before we have read anything: yamux's."""


@dataclass(frozen=True, slots=True)
class Told:
    """Who hears of a reply while it comes."""

    on_piece: OnPiece = ignore_piece
    on_wait: OnWait = ignore_wait


class Receiving:
    """One reply as it is read. `bytes_max`: what it may have; `scope`: has the pull's deadline."""

    def __init__(
        self,
        pacer: Pacer,
        kind: Blob,
        bytes_max: int,
        scope: trio.CancelScope,
        told: Told = Told(),
    ) -> None:
        self._pacer = pacer
        self._scope = scope
        self._is_bulk = kind in bounds.BULK
        self._bytes_max = bytes_max
        self._told = told
        self._credit = 0
        """Bytes that are paid for and have not been read."""

    async def wait_to_ask(self) -> None:
        """Return when the reply may begin to come."""
        if self._is_bulk:
            await self._pay(min(self._bytes_max, WINDOW_BYTES))

    async def read_exact(self, stream: INetStream, size: int) -> bytes:
        """The next `size` bytes. Raises EOFError at the end, TooSlowError where nothing comes."""
        self._told.on_piece(0)
        out = io.BytesIO()  # gives its bytes away without a copy, which takes 19 ms at 41 MB
        while (held := out.tell()) < size:
            wanted = min(size - held, bounds.PIECE_BYTES)
            if self._is_bulk and self._pacer.bytes_per_s:
                wanted = min(wanted, self._pacer.piece_bytes)
                await self._pay(max(min(wanted, size - held - self._credit), 0))
            with trio.fail_after(bounds.STALL_S):
                # `read` returns at most what was asked for, and at its end nothing (trap 16).
                piece = await stream.read(wanted)
            if not piece:
                raise EOFError(f"{held} of {size} bytes came")
            self._credit = max(self._credit - len(piece), 0)
            out.write(piece)
            self._told.on_piece(len(piece))
        return out.getvalue()

    def end(self, unread: int = 0) -> None:
        """Nothing more will be read; `unread` bytes have come all the same."""
        self._pacer.refund(max(self._credit - unread, 0))
        self._credit = 0

    async def _pay(self, size: int) -> None:
        """Wait for our own cap, which is not the peer's slowness: the deadline waits with us."""
        if not size or not self._pacer.bytes_per_s:
            return
        left_s = self._scope.deadline - trio.current_time()
        self._scope.deadline = float("inf")
        self._told.on_wait(True)
        try:
            await self._pacer.wait_turn(size)
        finally:
            self._told.on_wait(False)
        self._scope.deadline = trio.current_time() + left_s
        self._credit += size
