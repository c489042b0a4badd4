"""How many coefficients fit through an uplink: the estimate, and what follows from it."""

import random
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from demo_node.ports import Slice
from demo_node.uplink import (
    ASSUMED_BYTES_PER_S,
    COPIES_KEPT,
    GROW_ROUNDS,
    KEEP_SHARE,
    ROUNDS_KEPT,
    SLICE_S,
    START_SHARE,
    Demand,
    FastestSlice,
    Given,
    KControl,
    UplinkEstimate,
    list_points,
)
from demo_protocol.payload import typical_payload_bytes
from demo_protocol.presets import PRESETS
from demo_protocol.schema import compute_schema

WINDOW_S = 5.5
BASE = compute_schema(PRESETS["base"].model)
SIZES = {k: typical_payload_bytes(BASE, k) for k in list_points(128)}
MBIT = 125_000.0

RATES = st.floats(3, 7.5).map(lambda exponent: 10**exponent)
COPIES = st.integers(0, 32)


def choose(
    control: KControl, rate: float, copies: int = 3, *, cap: float = 0, rounds: int = 1
) -> int:
    k = 0
    for _ in range(rounds):
        k = control.choose(Demand(bytes_per_s=rate, copies=copies, cap=cap))
    return k


def test_the_points_are_powers_of_two_and_what_the_run_allows() -> None:
    assert list_points(1) == [1]
    assert list_points(32) == [1, 2, 4, 8, 16, 32]
    assert list_points(100) == [1, 2, 4, 8, 16, 32, 64, 100]


def test_what_each_link_comes_to_with_the_base_preset() -> None:
    """The window of 30 s rounds, three copies."""
    assert {mbit: choose(KControl(SIZES, WINDOW_S), mbit * MBIT) for mbit in (0.1, 1, 2, 10)} == {
        0.1: 4,
        1: 64,
        2: 128,
        10: 128,
    }


def test_before_anything_was_measured_the_uplink_is_taken_for_a_slow_one() -> None:
    assert choose(KControl(SIZES, WINDOW_S), 0) == choose(
        KControl(SIZES, WINDOW_S), ASSUMED_BYTES_PER_S
    )


def test_the_operators_cap_is_an_upper_bound() -> None:
    assert choose(KControl(SIZES, WINDOW_S), 100 * MBIT, cap=0.1 * MBIT) == 4
    assert choose(KControl(SIZES, WINDOW_S), 0.1 * MBIT, cap=100 * MBIT) == 4
    assert choose(KControl(SIZES, WINDOW_S), 0, cap=0.1 * MBIT) == 4


@given(rates=st.lists(RATES, min_size=1, max_size=40), copies=COPIES)
def test_what_is_chosen_fits_or_is_the_least(rates: list[float], copies: int) -> None:
    control = KControl(SIZES, WINDOW_S)
    for rate in rates:
        k = choose(control, rate, copies)
        need = SIZES[k] * max(copies, 1)
        assert k == 1 or need <= KEEP_SHARE * rate * WINDOW_S


@given(rates=st.lists(RATES, min_size=1, max_size=40), copies=COPIES)
def test_it_grows_by_one_step_and_only_after_some_rounds(rates: list[float], copies: int) -> None:
    control = KControl(SIZES, WINDOW_S)
    points = list_points(128)
    chosen = [points.index(choose(control, rate, copies)) for rate in rates]
    grown = [i for i, (before, after) in enumerate(pairwise(chosen)) if after > before]
    assert all(chosen[i + 1] == chosen[i] + 1 for i in grown)
    assert all(later - earlier >= GROW_ROUNDS for earlier, later in pairwise(grown))


@given(
    least=RATES,
    wavers=st.lists(st.one_of(st.floats(1, 1.49), st.sampled_from([1, 1.49])), min_size=20),
    copies=COPIES,
)
def test_a_rate_that_wavers_by_less_than_half_never_turns_it_back(
    least: float, wavers: list[float], copies: int
) -> None:
    """It may rise, or fall, on its way to where it stays; not one after the other."""
    control = KControl(SIZES, WINDOW_S)
    chosen = [choose(control, least * waver, copies) for waver in wavers]
    steps = {after > before for before, after in pairwise(chosen) if after != before}
    assert len(steps) <= 1


@given(slow=RATES, fast=RATES, copies=COPIES)
def test_a_faster_uplink_never_sends_less(slow: float, fast: float, copies: int) -> None:
    slow, fast = sorted((slow, fast))
    settled = [choose(KControl(SIZES, WINDOW_S), r, copies, rounds=40) for r in (slow, fast)]
    assert settled[0] <= settled[1]


@given(rate=RATES, copies=COPIES)
def test_where_it_settles_the_next_step_would_be_tight(rate: float, copies: int) -> None:
    k = choose(KControl(SIZES, WINDOW_S), rate, copies, rounds=40)
    larger = min((point for point in SIZES if point > k), default=None)
    if larger is not None:
        assert SIZES[larger] * max(copies, 1) > 0.6 * rate * WINDOW_S


def test_a_link_that_gets_slower_is_followed_at_once() -> None:
    control = KControl(SIZES, WINDOW_S)
    assert choose(control, 100 * MBIT) == 128
    assert choose(control, 0.5 * MBIT) == 16
    assert SIZES[32] * 3 > START_SHARE * 0.5 * MBIT * WINDOW_S


def test_a_round_in_which_more_is_asked_for_counts_for_some_rounds() -> None:
    given = Given()
    assert given.copies == 3
    given.add_copies(9)
    for _ in range(COPIES_KEPT - 1):
        given.add_copies(0)
        assert given.copies == 9
    given.add_copies(0)
    assert given.copies == 1


def test_what_is_passed_on_leaves_less_room_but_never_none() -> None:
    def settled(passed_on: int) -> int:
        control = KControl(SIZES, WINDOW_S)
        return control.choose(Demand(bytes_per_s=2 * MBIT, copies=3, passed_on=passed_on))

    assert [settled(size) for size in (0, 600_000, 1_000_000, 10**9)] == [128, 64, 16, 16]
    given = Given()
    for size in (500, 0, 10**9, 400, 600):
        given.add_passed_on(size)
    assert given.passed_on == 500


def test_the_fastest_slice_is_a_whole_one_where_there_is_any() -> None:
    fastest = FastestSlice()
    assert fastest.take() == Slice()
    fastest.add(Slice(SLICE_S / 2, 90_000))
    fastest.add(Slice(SLICE_S, 10_000))
    fastest.add(Slice(SLICE_S, 20_000))
    fastest.add(Slice(SLICE_S / 2, 99_000))
    fastest.add(Slice(SLICE_S, 5_000))
    assert fastest.take() == Slice(SLICE_S, 20_000)
    assert fastest.take() == Slice()


@given(st.lists(st.floats(0.7, 1.3), min_size=ROUNDS_KEPT, max_size=40), st.integers(0, 10**6))
def test_the_estimate_stays_within_what_was_seen(seen: list[float], seed: int) -> None:
    """Also where one round in five was many times too fast, or too slow."""
    dice = random.Random(seed)
    estimate = UplinkEstimate()
    for number, share in enumerate(seen):
        is_odd = number % ROUNDS_KEPT == 2
        rate = MBIT * (dice.choice([0.01, 50]) if is_odd else share)
        estimate.add(Slice(SLICE_S, int(SLICE_S * rate)))
    assert 0.69 * MBIT <= estimate.bytes_per_s <= 1.31 * MBIT


def test_what_was_over_soon_raises_the_estimate_and_never_lowers_it() -> None:
    """A small payload is a round trip on its way, whatever the uplink: that says nothing of it."""
    estimate = UplinkEstimate()
    for _ in range(ROUNDS_KEPT):
        estimate.add(Slice(1.0, 100_000))
    for _ in range(50):
        estimate.add(Slice(0.1, 1_000))
    assert estimate.bytes_per_s == 100_000
    for _ in range(ROUNDS_KEPT):
        estimate.add(Slice(0.1, 20_000))
    assert estimate.bytes_per_s == 200_000
