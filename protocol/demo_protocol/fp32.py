"""Correctly rounded fp32 numbers from integer ratios, and the learning rate of a round (rule E5).

Python's `1 - lr * wd` is not the fp32 number nearest to the true value, and a library's cast
may round twice. Everything that multiplies replicated parameters is therefore a 32-bit pattern,
computed here, once, from the manifest's integers.
"""

import struct
from dataclasses import dataclass
from typing import Final

from demo_protocol.manifest import PPB, Learning
from demo_protocol.schedule import BPS

FP32_MANTISSA_BITS: Final = 24
FP32_EXPONENT_MIN: Final = -149
"""Exponent of the last mantissa bit of the smallest numbers."""

LR_EXPONENT_MIN: Final = -64
"""No lr below 2^-64: then differences of parameters are multiples of 2^-87 (rule E4)."""

DECAY_EXPONENT_MIN: Final = -60
"""A factor f below 2^-60 counts as 0: then p * f of a parameter of rule E4 is never subnormal."""


@dataclass(frozen=True, slots=True)
class Step:
    """The two numbers of a parameter step, `p <- p*f - lr*s`, as fp32 bit patterns."""

    lr_bits: int
    decay_bits: int

    @property
    def lr(self) -> float:
        """The learning rate; a float64 that is exactly the fp32 number."""
        return bits_to_float(self.lr_bits)

    @property
    def decay(self) -> float:
        """The factor f = 1 - lr * weight decay; exactly the fp32 number."""
        return bits_to_float(self.decay_bits)


def round_to_fp32_bits(numerator: int, denominator: int) -> int:
    """Bits of the fp32 number nearest to numerator / denominator; ties to even.

    Both are integers, numerator >= 0, denominator > 0. Raises ValueError outside fp32's range.
    """
    if numerator < 0 or denominator <= 0:
        raise ValueError("only ratios >= 0 of integers")
    if numerator == 0:
        return 0
    # Guess the exponent of the last mantissa bit, at most one too small.
    exponent = numerator.bit_length() - denominator.bit_length() - FP32_MANTISSA_BITS
    exponent = max(exponent, FP32_EXPONENT_MIN)
    mantissa = _divide_half_even(numerator, denominator, exponent)
    if mantissa >= 1 << FP32_MANTISSA_BITS:
        exponent += 1
        mantissa = _divide_half_even(numerator, denominator, exponent)
    # A carry into bit 24 moves on to the exponent field by itself; so does a subnormal's.
    hidden = 1 << (FP32_MANTISSA_BITS - 1)
    bits = mantissa if mantissa < hidden else mantissa + (exponent - FP32_EXPONENT_MIN) * hidden
    if bits >= 0x7F80_0000:
        raise ValueError("too large for fp32")
    return bits


def bits_to_float(bits: int) -> float:
    """The fp32 number with these bits, as a Python float (exact)."""
    return float(struct.unpack("<f", struct.pack("<I", bits))[0])


def compute_lr_factor(learning: Learning, round_: int) -> tuple[int, int]:
    """What the schedule multiplies every learning rate with in `round_`: (numerator, denominator).

    Linear warm-up over `lr_warmup_rounds`, then linear decay to `lr_final_bps` over
    `lr_decay_rounds` (0: constant). The local optimizer's rate follows the same factor.
    """
    warmup, decay = learning.lr_warmup_rounds, learning.lr_decay_rounds
    if round_ < warmup:
        return max(round_, 0) + 1, warmup
    if decay == 0:
        return 1, 1
    past = min(round_ - warmup, decay)
    return BPS * decay - (BPS - learning.lr_final_bps) * past, BPS * decay


def compute_lr(learning: Learning, round_: int) -> tuple[int, int]:
    """Outer learning rate of `round_` as an exact ratio (numerator, denominator)."""
    numerator, denominator = compute_lr_factor(learning, round_)
    return learning.lr_ppb * numerator, PPB * denominator


def compute_inner_lr(learning: Learning, round_: int) -> float:
    """The local optimizer's learning rate in `round_`. A float: no two peers compare it."""
    numerator, denominator = compute_lr_factor(learning, round_)
    return learning.inner_lr_ppb * numerator / (PPB * denominator)


def compute_step(learning: Learning, round_: int) -> Step:
    """The bit patterns with which the update of `round_` is applied (rule E5)."""
    numerator, denominator = compute_lr(learning, round_)
    if numerator << -LR_EXPONENT_MIN < denominator:
        numerator, denominator = 1, 1 << -LR_EXPONENT_MIN
    shrink = numerator * learning.weight_decay_ppb
    whole = denominator * PPB
    left = max(whole - shrink, 0)
    if left << -DECAY_EXPONENT_MIN < whole:
        left = 0
    return Step(
        lr_bits=round_to_fp32_bits(numerator, denominator),
        decay_bits=round_to_fp32_bits(left, whole),
    )


def _divide_half_even(numerator: int, denominator: int, exponent: int) -> int:
    """numerator / denominator / 2^exponent, rounded to an integer, ties to even."""
    if exponent < 0:
        numerator <<= -exponent
    else:
        denominator <<= exponent
    quotient, rest = divmod(numerator, denominator)
    return quotient + (2 * rest > denominator or (2 * rest == denominator and quotient & 1))
