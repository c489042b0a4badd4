"""What a meter shows, read back."""

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from demo_node.observe.meter import Meter

SERIES_MAX = 800
"""Of one node, whatever the size of its run."""

OWN = ("demo_build_info", "demo_node_info", "python_info")
"""Info metrics: what this node, and no other, is."""

Series = tuple[str, tuple[tuple[str, str], ...]]


def read_samples(meter: Meter) -> list[Sample]:
    """All of its samples."""
    text = generate_latest(meter.registry).decode()
    return [s for family in text_string_to_metric_families(text) for s in family.samples]


def read_series(meter: Meter) -> set[Series]:
    """Their names and labels."""
    return {(sample.name, tuple(sorted(sample.labels.items()))) for sample in read_samples(meter)}


def get_labels(sample: Sample) -> dict[str, str]:
    """Without the bound that a histogram's bucket has for a label."""
    return {name: value for name, value in sample.labels.items() if name != "le"}
