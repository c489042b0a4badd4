"""Rule E5: learning rate and decay as correctly rounded bit patterns."""

import struct
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo_protocol.fp32 import (
    bits_to_float,
    compute_inner_lr,
    compute_lr,
    compute_step,
    round_to_fp32_bits,
)
from demo_protocol.manifest import Learning


@given(st.integers(0, 2**100), st.integers(1, 2**100))
def test_no_fp32_neighbour_is_nearer_to_the_ratio(numerator: int, denominator: int) -> None:
    bits = round_to_fp32_bits(numerator, denominator)
    exact = Fraction(numerator, denominator)
    gap = abs(Fraction(bits_to_float(bits)) - exact)
    for neighbour in (bits - 1, bits + 1):
        if neighbour >= 0:
            other = abs(Fraction(bits_to_float(neighbour)) - exact)
            assert gap < other or (gap == other and bits % 2 == 0)


@given(st.integers(2**23, 2**24 - 1), st.integers(-40, 40))
def test_halfway_between_two_fp32_numbers_the_even_one_is_taken(mantissa: int, shift: int) -> None:
    halfway = (2 * mantissa + 1) << max(shift, 0), 2 << max(-shift, 0)
    bits = round_to_fp32_bits(*halfway)
    assert bits % 2 == 0
    assert abs(Fraction(bits_to_float(bits)) - Fraction(*halfway)) == Fraction(2) ** shift / 2


@given(st.floats(0, 2.0**127, width=32))
def test_an_fp32_number_is_its_own_nearest(number: float) -> None:
    exact = Fraction(number)
    bits = round_to_fp32_bits(exact.numerator, exact.denominator)
    assert bits == struct.unpack("<I", struct.pack("<f", abs(number)))[0]


@pytest.mark.parametrize("ratio", [(-1, 1), (1, 0), (1, -1), (2**128, 1)])
def test_what_fp32_cannot_hold_is_refused(ratio: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"ratios|large"):
        round_to_fp32_bits(*ratio)


def test_e5_lr_and_decay_are_these_words() -> None:
    learning = Learning(lr_ppb=10_000_000, weight_decay_ppb=100_000_000)
    step = compute_step(learning, 0)
    assert (step.lr_bits, step.decay_bits) == (0x3C23_D70A, 0x3F7F_BE77)
    assert compute_step(replace(learning, weight_decay_ppb=0), 0).decay_bits == 0x3F80_0000


def test_e5_fp32_arithmetic_would_get_some_decay_wrong() -> None:
    wrong = 0
    for lr_ppb in range(1_000_000, 10**9, 10_000_019):
        learning = Learning(lr_ppb=lr_ppb, weight_decay_ppb=900_000_000)
        lr, decay = np.float32(lr_ppb / 1e9), np.float32(0.9)
        wrong += float(np.float32(1) - lr * decay) != compute_step(learning, 0).decay
    assert wrong > 0, "the test data would not notice"


def test_lr_warms_up_then_decays_to_its_final_share() -> None:
    learning = Learning(
        lr_ppb=1_000_000_000, lr_warmup_rounds=4, lr_decay_rounds=10, lr_final_bps=1_000
    )
    rates = [Fraction(*compute_lr(learning, r)) for r in range(20)]
    assert rates[:5] == [Fraction(n, 4) for n in (1, 2, 3, 4, 4)]
    assert rates[9] == 1 - Fraction(9, 10) * Fraction(5, 10)
    assert rates[14:] == [Fraction(1, 10)] * 6


def test_without_decay_rounds_the_lr_is_constant() -> None:
    learning = Learning(lr_ppb=7, lr_warmup_rounds=0, lr_decay_rounds=0)
    assert {Fraction(*compute_lr(learning, r)) for r in (0, 1, 10**9)} == {Fraction(7, 10**9)}


def test_the_inner_lr_follows_the_same_factor() -> None:
    learning = Learning(inner_lr_ppb=3_000_000, lr_decay_rounds=10)
    assert compute_inner_lr(learning, 0) == pytest.approx(3e-3)
    assert compute_inner_lr(learning, 10) == pytest.approx(3e-4)


@given(
    lr=st.integers(1, 10**9),
    decay=st.integers(0, 10**9),
    warmup=st.integers(0, 10**9),
    round_=st.integers(0, 2**32),
)
def test_e4_lr_and_decay_never_lead_to_subnormals(
    lr: int, decay: int, warmup: int, round_: int
) -> None:
    learning = Learning(
        lr_ppb=lr,
        weight_decay_ppb=decay,
        lr_warmup_rounds=warmup,
        lr_decay_rounds=3,
        lr_final_bps=1,
    )
    step = compute_step(learning, round_)
    assert 2.0**-64 <= step.lr <= 1
    assert step.decay == 0 or 2.0**-60 <= step.decay <= 1
