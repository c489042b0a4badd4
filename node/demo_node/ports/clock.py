"""The time."""

from typing import Protocol


class Clock(Protocol):
    """Wall time, as far as this node knows it."""

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch."""
        ...

    async def sleep_until_ms(self, deadline_ms: int) -> None:
        """Return at or after `deadline_ms`."""
        ...
