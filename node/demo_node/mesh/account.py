"""What the bytes on the sockets were for."""

from collections import Counter
from typing import Final

from demo_node.ports import Blob, Direction, Use

USES: Final = {
    Blob.MANIFEST: Use.SYNC,
    Blob.PAYLOAD: Use.PAYLOAD,
    Blob.HEADERS: Use.SYNC,
    Blob.RECORDS: Use.SYNC,
    Blob.HEAD: Use.SYNC,
    Blob.INITIAL: Use.SYNC,
    Blob.CORPUS_BLOCK: Use.SYNC,
    Blob.PEERS: Use.OTHER,
    Blob.TIME: Use.OTHER,
    Blob.STATE_LEAVES: Use.SYNC,
    Blob.STATE_CHUNK: Use.SYNC,
    Blob.SETS: Use.SYNC,
    Blob.PROPOSAL: Use.SYNC,
    Blob.TENSORS: Use.SYNC,
    Blob.CHAIN_STATE: Use.SYNC,
    Blob.REACH: Use.OTHER,
}


class Totals:
    """Bytes of all sockets since start, by direction and use. None of them ever falls."""

    def __init__(self) -> None:
        self.bytes: Counter[tuple[Direction, Use]] = Counter()


class Account:
    """The bytes of one socket in one direction, as they are told apart.

    Every byte goes to one use, once: when the frame that it came in is complete, or when the
    socket is closed. So what the uses add up to is what the socket has carried, and until then it
    lacks the frame that is on its way: none of the totals has to be taken back.
    """

    def __init__(self, totals: Totals, direction: Direction) -> None:
        self._totals = totals.bytes
        self._direction = direction
        self._told = 0
        self._closed = False
        self.bytes = 0

    def add(self, size: int) -> None:
        """So many bytes more went through the socket."""
        self.bytes += size
        if self._closed:
            self.close()

    def tell(self, use: Use, size: int, ahead: int = 0) -> None:
        """Of all bytes but the last `ahead`, the last `size` were for `use`; others overhead."""
        new = max(self.bytes - ahead - self._told, 0)
        size = min(size, new)
        self._told += new
        self._totals[self._direction, use] += size
        self._totals[self._direction, Use.OTHER] += new - size

    def close(self) -> None:
        """The socket is closed: whatever came of it is overhead."""
        self._closed = True
        self.tell(Use.OTHER, 0)
