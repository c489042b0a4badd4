"""The machine's clock."""

import asyncio
import time


class SystemClock:
    """Implements ports.Clock. `offset_ms` makes it wrong, for tests."""

    def __init__(self, offset_ms: int = 0) -> None:
        self._offset_ms = offset_ms

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch."""
        return time.time_ns() // 1_000_000 + self._offset_ms

    async def sleep_until_ms(self, deadline_ms: int) -> None:
        """Return at or after `deadline_ms`. Looks at the clock again at least once a second.

        A wall clock may be set while we sleep; a long sleep would not notice.
        """
        while (left_ms := deadline_ms - self.now_ms()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(min(left_ms / 1000, 1.0))
