"""Bytes kept in the pieces they came in, so that equal ones need not be kept a thousand times."""

import bisect
from collections.abc import MutableMapping

SHARED_BYTES_MIN = 1 << 10
"""Shorter pieces are not worth looking for."""


class Rope:
    """A byte string that grows at its end. `shared` holds pieces that others have, too."""

    def __init__(
        self, content: bytes = b"", shared: MutableMapping[bytes, bytes] | None = None
    ) -> None:
        self._shared = shared
        self._pieces: list[bytes] = []
        self._ends: list[int] = []
        self.append(content)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def append(self, piece: bytes | memoryview) -> None:
        """Add bytes at the end."""
        kept = bytes(piece)
        if self._shared is not None and len(kept) >= SHARED_BYTES_MIN:
            kept = self._shared.setdefault(kept, kept)
        if kept:
            self._ends.append(len(self) + len(kept))
            self._pieces.append(kept)

    def read(self, begin: int = 0, end: int | None = None) -> bytes:
        """The bytes from `begin` up to, not with, `end`; by default all."""
        end = len(self) if end is None else min(end, len(self))
        found = []
        at = bisect.bisect_right(self._ends, begin)
        while begin < end:
            piece, first = self._pieces[at], self._ends[at] - len(self._pieces[at])
            found.append(piece[begin - first : end - first])
            begin, at = self._ends[at], at + 1
        return b"".join(found)

    def truncate(self, length: int) -> None:
        """Keep the first `length` bytes."""
        while self._ends and self._ends[-1] - len(self._pieces[-1]) >= length:
            self._ends.pop()
            self._pieces.pop()
        if len(self) > length:
            piece = self._pieces.pop()
            first = self._ends.pop() - len(piece)
            self.append(piece[: length - first])
