"""The machine's clock, corrected (rules 3 and 4).

Time is counted by a clock that nobody sets and that goes on while the machine sleeps or this
process is stopped; the wall clock only says where to begin. So a wall clock that is set, by a
person or by NTP, moves nothing here: what follows from it the timekeeper decides.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final

SLEW_BPS: Final = 500
"""A correction after the first signature makes the clock at most 5 % faster or slower."""

LOOK_MS: Final = 1_000
"""Sleepers look at the clock so often: it may be corrected meanwhile, or the machine sleep."""

STRADDLE_MS: Final = 1
TRIES_MAX: Final = 5
"""Two clocks are compared by reading one before and after the other, within so much if possible."""

_BOOT_CLOCK: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Linux stops CLOCK_MONOTONIC while it sleeps; macOS, which has no other, does not."""


def read_boot_ms() -> int:
    """Milliseconds since the machine was booted, asleep or not."""
    return time.clock_gettime_ns(_BOOT_CLOCK) // 1_000_000


def read_wall_ms() -> int:
    """The machine's wall clock, Unix milliseconds."""
    return time.time_ns() // 1_000_000


class SystemClock:
    """Implements ports.Clock. `offset_ms` makes it wrong, for tests."""

    def __init__(
        self,
        offset_ms: int = 0,
        *,
        boot_ms: Callable[[], int] = read_boot_ms,
        wall_ms: Callable[[], int] = read_wall_ms,
    ) -> None:
        self.boot_ms = boot_ms
        self._wall_ms = wall_ms
        self._offset_ms = offset_ms
        self._from_ms = self._to_ms = self.raw_ahead_ms()
        self._since_ms = boot_ms()
        self._held = False
        self._newest_ms = 0

    def raw_now_ms(self) -> int:
        """The wall clock, uncorrected: what peers are told (rule 3)."""
        return self._wall_ms() + self._offset_ms

    def raw_ahead_ms(self) -> int:
        """How far the wall clock is ahead of the boot clock."""
        best_ms, ahead_ms = -1, 0
        for _ in range(TRIES_MAX):  # we may be stopped for seconds between two readings
            before_ms = self.boot_ms()
            raw_ms = self.raw_now_ms()
            took_ms = self.boot_ms() - before_ms
            if best_ms < 0 or took_ms < best_ms:
                best_ms, ahead_ms = took_ms, raw_ms - before_ms - took_ms // 2
            if took_ms <= STRADDLE_MS:
                break
        return ahead_ms

    @property
    def ahead_ms(self) -> int:
        """How far this clock is to be ahead of the boot clock; it may still be on its way there."""
        return self._to_ms

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch. Once held, it never goes back."""
        now_ms = self._steered_ms()
        if not self._held:
            return now_ms
        self._newest_ms = max(self._newest_ms, now_ms)
        return self._newest_ms

    def hold(self) -> None:
        """Something will be signed by this clock from now on: no more free steps (rule 4)."""
        self._held = True

    def steer(self, ahead_ms: int, slew_max_ms: int) -> None:
        """Become `ahead_ms` ahead of the boot clock.

        Before `hold` at once. Afterwards what is at most `slew_max_ms` is slewed. Of more, forwards
        is a jump, and backwards the clock stands still as long: both sit out rounds.
        """
        boot_ms = self.boot_ms()
        now_ahead_ms = self._steered_ms() - boot_ms
        slews = self._held and abs(ahead_ms - now_ahead_ms) <= slew_max_ms
        self._from_ms = now_ahead_ms if slews else ahead_ms
        self._to_ms, self._since_ms = ahead_ms, boot_ms

    async def sleep_until_ms(self, deadline_ms: int) -> None:
        """Return at or after `deadline_ms`. Looks at the clock again at least once a second."""
        # Not by now_ms: while that stands still, a short rest would be slept over and over.
        while (left_ms := deadline_ms - self._steered_ms()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(min(left_ms, LOOK_MS) / 1000)

    def _steered_ms(self) -> int:
        boot_ms = self.boot_ms()
        moved_ms = self._to_ms - self._from_ms
        if moved_ms:
            reach_ms = (boot_ms - self._since_ms) * SLEW_BPS // 10_000
            moved_ms = max(-reach_ms, min(reach_ms, moved_ms))
        return boot_ms + self._from_ms + moved_ms
