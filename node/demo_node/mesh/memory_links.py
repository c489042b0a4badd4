"""The links of the mesh inside one process: what comes when, what gets lost, and who is cut off.

All of it is decided by plain functions of the link; nothing here reads a clock or rolls dice.
"""

import asyncio
import heapq
from collections.abc import Callable
from typing import Protocol

from demo_node.ports import OnPiece

DelayS = Callable[[bytes, bytes, int], float]
"""(sender, receiver, bytes) -> seconds on the way. Called once per transmission."""

Lost = Callable[[bytes, bytes, int], bool]
"""(sender, receiver, bytes) -> does this transmission get lost?"""

Cut = Callable[[bytes, bytes], bool]
"""(sender, receiver) -> is this link down now? Asked at sending and at arrival."""


class Carrier(Protocol):
    """Links that carry only so much."""

    async def carry(self, sender: bytes, receiver: bytes, size: int, on_piece: OnPiece) -> None:
        """Return when so many bytes of a reply are through; `on_piece` hears of every part sent."""
        ...


class MemoryLinks:
    """Links with delay, loss and cuts.

    Deliveries happen in order of time, and those of one moment in the order of their sending.
    """

    def __init__(self, *, delay_s: DelayS, is_lost: Lost, is_cut: Cut) -> None:
        self.delay_s = delay_s
        self.is_lost = is_lost
        self.is_cut = is_cut
        self.carrier: Carrier | None = None
        """What limits replies in both directions; None: nothing does."""
        self._transit: list[tuple[float, int, Callable[[], None]]] = []
        self._sent = 0

    def send(self, sender: bytes, receiver: bytes, size: int, arrive: Callable[[], None]) -> None:
        """Call `arrive` when `size` bytes have travelled the link, or never."""
        if self.is_cut(sender, receiver) or self.is_lost(sender, receiver, size):
            return
        loop = asyncio.get_running_loop()
        due = loop.time() + self.delay_s(sender, receiver, size)
        self._sent += 1

        def unless_cut() -> None:
            if not self.is_cut(sender, receiver):
                arrive()

        # The loop does not keep the order of equal times, so a heap of our own does.
        heapq.heappush(self._transit, (due, self._sent, unless_cut))
        loop.call_at(due, self._deliver_next)

    def _deliver_next(self) -> None:
        _, _, arrive = heapq.heappop(self._transit)
        arrive()
