"""Quantiles of what was measured, the same way wherever the command line shows them."""

import math
from collections.abc import Sequence


def compute_quantile(ordered: Sequence[float], q: float) -> float:
    """The value at or above which a share of 1 - q lies; NaN of nothing."""
    if not ordered:
        return math.nan
    return ordered[min(len(ordered) - 1, math.ceil(q * len(ordered)) - 1)]
