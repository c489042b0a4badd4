"""Rules E12 and E3: the fingerprint of a state."""

import itertools
from random import Random

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo_protocol.digest import compute_digest, pack_digest, sum_lanes
from demo_protocol.errors import LocalFault

State = dict[str, npt.NDArray[np.float32]]


def make_state(seed: int = 0) -> State:
    random = np.random.default_rng(seed)
    return {
        "b": random.standard_normal((33, 65)).astype(np.float32),
        "a": random.standard_normal(70_001).astype(np.float32),
        "c": np.float32(random.standard_normal(())),  # type: ignore[dict-item]  # a 0-d array
    }


def test_e12_the_digest_of_a_given_state_is_a_constant() -> None:
    state = {"x": np.arange(5, dtype=np.float32), "y": np.full((2, 2), -0.5, dtype=np.float32)}
    assert compute_digest(state).hex() == "55084caa42e4364c"


def test_e12_the_order_of_construction_does_not_matter() -> None:
    state = make_state()
    assert compute_digest(dict(reversed(state.items()))) == compute_digest(state)


@given(st.lists(st.integers(0, 70_001), max_size=6), st.randoms(use_true_random=False))
def test_e12_blocks_may_be_summed_in_any_size_and_order(cuts: list[int], shuffler: Random) -> None:
    words = make_state()["a"].view(np.uint32)
    edges = [0, *sorted(cuts), len(words)]
    blocks = list(itertools.pairwise(edges))
    shuffler.shuffle(blocks)
    sums = [sum_lanes(words[start:end], 9 + start) for start, end in blocks]
    whole = sum_lanes(words, 9)
    assert tuple(sum(column) % 2**32 for column in zip(*sums, strict=True)) == whole


@given(st.integers(0, 70_000), st.integers(0, 31))
def test_e12_every_bit_counts(at: int, bit: int) -> None:
    state = make_state()
    before = compute_digest(state)
    state["a"].view(np.uint32)[at] ^= np.uint32(1 << bit)
    after = compute_digest(state)
    assert before[:4] != after[:4]
    assert before[4:] != after[4:]


def test_e12_bit_patterns_count_not_values() -> None:
    zeros = {"x": np.zeros(4, dtype=np.float32)}
    assert compute_digest(zeros) != compute_digest({"x": -zeros["x"]})


def test_e12_positions_count() -> None:
    x = np.array([1, 2], dtype=np.float32)
    assert compute_digest({"x": x}) != compute_digest({"x": x[::-1]})
    padded = {"x": np.array([1, 2, 0], dtype=np.float32)}
    assert compute_digest({"x": x}) != compute_digest(padded)


def test_positions_beyond_32_bits_wrap() -> None:
    words = np.arange(10, dtype=np.uint32)
    assert sum_lanes(words, 2**32 + 5) == sum_lanes(words, 5)
    assert pack_digest(2**32 + 1, 2, 3) == pack_digest(1, 2, 3)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int32])
def test_e3_a_state_that_is_not_fp32_has_no_digest(dtype: type) -> None:
    state: State = {"x": np.zeros(4, dtype=dtype)}
    with pytest.raises(LocalFault, match="fp32"):
        compute_digest(state)
