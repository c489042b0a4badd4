"""Rule 3: one time out of many clocks, some of them wrong."""

import itertools
import random

import pytest

from demo_protocol.common_time import (
    READINGS_KEPT,
    Reading,
    choose_ahead_ms,
    choose_median,
    choose_reading,
    compute_bound_ms,
    compute_reading,
    keep_readings,
)

HOUR_MS = 3_600_000


def clock(ahead_ms: int, error_ms: int = 5, at_ms: int = 0) -> Reading:
    return Reading(ahead_ms, error_ms, at_ms)


def median_ms(own_ms: int, *peers_ms: int) -> int:
    median = choose_median(clock(own_ms), [clock(ms) for ms in peers_ms])
    assert median is not None
    return median.ahead_ms


@pytest.mark.parametrize("read_at_ms", [100, 130, 160])
def test_a_reading_is_right_within_its_error_whenever_on_the_way_it_was_made(
    read_at_ms: int,
) -> None:
    truth_ms = 7_000
    reading = compute_reading(read_at_ms + truth_ms, asked_ms=100, answered_ms=160)
    assert abs(reading.ahead_ms - truth_ms) <= reading.error_ms == 31


def test_fewer_than_three_peers_decide_nothing() -> None:
    assert choose_median(clock(0), [clock(5_000), clock(5_000)]) is None
    assert choose_median(clock(0), [clock(5_000)] * 3) is not None


def test_who_is_wrong_alone_is_corrected_and_corrects_nobody() -> None:
    assert median_ms(5_000, 0, 0, 0) == 0
    assert median_ms(0, 5_000, 0, 0) == 0
    assert median_ms(-5 * HOUR_MS, 0, 0, 0) == 0


@pytest.mark.parametrize("count", range(4, 10))
@pytest.mark.parametrize("lie_ms", [-HOUR_MS, HOUR_MS])
def test_a_minority_that_lies_never_moves_a_clock_beyond_the_right_ones(
    count: int, lie_ms: int
) -> None:
    rng = random.Random(count)
    for _ in range(50):
        right = [rng.randint(-20, 20) for _ in range(count)]
        liars = rng.randint(1, (count - 1) // 2)
        right = right[liars:]
        clocks = [*right, *(lie_ms for _ in range(liars))]
        for number in range(len(right)):
            own_ms, *peers = clocks[number], *clocks[:number], *clocks[number + 1 :]
            assert min(right) <= median_ms(own_ms, *peers) <= max(right)


def test_all_who_hear_the_same_clocks_choose_the_same() -> None:
    for clocks in itertools.permutations([0, 1, 4, 9]):
        assert median_ms(*clocks) == 1


def test_the_bound_holds_for_most_clocks_and_a_lone_liar_does_not_widen_it() -> None:
    own, peers = clock(0, 1), [clock(-8, 5), clock(3, 5), clock(HOUR_MS, 5)]
    assert compute_bound_ms(0, own, peers) == 13
    assert compute_bound_ms(0, own, [clock(-8, 5), clock(3, 5), clock(9, 5)]) == 13


def test_what_is_tolerated_or_within_the_error_of_the_reading_moves_nothing() -> None:
    assert choose_ahead_ms(100, clock(112, 5), 12) == 100
    assert choose_ahead_ms(100, clock(113, 5), 12) == 113
    assert choose_ahead_ms(100, clock(60, 40), 12) == 100
    assert choose_ahead_ms(100, clock(59, 40), 12) == 59


def test_the_fastest_of_the_last_answers_counts() -> None:
    kept: tuple[Reading, ...] = ()
    for at_ms, error_ms in enumerate([9, 2, 30, 40, 50, 60]):
        kept = keep_readings(kept, clock(100, error_ms, at_ms * 1_000))
        assert len(kept) <= READINGS_KEPT
    assert [reading.error_ms for reading in kept] == [30, 40, 50, 60]
    assert choose_reading(kept, 5_000).error_ms == 30


def test_a_reading_becomes_less_certain_with_age() -> None:
    old, new = clock(100, 5, 0), clock(101, 30, 200_000)
    assert choose_reading([old], 100_000) == Reading(100, 25, 100_000)
    assert choose_reading([old, new], 200_000) == Reading(101, 30, 200_000)


def test_what_a_new_reading_contradicts_is_forgotten() -> None:
    """Somebody has set that clock."""
    kept = keep_readings([clock(100, 2, 0), clock(102, 9, 1_000)], clock(30_100, 40, 2_000))
    assert kept == (clock(30_100, 40, 2_000),)
    # What drift explains is no contradiction.
    assert len(keep_readings([clock(100, 2, 0)], clock(107, 2, 20_000))) == 2
