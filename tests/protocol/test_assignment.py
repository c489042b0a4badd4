"""Rules T5 and T2: who trains on which samples."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo_protocol.assignment import (
    Interval,
    compute_draw,
    compute_intervals,
    compute_probation_samples,
    compute_samples,
    interval_length,
    permute,
)

RUN, ROOT = b"r" * 32, b"d" * 32

Roster = list[tuple[bytes, bytes, int]]


def make_roster(source: random.Random) -> Roster:
    peers = source.sample(range(1000), source.randint(1, 64))
    return [(b"p%03d" % p, source.randbytes(32), source.randint(1, 1000)) for p in peers]


def test_t5_ten_thousand_rosters_get_disjoint_and_complete_intervals() -> None:
    source = random.Random(5)
    cursor = 0
    for round_ in range(10_000):
        roster = make_roster(source)
        intervals, after = compute_intervals(roster, round_, cursor)
        assert intervals.keys() == {peer for peer, _, _ in roster}
        assert all(intervals[peer].count == length for peer, _, length in roster)
        at = cursor
        for interval in sorted(intervals.values(), key=lambda i: i.first):
            assert interval.first == at
            at += interval.count
        assert at == after == cursor + sum(length for _, _, length in roster)
        cursor = after


def test_t5_everyone_computes_the_same_table_whatever_the_order_of_the_roster() -> None:
    source = random.Random(6)
    for round_ in range(100):
        roster = make_roster(source)
        expected = compute_intervals(roster, round_, 7)
        source.shuffle(roster)
        assert compute_intervals(roster, round_, 7) == expected


def test_t5_the_order_changes_from_round_to_round() -> None:
    roster = make_roster(random.Random(3))[:6]
    firsts = {
        min(compute_intervals(roster, r, 0)[0].items(), key=lambda i: i[1].first)[0]
        for r in range(60)
    }
    assert firsts == {peer for peer, _, _ in roster}


@pytest.mark.parametrize("total", [*range(1, 70), 255, 256, 257, 1023, 1025, 4096, 4097, 5000])
def test_t5_an_epoch_is_a_permutation(total: int) -> None:
    numbers = np.arange(2 * total, dtype=np.int64)
    samples = compute_samples(RUN, ROOT, total, numbers)
    for epoch in (samples[:total], samples[total:]):
        assert np.array_equal(np.sort(epoch), numbers[:total])


def test_t5_the_permutation_is_a_bijection_for_every_small_data_set() -> None:
    for total in range(1, 5001, 7):
        places = np.arange(total, dtype=np.int64)
        assert len(np.unique(permute((1, 2, 3, 4, 5, 6, 7, 8), total, places))) == total


def test_t5_no_sample_comes_twice_in_an_epoch_over_many_rounds() -> None:
    source, cursor, seen = random.Random(8), 0, []
    for round_ in range(20):
        roster = [(bytes([p]), bytes([p]), source.randint(1, 40)) for p in range(5)]
        intervals, cursor = compute_intervals(roster, round_, cursor)
        for interval in intervals.values():
            numbers = np.arange(interval.first, interval.first + interval.count, dtype=np.int64)
            seen += compute_samples(RUN, ROOT, 5000, numbers).tolist()
    assert cursor < 5000
    assert len(seen) == len(set(seen)) == cursor


def test_runs_roots_and_epochs_are_permuted_differently() -> None:
    numbers = np.arange(1000, dtype=np.int64)
    base = compute_samples(RUN, ROOT, 1000, numbers)
    others = [
        compute_samples(b"x" * 32, ROOT, 1000, numbers),
        compute_samples(RUN, b"x" * 32, 1000, numbers),
        compute_samples(RUN, ROOT, 1000, numbers + 1000),
    ]
    assert all(np.mean(base == other) < 0.02 for other in others)


def test_a_later_part_of_an_interval_is_computed_alone() -> None:
    numbers = np.arange(990, 1010, dtype=np.int64)
    whole = compute_samples(RUN, ROOT, 1000, numbers)
    assert np.array_equal(whole[7:], compute_samples(RUN, ROOT, 1000, numbers[7:]))


@given(st.integers(1, 2**31), st.integers(0, 2**20), st.integers(1, 300))
def test_t5_probation_draws_are_samples_and_continue(total: int, first: int, count: int) -> None:
    drawn = compute_probation_samples(b"k", 3, total, first, count)
    assert len(drawn) == count
    assert drawn.min() >= 0
    assert drawn.max() < total
    later = compute_probation_samples(b"k", 3, total, first + 1, count)
    assert np.array_equal(drawn[1:], later[:-1])


def test_draws_depend_on_label_key_and_round() -> None:
    draws = {
        compute_draw(label, key, round_)
        for label in (b"d", b"p", b"c")
        for key in (b"a", b"b")
        for round_ in (0, 1)
    }
    assert len(draws) == 12


@pytest.mark.parametrize(
    ("counts", "length"),
    [
        ((), 2),
        ((0, 0), 2),
        ((1,), 2),
        ((2,), 3),
        ((100,), 150),
        ((100, 200), 150),
        ((100, 200, 300), 300),
        ((9, 9, 9, 10, 10, 10, 10, 20, 20, 20, 20), 15),
        ((10**6, 4, 4, 4, 4, 4, 4, 4, 4), 6),
        ((100, 0, 0, 0, 0), 150),
    ],
)
def test_t2_an_interval_is_one_and_a_half_times_the_lower_median_of_eight(
    counts: tuple[int, ...], length: int
) -> None:
    assert interval_length(counts, 2) == length


def test_t2_a_round_cut_short_does_not_hold_its_author_back() -> None:
    assert interval_length((4,), 512) == 512
    assert interval_length((4, 512, 512), 512) == 768


def test_golden_assignment() -> None:
    path = Path(__file__).parents[1] / "vectors" / "assignment.json"
    case = json.loads(path.read_bytes())
    numbers = np.array(case["numbers"], dtype=np.int64)
    run_id, root = bytes.fromhex(case["run_id"]), bytes.fromhex(case["data_root"])
    assert compute_samples(run_id, root, case["total"], numbers).tolist() == case["samples"]
    members = [(bytes.fromhex(p), bytes.fromhex(k), n) for p, k, n in case["members"]]
    intervals, cursor = compute_intervals(members, case["round"], case["cursor"])
    assert cursor == case["cursor_after"]
    for peer, interval in intervals.items():
        assert interval == Interval(*case["intervals"][peer.hex()])
    key = bytes.fromhex(case["probation_key"])
    drawn = compute_probation_samples(key, case["round"], case["total"], 0, 8)
    assert drawn.tolist() == case["probation"]
