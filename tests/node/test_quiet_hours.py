"""Quiet hours by the clock on the wall: over midnight, over a change of clocks, elsewhere."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo_node.quiet_hours import LOOK_MS, parse_quiet_hours, watch_quiet_hours

BERLIN = ZoneInfo("Europe/Berlin")
MINUTES = st.integers(0, 24 * 60 - 1)


class Wall:
    """A clock that jumps to whatever is slept for, until `end_ms`."""

    def __init__(self, begin: datetime, end: datetime) -> None:
        self._now_ms = int(begin.timestamp() * 1000)
        self._end_ms = int(end.timestamp() * 1000)

    def now_ms(self) -> int:
        return self._now_ms

    async def sleep_until_ms(self, deadline_ms: int) -> None:
        if deadline_ms > self._end_ms:
            raise TimeoutError
        self._now_ms = deadline_ms


def changes(text: str, begin: datetime, days: int) -> list[str]:
    """What the wall's clock shows, in UTC too, whenever it gets quiet or is not any more."""
    hours = parse_quiet_hours(text)
    assert hours is not None
    wall = Wall(begin, begin + timedelta(days=days))
    seen: list[str] = []

    def note(is_quiet: bool) -> None:
        at = datetime.fromtimestamp(wall.now_ms() / 1000, BERLIN)
        seen.append(f"{at:%d %H:%M}, {at.astimezone(UTC):%H:%M} UTC {'+' if is_quiet else '-'}")

    watching = watch_quiet_hours(hours, wall, note, BERLIN)
    with pytest.raises(TimeoutError):
        watching.send(None)
    return seen


def test_over_midnight() -> None:
    assert changes("22:00-07:00", datetime(2026, 11, 3, 12, tzinfo=BERLIN), 2) == [
        "03 22:00, 21:00 UTC +",
        "04 07:00, 06:00 UTC -",
        "04 22:00, 21:00 UTC +",
        "05 07:00, 06:00 UTC -",
    ]


def test_within_a_day() -> None:
    assert changes("9:30-17:05", datetime(2026, 11, 3, 12, tzinfo=BERLIN), 1) == [
        "03 12:00, 11:00 UTC +",
        "03 17:05, 16:05 UTC -",
        "04 09:30, 08:30 UTC +",
    ]


def test_a_night_in_which_clocks_are_put_back_is_an_hour_longer() -> None:
    assert changes("22:00-07:00", datetime(2026, 10, 24, 12, tzinfo=BERLIN), 1) == [
        "24 22:00, 20:00 UTC +",
        "25 07:00, 06:00 UTC -",
    ]


def test_a_night_in_which_clocks_are_put_forward_is_an_hour_shorter() -> None:
    assert changes("22:00-07:00", datetime(2026, 3, 28, 12, tzinfo=BERLIN), 1) == [
        "28 22:00, 21:00 UTC +",
        "29 07:00, 05:00 UTC -",
    ]


def test_hours_that_a_clock_leaves_out_begin_after_them() -> None:
    assert changes("02:30-03:30", datetime(2026, 3, 29, 0, tzinfo=BERLIN), 1)[:2] == [
        "29 03:00, 01:00 UTC +",
        "29 03:30, 01:30 UTC -",
    ]


@given(begin=MINUTES, length=st.integers(1, 24 * 60 - 1), minute=MINUTES)
def test_it_is_quiet_in_so_many_minutes_from_the_first(
    begin: int, length: int, minute: int
) -> None:
    end = (begin + length) % (24 * 60)
    text = f"{begin // 60}:{begin % 60:02}-{end // 60:02}:{end % 60:02}"
    hours = parse_quiet_hours(text)
    assert hours is not None
    at = datetime(2026, 1, 1) + timedelta(minutes=minute)
    days = (begin <= minute < begin + length, begin <= minute + 24 * 60 < begin + length)
    assert hours.contains(at) == any(days)
    assert hours.length_minutes == length


def test_what_is_no_span_of_hours_is_said() -> None:
    assert parse_quiet_hours("") is None
    for text in ("22-7", "22:00", "24:00-07:00", "22:60-07:00", "07:00-07:00", "x", "22:00-07:00 "):
        with pytest.raises(ValueError, match="like 22:00-07:00"):
            parse_quiet_hours(text)


def test_the_clock_is_looked_at_more_than_once_a_minute() -> None:
    assert LOOK_MS < 60_000
