"""Bounds of the buckets of histograms, by what they measure."""

from typing import Final

ROUND_S: Final = (0.1, 0.25, 0.5, 1, 1.5, 2, 2.5, 3, 5, 10, 20, 30, 45, 60, 90, 120, 300, 600)
"""What takes about a round."""

OF_A_ROUND: Final = (
    *(0.25, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.975),
    *(1, 1.025, 1.05, 1.1, 1.25, 1.5, 2, 5),
)
"""Parts of a round, fine where late begins: rounds last from seconds to hours."""

NETWORK_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
"""What waits for others."""

FAST_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1)
"""What must not take long."""

OP_S: Final = (*FAST_S, 2.5, 5, 10, 30)
"""Parts of a phase: from a small decode to a large snapshot."""

BYTES: Final = tuple(float(4**power) for power in range(5, 15))
"""Sizes: 1 KiB to 256 MiB."""
