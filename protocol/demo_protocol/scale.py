"""The 8-bit scale code of a chunk and the unit it counts in (rules E7, T3 and T6).

A code's high four bits are an exponent e, its low four bits a mantissa m; its value is the
integer (16 + m) << e. Values grow with the code, from 16 to 31 << 15, in steps of 3 to 6 %.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from demo_protocol.manifest import PPB, Learning

SCALE_VALUES: Final[npt.NDArray[np.int32]] = np.array(
    [(16 + (code & 15)) << (code >> 4) for code in range(256)], dtype=np.int32
)
"""Value of every code, [256]."""

SCALE_MIDPOINTS: Final[npt.NDArray[np.float32]] = (
    (SCALE_VALUES[:-1].astype(np.float64) + SCALE_VALUES[1:]) / 2
).astype(np.float32)
"""Between codes i and i+1, [255]. Exact in fp32. A magnitude on it takes the lower code."""

STEPS_UNIT_BITS: Final = 8
"""mode "steps": the codes span 2^-4 to 3968 times the inner learning rate. Seen on tiny: 0.4 (8
steps a round, rate decayed to a tenth) to beyond 496 (120 steps a round, residual included)."""

ACCUMULATE_UNIT_BITS: Final = 20
"""mode "accumulate": the codes span 2^-16 to 0.97 times the outer learning rate. A gradient
clipped to norm 1 leaves 2^-13 per coefficient of a model with 100 M parameters."""


def encode_scale(magnitude: float) -> int:
    """Code whose value is nearest to `magnitude` (in units); saturates at both ends."""
    return int(np.searchsorted(SCALE_MIDPOINTS, np.float32(magnitude), side="left"))


def decode_scale(code: int) -> int:
    """Value of a code, 0 <= code <= 255, in units."""
    return int(SCALE_VALUES[code])


def compute_unit_exponent(learning: Learning) -> int:
    """u: one unit of a scale's value is 2^-u. Common to a run, since rule T6 compares scales.

    A power of two, so that value x unit is exact in fp32. It follows the learning rate of the
    manifest: what a round moves is proportional to it.
    """
    if learning.local == "steps":
        return STEPS_UNIT_BITS - _floor_log2(learning.inner_lr_ppb, PPB)
    return ACCUMULATE_UNIT_BITS - _floor_log2(learning.lr_ppb, PPB)


def _floor_log2(numerator: int, denominator: int) -> int:
    """Largest n with 2^n <= numerator / denominator, for 0 < numerator <= denominator."""
    n = numerator.bit_length() - denominator.bit_length()
    return n if numerator << max(-n, 0) >= denominator << max(n, 0) else n - 1
