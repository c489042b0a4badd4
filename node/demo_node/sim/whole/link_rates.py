"""Home links for the memory mesh: each node sends and receives only so many bits a second.

What several peers pull at once shares a link in turns of 16 KiB, as streams do; what nobody waits
for any more leaves the queue. Gossip and questions are small and pass beside it: they travel with
the mesh's own delay (`MemoryNetwork.delay_s`).
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from demo_node.ports import OnPiece, Slice
from demo_node.uplink import SLICE_S, FastestSlice

PIECE_BYTES: Final = 16 << 10
"""A link's turn."""


@dataclass(slots=True)
class _Link:
    """One direction of one node's link; pieces go one after the other."""

    bytes_per_s: float
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def carry(self, size: int) -> None:
        async with self.turn:  # first come, first served
            await asyncio.sleep(size / self.bytes_per_s)


@dataclass(slots=True)
class _Uplink:
    """What leaves a node, looked at as `mesh/uplink_meter.py` does."""

    link: _Link
    fastest: FastestSlice = field(default_factory=FastestSlice)
    replies: int = 0
    begin_s: float = 0.0
    carried: int = 0

    def begin(self, now_s: float) -> None:
        if not self.replies:
            self.begin_s, self.carried = now_s, 0
        self.replies += 1

    def look(self, now_s: float) -> None:
        """End a slice where one is over."""
        if now_s - self.begin_s >= SLICE_S or not self.replies:
            self.fastest.add(Slice(now_s - self.begin_s, self.carried))
            self.begin_s, self.carried = now_s, 0


class LinkRates:
    """Implements `mesh.memory_links.Carrier`. `rates`: (up, down) of a node, in bits a second."""

    def __init__(self, rates: Callable[[bytes], tuple[float, float]]) -> None:
        self._rates = rates
        self._up: dict[bytes, _Uplink] = {}
        self._down: dict[bytes, _Link] = {}

    def take_uplink(self, peer: bytes) -> Slice:
        """The fastest stretch of sending since this was last asked."""
        return self._uplink(peer).fastest.take()

    async def carry(self, sender: bytes, receiver: bytes, size: int, on_piece: OnPiece) -> None:
        """Return when so many bytes of a reply are through both links."""
        now_s = asyncio.get_running_loop().time
        up, down = self._uplink(sender), self._downlink(receiver)
        up.begin(now_s())
        try:
            arriving: asyncio.Task[None] | None = None
            for start in range(0, size, PIECE_BYTES):
                piece = min(PIECE_BYTES, size - start)
                await up.link.carry(piece)
                up.carried += piece
                on_piece(piece)
                up.look(now_s())
                if arriving is not None:  # a window of one piece: a slow receiver slows its sender
                    await arriving
                arriving = asyncio.ensure_future(down.carry(piece))
            if arriving is not None:
                await arriving
        finally:
            up.replies -= 1
            up.look(now_s())

    def _uplink(self, peer: bytes) -> _Uplink:
        if peer not in self._up:
            self._up[peer] = _Uplink(_Link(self._rates(peer)[0] / 8))
        return self._up[peer]

    def _downlink(self, peer: bytes) -> _Link:
        if peer not in self._down:
            self._down[peer] = _Link(self._rates(peer)[1] / 8)
        return self._down[peer]
