"""What a metric is, before it counts anything."""

from dataclasses import dataclass, field
from typing import Final

from prometheus_client import Counter, Gauge, Histogram

OPEN: Final = ()
"""Values of a label that names this node itself: known only at run time, and only one."""


@dataclass(frozen=True, slots=True)
class Declared:
    """One metric. `labels`: name -> all its values; `buckets`: of a histogram."""

    kind: type[Counter] | type[Gauge] | type[Histogram]
    name: str
    meaning: str
    labels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    buckets: tuple[float, ...] = ()
