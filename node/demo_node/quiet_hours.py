"""Hours of the day in which a node is quiet: other caps, or no training.

By the local time of the machine, as `transmission` and others have it: when clocks are put forward
or back, the hours are shorter or longer that night, and begin and end when the clock on the wall
says so.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Final

from demo_node.ports import Clock

LOOK_MS: Final = 20_000
"""How often the clock is looked at: it may be set, and machines sleep."""

DAY_MINUTES: Final = 24 * 60

EXAMPLE: Final = "22:00-07:00"


@dataclass(frozen=True, slots=True)
class QuietHours:
    """From one minute of the day until another, which may be of the next day."""

    begin_minute: int
    end_minute: int

    def contains(self, local: datetime) -> bool:
        """Is it quiet at this time on the wall?"""
        minute = local.hour * 60 + local.minute
        return (minute - self.begin_minute) % DAY_MINUTES < self.length_minutes

    @property
    def length_minutes(self) -> int:
        """As long as no clock is changed meanwhile."""
        return (self.end_minute - self.begin_minute) % DAY_MINUTES

    @property
    def end(self) -> str:
        """When it is over, as a clock shows it."""
        return f"{self.end_minute // 60:02}:{self.end_minute % 60:02}"


def parse_quiet_hours(text: str) -> QuietHours | None:
    """`22:00-07:00`, local time; None for an empty text. Raises ValueError."""
    if not text:
        return None
    match = re.fullmatch(r"(\d\d?):(\d\d)-(\d\d?):(\d\d)", text)
    if match is None:
        raise ValueError(f"{text[:20]!r} is no span of hours like {EXAMPLE}")
    hours, minutes = (int(match[1]), int(match[3])), (int(match[2]), int(match[4]))
    if max(hours) > 23 or max(minutes) > 59:
        raise ValueError(f"{text!r}: hours go to 23 and minutes to 59, like {EXAMPLE}")
    begin, end = (hour * 60 + minute for hour, minute in zip(hours, minutes, strict=True))
    if begin == end:
        raise ValueError(
            f"{text!r} begins when it ends; leave it out, or name hours like {EXAMPLE}"
        )
    return QuietHours(begin, end)


async def watch_quiet_hours(
    hours: QuietHours,
    clock: Clock,
    on_change: Callable[[bool], None],
    zone: tzinfo | None = None,
) -> None:
    """Say when it gets quiet and when that is over, for ever; at first only if it is quiet.

    `zone`: of the wall's clock; None is the machine's.
    """
    was_quiet = False
    while True:
        now_ms = clock.now_ms()
        is_quiet = hours.contains(datetime.fromtimestamp(now_ms / 1000, zone))
        if is_quiet != was_quiet:
            on_change(is_quiet)
            was_quiet = is_quiet
        await clock.sleep_until_ms(now_ms + LOOK_MS)
