"""A stream of p2pd: a unix socket, of which every byte is counted."""

import asyncio
import contextlib
import io
import socket

from demo_node.mesh import bounds
from demo_node.mesh.account import Totals
from demo_node.mesh.hivemind.pacing import Pacer
from demo_node.ports import Direction, OnPiece, Use, ignore_piece


class Meter:
    """What went through all streams, and when each connected peer was last heard."""

    def __init__(self, pacer: Pacer) -> None:
        self.totals = Totals()
        self.pacer = pacer
        self.heard_s: dict[bytes, float] = {}
        """By peer, in the loop's time. Whoever has links keeps the peers in it."""

    def came(self, peer: bytes, use: Use, size: int) -> None:
        """So much was read of what a peer sent."""
        self.totals.bytes[Direction.IN, use] += size
        if peer in self.heard_s:
            self.heard_s[peer] = asyncio.get_running_loop().time()

    def went(self, use: Use, size: int) -> None:
        """So much was handed to p2pd."""
        self.totals.bytes[Direction.OUT, use] += size
        self.pacer.sent(size)


class Stream:
    """Read and write it from one task each. What fails raises OSError, EOFError, TimeoutError."""

    def __init__(self, fd: int, peer: bytes, meter: Meter, use: Use = Use.OTHER) -> None:
        self._sock = socket.socket(fileno=fd)
        self._sock.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._peer = peer
        self._meter = meter
        self.use = use
        """What its bytes are for, from now on."""

    async def read_exact(self, size: int, on_piece: OnPiece = ignore_piece) -> bytes:
        """`size` bytes; none for longer than bounds.STALL_S is a TimeoutError."""
        on_piece(0)
        out = io.BytesIO()  # gives its bytes away without a copy
        while (held := out.tell()) < size:
            async with asyncio.timeout(bounds.STALL_S):
                piece = await self.read(min(size - held, bounds.PIECE_BYTES))
            if not piece:
                raise EOFError(f"{held} of {size} bytes came")
            out.write(piece)
            on_piece(len(piece))
        return out.getvalue()

    async def read(self, size: int) -> bytes:
        """Some bytes, at most `size`; none at its end. Waits as long as it takes."""
        piece = await self._loop.sock_recv(self._sock, size)
        self._meter.came(self._peer, self.use, len(piece))
        return piece

    async def write(self, data: bytes | memoryview) -> None:
        """Hand all of it to p2pd, which takes it when the peer does."""
        await self._loop.sock_sendall(self._sock, data)
        self._meter.went(self.use, len(data))

    def finish(self) -> None:
        """No more is written; p2pd passes on what there is, and the end."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Be done with it, once nobody waits in it. p2pd resets what is not finished."""
        self._sock.close()
