"""How values and times are written on a dashboard, as Grafana does."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

SIZES: Final = {
    "s": ((1e-6, "µs"), (1e-3, "ms"), (1, "s")),
    "Bps": ((1, "B/s"), (1e3, "kB/s"), (1e6, "MB/s"), (1e9, "GB/s")),
    "bytes": ((1, "B"), (2**10, "KiB"), (2**20, "MiB"), (2**30, "GiB"), (2**40, "TiB")),
}
"""Units that are written with prefixes, smallest first."""


def format_value(value: float, unit: str, decimals: int | None = None) -> str:
    """As Grafana writes it, more or less."""
    if math.isnan(value):
        return "–"
    if unit == "percentunit":
        return f"{round(100 * value, 1 if decimals is None else decimals):g}%"
    if unit in SIZES:
        return _scale(value, SIZES[unit], decimals)
    if unit == "short" and abs(value) >= 1000:
        return _scale(value, ((1e3, "K"), (1e6, "M"), (1e9, "B")), decimals)
    return f"{value:.{decimals}f}" if decimals is not None else f"{value:.3g}"


def format_time(at_s: float) -> str:
    """Of day, of a Unix time."""
    return f"{datetime.fromtimestamp(at_s, UTC):%H:%M:%S}"


def _scale(value: float, sizes: Sequence[tuple[float, str]], decimals: int | None) -> str:
    """In the largest of `sizes` that the value fills; 0 in the one that has no prefix."""
    filled = [each for each in sizes if abs(value) >= each[0]] or list(sizes[:1])
    size, name = filled[-1] if value else next(each for each in sizes if each[0] == 1)
    number = f"{value / size:.3g}" if decimals is None else f"{value / size:.{decimals}f}"
    return f"{number} {name}"
