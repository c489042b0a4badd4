"""What a node exposes is as Prometheus wants it: names, units, help texts, exemplars."""

import subprocess

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from demo_node.observe.meter import Meter
from demo_node.observe.metrics import METRICS
from demo_node.ports import Topic
from demo_node.views import Outcome
from tests.control.fake_node import round_view, status_view
from tests.needs import needs


def feed() -> CollectorRegistry:
    """A node that has been through a few rounds."""
    meter = Meter()
    meter.on_status(status_view())
    meter.on_round_begun(3)
    for round_ in range(3):
        meter.on_round(round_view(round_))
    meter.on_round(round_view(3, outcome=Outcome.SKIPPED, included=False))
    meter.on_op("decode", 0.02)
    meter.on_measured("demo_payload_bytes", 5_000, "received")
    meter.on_message(Topic.HEADERS, "accepted")
    meter.on_event("trainer.died", pid=1)
    meter.on_loop_lag(0.002)
    return meter.registry


@pytest.mark.monitoring
def test_promtool_has_nothing_to_say_about_the_metrics() -> None:
    needs("promtool")
    text = generate_latest(feed())
    assert all(metric.name.encode() in text for metric in METRICS)
    result = subprocess.run(
        ["promtool", "check", "metrics"], input=text, check=False, capture_output=True, timeout=60
    )
    assert (result.returncode, result.stdout + result.stderr) == (0, b"")


def test_a_bucket_of_the_latency_points_to_a_round() -> None:
    text = openmetrics.generate_latest(feed()).decode()  # type: ignore[no-untyped-call]
    parsed = text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
    families = {family.name: family for family in parsed}
    latency = families["demo_round_latency_seconds"]
    found = [sample.exemplar for sample in latency.samples if sample.exemplar]
    assert [exemplar.labels["round"] for exemplar in found] == ["2"]
