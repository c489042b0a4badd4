"""How long anything may keep the event loop, on a machine of whatever speed."""

import statistics
from collections.abc import Sequence
from typing import Final

BOUND_MS: Final = 10.0

YARDSTICK_MS: Final = 0.5
"""`do_fixed_work` on the machine that the bound is meant for (docs/benchmarks.md)."""


def do_fixed_work() -> int:
    """Half a millisecond of what Python does all day: the measure of this machine, now."""
    counts: dict[str, int] = {}
    for i in range(4_000):
        name = f"key{i % 61}"
        counts[name] = counts.get(name, 0) + i
    return sum(counts.values())


def compute_bound_ms(fixed_work_ms: Sequence[float]) -> float:
    """Processor time; a machine that needs longer for the fixed work gets as many times more."""
    return BOUND_MS * max(1.0, statistics.median(fixed_work_ms) / YARDSTICK_MS)
