"""Rules 1, 2, 12 and 17: rounds and their boundaries, in integers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo_protocol.schedule import (
    Schedule,
    contribute_end_ms,
    coverage_cut_ms,
    round_at,
    round_start_ms,
    settle_start_ms,
    slot_start_ms,
    train_end_ms,
)
from tests.builders import schedule

GENESIS = schedule().genesis_ms


@pytest.mark.parametrize(
    ("after_genesis_ms", "round_"),
    [(-3_001, -2), (-3_000, -1), (-1, -1), (0, 0), (2_999, 0), (3_000, 1), (30_000_000, 10_000)],
)
def test_rule_1_the_round_is_the_whole_number_of_rounds_since_genesis(
    after_genesis_ms: int, round_: int
) -> None:
    assert round_at(schedule(), GENESIS + after_genesis_ms) == round_


@given(now_ms=st.integers(0, 2**53), round_ms=st.integers(100, 86_400_000))
def test_rule_1_every_moment_lies_in_the_round_it_is_given(now_ms: int, round_ms: int) -> None:
    timing = schedule(round_ms=round_ms)
    round_ = round_at(timing, now_ms)
    assert round_start_ms(timing, round_) <= now_ms < round_start_ms(timing, round_ + 1)


def test_the_phases_of_a_round_of_three_seconds() -> None:
    timing, start = schedule(), GENESIS + 7 * 3_000
    assert round_start_ms(timing, 7) == start
    assert train_end_ms(timing, 7) == start + 1_650
    assert contribute_end_ms(timing, 7) == start + 2_250
    assert settle_start_ms(timing, 7) == start + 2_700


def test_rule_12_slots_begin_one_offset_apart_where_contributing_ends() -> None:
    timing = schedule(slots=3, slot_offset_ms=120)
    begins = [slot_start_ms(timing, 7, slot) - contribute_end_ms(timing, 7) for slot in range(3)]
    assert begins == [0, 120, 240]


def test_rule_17_coverage_is_cut_one_skew_before_contributing_ends() -> None:
    assert contribute_end_ms(schedule(), 7) - coverage_cut_ms(schedule(), 7) == 100


@given(
    round_=st.integers(0, 10**6),
    round_ms=st.integers(100, 86_400_000),
    parts=st.lists(st.integers(1, 3_333), min_size=3, max_size=3),
)
def test_the_phases_follow_each_other_inside_the_round(
    round_: int, round_ms: int, parts: list[int]
) -> None:
    train_bps, contribute_bps, propose_bps = parts
    timing: Schedule = schedule(
        round_ms=round_ms,
        train_bps=train_bps,
        contribute_bps=contribute_bps,
        propose_bps=propose_bps,
    )
    assert (
        round_start_ms(timing, round_)
        <= train_end_ms(timing, round_)
        <= contribute_end_ms(timing, round_)
        <= settle_start_ms(timing, round_)
        <= round_start_ms(timing, round_ + 1)
    )
