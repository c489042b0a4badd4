"""The caps: what goes through the sockets is counted, and replies wait their turn. Trio code.

Only the pieces of larger replies wait. Gossip, requests and small answers (a head, a header, the
time) pass at once and are paid for afterwards, by those pieces: 1 MB on its way to or from a peer
must not hold up a header that is worth nothing a second later.

Sent bytes are paid for as they are written. What comes is paid for before it is asked for: a peer
may send what its window holds, a first one with our request and as much as we read from then on
(`receiving.py`). So nothing large comes that was not paid for.
"""

from typing import Final

import trio

from demo_node.mesh import bounds

BURST_S: Final = 0.25
"""What may pass at once after a pause, in seconds of the cap."""

PIECES_PER_S: Final = 20
"""Pieces that the cap is dealt out in: the finer, the more evenly among streams."""

PIECE_BYTES_MIN: Final = 4 << 10
"""Below this a piece is mostly wrapping. Replies of one such piece do not wait."""

DEBT_S: Final = 4.0
"""What passed unasked is paid back by at most so long a pause."""

LOOK_S: Final = 1.0
"""Who waits looks so often whether the cap is another one meanwhile."""


class Bucket:
    """Bytes that may pass: `rate` more of them each second, `burst` at most."""

    def __init__(self, rate: float, now_s: float) -> None:
        self.rate = rate
        self._level = self.burst
        self._paid = 0
        self._unasked = 0.0
        """Of what is owed, what nobody paid for."""
        self._at_s = now_s

    @property
    def burst(self) -> float:
        """Bytes that may pass at once after a pause."""
        return max(self.rate * BURST_S, PIECE_BYTES_MIN)

    def set_rate(self, rate: float, now_s: float) -> None:
        """Another cap from now on. What is owed by the old one is not for hours of the new one."""
        self._refill(now_s)
        self.rate = rate
        self._level = max(min(self._level, self.burst), -rate * DEBT_S)
        self._unasked = min(self._unasked, max(-self._level, 0.0))

    def pause_s(self, now_s: float) -> float:
        """How long the next piece has to wait."""
        self._refill(now_s)
        return -self._level / self.rate if self._level <= -1 else 0.0  # a whole byte

    def pay(self, size: int, now_s: float) -> None:
        """Take `size` bytes that are about to pass."""
        self._refill(now_s)
        self._level -= size
        self._paid += size

    def refund(self, size: int, now_s: float) -> None:
        """So many bytes were paid for and will not pass."""
        self._refill(now_s)
        size = min(size, self._paid)
        self._paid -= size
        self._level = min(self._level + size, self.burst)

    def passed(self, size: int, now_s: float) -> None:
        """So much has gone through a socket: what nobody paid for is taken now."""
        self._refill(now_s)
        covered = min(size, self._paid)
        self._paid -= covered
        most = max(self._level, 0.0) + max(self.rate * DEBT_S - self._unasked, 0.0)
        unasked = min(size - covered, most)
        self._level -= unasked
        self._unasked = min(self._unasked + unasked, max(-self._level, 0.0))

    def _refill(self, now_s: float) -> None:
        self._level = min(self._level + (now_s - self._at_s) * self.rate, self.burst)
        self._unasked = min(self._unasked, max(-self._level, 0.0))
        self._at_s = now_s


class Pacer:
    """Deals a cap out to streams, piece by piece, first come first served. 0: no cap."""

    def __init__(self, bytes_per_s: float = 0) -> None:
        self.bytes_per_s = bytes_per_s
        """May be set at any time; who waits looks again within LOOK_S."""
        self._bucket: Bucket | None = None
        self._queue = trio.Lock()  # first come, first served

    @property
    def piece_bytes(self) -> int:
        """How much is best read or written at once."""
        if not self.bytes_per_s:
            return bounds.PIECE_BYTES
        fair = max(int(self.bytes_per_s / PIECES_PER_S), PIECE_BYTES_MIN)
        return min(fair, bounds.PIECE_BYTES)

    def passed(self, size: int) -> None:
        """So many bytes have gone through a socket."""
        if bucket := self._now():
            bucket.passed(size, trio.current_time())

    async def wait_turn(self, size: int) -> float:
        """Return when a piece of a reply may pass; says how many seconds that took."""
        if not self.bytes_per_s:
            return 0.0
        begin_s = trio.current_time()
        async with self._queue:
            while bucket := self._now():
                pause_s = bucket.pause_s(trio.current_time())
                if not pause_s:
                    bucket.pay(size, trio.current_time())
                    break
                await trio.sleep(min(pause_s, LOOK_S))
        return trio.current_time() - begin_s

    def refund(self, size: int) -> None:
        """So many bytes had their turn and will not pass."""
        if size and (bucket := self._now()):
            bucket.refund(size, trio.current_time())

    def _now(self) -> Bucket | None:
        """The bucket with the cap of this moment; None while there is none."""
        if not self.bytes_per_s:
            self._bucket = None
        elif self._bucket is None:
            self._bucket = Bucket(self.bytes_per_s, trio.current_time())
        elif self._bucket.rate != self.bytes_per_s:
            self._bucket.set_rate(self.bytes_per_s, trio.current_time())
        return self._bucket
