"""The upload cap of ../pacing.py for asyncio, over the same bucket."""

import asyncio

from demo_node.mesh import bounds
from demo_node.mesh.pacing import PIECE_BYTES_MIN, PIECES_PER_S, Bucket


class Pacer:
    """Deals the cap out to streams, piece by piece, first come first served. 0: no cap."""

    def __init__(self, bytes_per_s: float = 0) -> None:
        self._queue = asyncio.Lock()  # first come, first served
        self._bucket: Bucket | None
        self.set_rate(bytes_per_s)

    def set_rate(self, bytes_per_s: float) -> None:
        """Another cap from now on; 0 is none."""
        self._rate = bytes_per_s
        self._bucket = None
        fair = max(int(bytes_per_s / PIECES_PER_S), PIECE_BYTES_MIN)
        self.piece_bytes = min(fair, bounds.PIECE_BYTES) if bytes_per_s else bounds.PIECE_BYTES

    async def wait_turn(self, size: int) -> float:
        """Return when a piece of a reply may be sent; says how many seconds that took."""
        if not self._rate:
            return 0.0
        now_s = asyncio.get_running_loop().time
        begin_s = now_s()
        async with self._queue:
            if not self._rate:  # the cap has ended meanwhile
                return now_s() - begin_s
            bucket = self._bucket = self._bucket or Bucket(self._rate, begin_s)
            await asyncio.sleep(bucket.pause_s(now_s()))
            bucket.pay(size, now_s())
        return now_s() - begin_s

    def sent(self, size: int) -> None:
        """So much was sent without waiting: later pieces pay for it."""
        if self._rate:
            now_s = asyncio.get_running_loop().time()
            bucket = self._bucket = self._bucket or Bucket(self._rate, now_s)
            bucket.passed(size, now_s)
