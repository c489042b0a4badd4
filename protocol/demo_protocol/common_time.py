"""One time out of many clocks (rule 3). Milliseconds; arguments only.

A clock is known by how far it is `ahead` of a time base of our own: one that nobody sets and that
goes on while the machine sleeps. Only raw clocks are compared, never corrected ones, so
corrections do not feed on each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

PEERS_MIN: Final = 3
"""Peers it takes to correct a clock: with our own four clocks, of which one may lie."""

READINGS_KEPT: Final = 4
"""Newest readings of one peer's clock; the one that came back fastest counts."""

DRIFT_PPM: Final = 200
"""Two quartz clocks part by up to so much: what a reading says becomes less certain with age."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A clock was `ahead_ms` of our time base at `at_ms` of it, give or take `error_ms`."""

    ahead_ms: int
    error_ms: int
    at_ms: int


def compute_reading(raw_ms: int, asked_ms: int, answered_ms: int) -> Reading:
    """What an answer says: the clock was read at some moment between question and answer."""
    middle_ms = (asked_ms + answered_ms) // 2
    error_ms = (answered_ms - asked_ms + 1) // 2 + 1
    return Reading(raw_ms - middle_ms, error_ms, answered_ms)


def compute_error_ms(reading: Reading, now_ms: int) -> int:
    """How wrong a reading may be by now, if its clock was not set since."""
    return reading.error_ms + (now_ms - reading.at_ms) * DRIFT_PPM // 1_000_000


def keep_readings(kept: Sequence[Reading], new: Reading) -> tuple[Reading, ...]:
    """The readings of one clock that still hold; those the new one contradicts do not."""
    fitting = [
        old
        for old in kept
        if abs(old.ahead_ms - new.ahead_ms) <= compute_error_ms(old, new.at_ms) + new.error_ms
    ]
    return (*fitting, new)[-READINGS_KEPT:]


def choose_reading(kept: Sequence[Reading], now_ms: int) -> Reading:
    """The most certain of one clock's readings, with its error by now."""
    best = min(kept, key=lambda reading: compute_error_ms(reading, now_ms))
    return Reading(best.ahead_ms, compute_error_ms(best, now_ms), now_ms)


def choose_median(own: Reading, peers: Sequence[Reading]) -> Reading | None:
    """The lower median of all clocks, our own included; None where too few peers answered.

    Nodes that hear the same clocks choose the same one. While fewer than half of the clocks are
    wrong, it lies between two right ones (docs/decisions/time.md).
    """
    if len(peers) < PEERS_MIN:
        return None
    clocks = sorted((own, *peers), key=lambda reading: reading.ahead_ms)
    return clocks[(len(clocks) - 1) // 2]


def compute_bound_ms(ahead_ms: int, own: Reading, peers: Sequence[Reading]) -> int:
    """Most of all clocks, our own included, are within so much of one that is `ahead_ms`."""
    clocks = (own, *peers)
    distances = sorted(abs(clock.ahead_ms - ahead_ms) + clock.error_ms for clock in clocks)
    return distances[len(clocks) // 2]


def choose_ahead_ms(current_ms: int, median: Reading, tolerance_ms: int) -> int:
    """How far ahead our clock should be: as it is, unless the median certainly says otherwise.

    What is tolerated, or less than the error of the reading, moves no clock: good ones stand.
    """
    distance_ms = abs(median.ahead_ms - current_ms)
    return current_ms if distance_ms <= max(tolerance_ms, median.error_ms) else median.ahead_ms
