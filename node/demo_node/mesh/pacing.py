"""The upload cap: what leaves the sockets is counted, and replies wait their turn. Trio code.

Only the pieces of larger replies wait. Gossip, requests and small answers (a head, a header, the
time) leave at once and are paid for afterwards, by those pieces: 1 MB on its way to a peer must
not hold up a header that is worth nothing a second later.
"""

from typing import Final

import trio

from demo_node.mesh import bounds

BURST_S: Final = 0.25
"""What may leave at once after a pause, in seconds of the cap."""

PIECES_PER_S: Final = 20
"""Pieces that the cap is dealt out in: the finer, the more evenly among streams."""

PIECE_BYTES_MIN: Final = 4 << 10
"""Below this a piece is mostly wrapping. Replies of one such piece do not wait."""

DEBT_S: Final = 4.0
"""What was sent unasked is paid back by at most so long a pause."""


class Bucket:
    """Bytes that may leave: `rate` more of them each second, `burst` at most."""

    def __init__(self, rate: float, now_s: float) -> None:
        self.rate = rate
        self.burst = max(rate * BURST_S, PIECE_BYTES_MIN)
        self._level = self.burst
        self._paid = 0
        self._at_s = now_s

    def pause_s(self, now_s: float) -> float:
        """How long the next piece has to wait."""
        self._refill(now_s)
        return max(0.0, -self._level / self.rate)

    def pay(self, size: int, now_s: float) -> None:
        """Take `size` bytes that are about to be sent."""
        self._refill(now_s)
        self._level -= size
        self._paid += size

    def sent(self, size: int, now_s: float) -> None:
        """So much has left a socket: what nobody paid for is taken now."""
        self._refill(now_s)
        covered = min(size, self._paid)
        self._paid -= covered
        self._level = max(self._level - (size - covered), -self.rate * DEBT_S)

    def _refill(self, now_s: float) -> None:
        self._level = min(self._level + (now_s - self._at_s) * self.rate, self.burst)
        self._at_s = now_s


class UploadPacer:
    """Deals the cap out to streams, piece by piece, first come first served. 0: no cap."""

    def __init__(self, bytes_per_s: float = 0) -> None:
        self._rate = bytes_per_s
        self._bucket: Bucket | None = None
        self._queue = trio.Lock()  # first come, first served
        fair = max(int(bytes_per_s / PIECES_PER_S), PIECE_BYTES_MIN)
        self.piece_bytes = min(fair, bounds.PIECE_BYTES) if bytes_per_s else bounds.PIECE_BYTES

    def sent(self, size: int) -> None:
        """So many bytes have left a socket."""
        if self._rate:
            self._now().sent(size, trio.current_time())

    async def wait_turn(self, size: int) -> float:
        """Return when a piece of a reply may be sent; says how many seconds that took."""
        if not self._rate:
            return 0.0
        begin_s = trio.current_time()
        async with self._queue:
            bucket = self._now()
            await trio.sleep(bucket.pause_s(trio.current_time()))
            bucket.pay(size, trio.current_time())
        return trio.current_time() - begin_s

    def _now(self) -> Bucket:
        if self._bucket is None:  # made outside of trio, where there is no time
            self._bucket = Bucket(self._rate, trio.current_time())
        return self._bucket
