"""Looks how fast bytes reach other machines while replies wait to be sent. Trio code.

Bytes count when the other machine's kernel has acknowledged them: what only our own kernel holds,
or a router's queue, has not left. While nothing larger is being sent nothing is measured.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Final

import trio

from demo_node.ports import Slice
from demo_node.uplink import SLICE_S, FastestSlice

LOOK_S: Final = 0.05
"""Between two looks, while replies are on their way."""

LINGER_S: Final = 1.0
"""After the last reply was written, at most so long for its acknowledgement."""


class UplinkMeter:
    """Measures one node's uplink. `acknowledged`: bytes of all sockets that reached others."""

    def __init__(self, acknowledged: Callable[[], int], unacknowledged: Callable[[], int]) -> None:
        self.fastest = FastestSlice()
        self._acknowledged = acknowledged
        self._unacknowledged = unacknowledged
        self._replies = 0
        self._begun = trio.Event()

    @contextlib.contextmanager
    def reply(self) -> Iterator[None]:
        """A larger reply is written in this block."""
        self._replies += 1
        self._begun.set()
        try:
            yield
        finally:
            self._replies -= 1

    async def run(self) -> None:
        """Measure whenever there is something to be sent, for ever."""
        while True:
            await self._begun.wait()
            await self._measure()
            if not self._replies:
                self._begun = trio.Event()

    async def _measure(self) -> None:
        """Slices, until all is sent and acknowledged; the last one may be short."""
        idle = self._unacknowledged()  # gossip and such: as much may be on its way at the end
        begin_s, before = trio.current_time(), self._acknowledged()
        written_s = begin_s
        while True:
            await trio.sleep(LOOK_S)
            now_s = trio.current_time()
            if self._replies:
                written_s = now_s
            has_ended = not self._replies and self._unacknowledged() <= idle
            if now_s - begin_s >= SLICE_S or has_ended:
                now = self._acknowledged()
                self.fastest.add(Slice(now_s - begin_s, now - before))
                begin_s, before = now_s, now
            if has_ended or now_s - written_s > LINGER_S:
                return
