"""Who is served now, who waits, and what became of an answer: of both real meshes, trio or asyncio.

Plain bookkeeping: who waits waits for an event of its own.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from typing import Protocol

from demo_node.mesh import bounds
from demo_node.mesh.blob_frames import NOT_HELD, Garbage
from demo_node.ports import Blob, BlobRequest


class Event(Protocol):
    """trio's or asyncio's."""

    def set(self) -> object:
        """Wake whoever waits for it. Twice is fine."""
        ...


class Lines:
    """Lines that one stands in: the first few of each have their turn at the same time."""

    def __init__(self) -> None:
        self._lines: dict[Hashable, list[Event]] = {}

    def __len__(self) -> int:
        """Lines in which somebody stands."""
        return len(self._lines)

    def count(self, name: Hashable) -> int:
        """Who stands in a line, with those whose turn it is."""
        return len(self._lines.get(name, ()))

    @contextlib.contextmanager
    def stand(self, name: Hashable, at_once: int, turn: Event) -> Iterator[None]:
        """Stand in a line, in which `at_once` have their turn; `turn` is set when it has come."""
        line = self._lines.setdefault(name, [])
        line.append(turn)
        _tell(line, at_once)
        try:
            yield
        finally:
            line.remove(turn)
            _tell(line, at_once)
            if not line:
                del self._lines[name]


def _tell(line: list[Event], at_once: int) -> None:
    for turn in line[:at_once]:
        turn.set()


class Pulls(Lines):
    """Requests of ours, so many at once of each peer: payloads leave what is small its own room."""

    def begin(
        self, peer: bytes, kind: Blob, turn: Event
    ) -> contextlib.AbstractContextManager[None]:
        """One request, from when it is to be made until it has ended."""
        if kind in bounds.BULK:
            return self.stand((peer, True), bounds.BULK_PULLS_PER_PEER_MAX, turn)
        return self.stand((peer, False), bounds.SMALL_PULLS_PER_PEER_MAX, turn)


class Served:
    """Requests of peers that are being answered: so many of each, and of all."""

    def __init__(self) -> None:
        self._by_peer: Counter[bytes] = Counter()
        self._bulk: Counter[bytes] = Counter()

    @property
    def total(self) -> int:
        """Of all peers."""
        return self._by_peer.total()

    def count(self, peer: bytes) -> int:
        """Of one."""
        return self._by_peer[peer]

    def enter(self, peer: bytes) -> bool:
        """One more; False where there is no room."""
        is_full = self.total >= bounds.BLOB_STREAMS_MAX
        if is_full or self._by_peer[peer] >= bounds.BLOB_STREAMS_PER_PEER_MAX:
            return False
        self._by_peer[peer] += 1
        return True

    def leave(self, peer: bytes) -> None:
        """One that had entered has ended."""
        self._by_peer[peer] -= 1
        if not self._by_peer[peer]:
            del self._by_peer[peer]

    @contextlib.contextmanager
    def answering(self, peer: bytes, request: BlobRequest | None) -> Iterator[None]:
        """It is known now what is asked for. Raises Garbage where there is no room for that."""
        if request is None or request.kind not in bounds.BULK:
            yield
            return
        is_full = self._bulk.total() >= bounds.BULK_SERVED_MAX
        if is_full or self._bulk[peer] >= bounds.BULK_SERVED_PER_PEER_MAX:
            raise Garbage("asked for too much at once")
        self._bulk[peer] += 1
        try:
            yield
        finally:
            self._bulk[peer] -= 1
            if not self._bulk[peer]:
                del self._bulk[peer]


class Found:
    """What a request is answered with. `tell` hears once how many bytes begin to leave, or 0."""

    def __init__(
        self,
        body: bytes | None = None,
        lacking: int = NOT_HELD,
        tell: Callable[[int], None] = lambda size: None,
    ) -> None:
        """`lacking`: why there is no `body`."""
        self.body = body
        self.lacking = lacking
        self._tell = tell
        self._is_told = False

    def begin(self) -> None:
        """Its head is written: whoever asks has not called it off."""
        self._end(len(self.body or b""))

    def end(self) -> None:
        """Nothing more is written."""
        self._end(0)

    def _end(self, given: int) -> None:
        if not self._is_told:
            self._is_told = True
            self._tell(given)
