import math
import re
import time
from pathlib import Path

from prometheus_client import generate_latest

from demo_node.observe.meter import Meter
from demo_node.observe.metrics import METRICS, format_metrics_table
from demo_node.observer import Figure
from demo_node.views import NodeState, Outcome, Phase, PhaseView
from tests.control.fake_node import round_view, status_view

OPERATING = Path(__file__).parents[2] / "docs" / "operating.md"


def exposition(metrics: Meter) -> dict[str, float]:
    lines = generate_latest(metrics.registry).decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def test_every_series_exists_before_the_first_event() -> None:
    series = exposition(Meter())
    assert series['demo_rounds_total{outcome="recorded"}'] == 0
    assert series['demo_round_phase_seconds_count{phase="settle"}'] == 0
    assert series['demo_gossip_messages_total{topic="headers",verdict="rejected"}'] == 0
    assert not [name for name in series if "_created" in name]


def test_names_follow_the_rules() -> None:
    for metric in METRICS:
        assert re.fullmatch(r"demo_[a-z_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind.__name__ == "Counter"), metric.name
        assert bool(metric.buckets) == (metric.kind.__name__ == "Histogram")
        assert metric.meaning.endswith(".")


def test_rounds_are_counted_once() -> None:
    metrics = Meter()
    metrics.on_round(round_view(5))
    metrics.on_round(round_view(6, outcome=Outcome.FORKED, included=False))
    metrics.on_round(round_view(7, outcome=Outcome.SKIPPED, included=False))
    series = exposition(metrics)
    assert series['demo_rounds_total{outcome="recorded"}'] == 1
    assert series['demo_rounds_total{outcome="forked"}'] == 1
    assert series["demo_round_latency_seconds_count"] == 1
    assert series["demo_round_latency_seconds_sum"] == 2.6
    assert series["demo_round_participants"] == 4


def test_latency_is_told_as_a_part_of_the_round_too() -> None:
    metrics = Meter()
    metrics.on_round(round_view(4))
    assert exposition(metrics)["demo_round_latency_ratio_count"] == 0  # how long are rounds?
    metrics.on_status(status_view(round_ms=4_000))
    metrics.on_round(round_view(5, latency_ms=2_600))
    metrics.on_round(round_view(6, latency_ms=4_040, outcome=Outcome.LATE))
    series = exposition(metrics)
    assert series["demo_round_latency_ratio_count"] == 2
    assert math.isclose(series["demo_round_latency_ratio_sum"], 0.65 + 1.01)
    assert series['demo_round_latency_ratio_bucket{le="1.0"}'] == 1
    assert series['demo_round_latency_ratio_bucket{le="1.025"}'] == 2


def test_a_phase_that_the_newest_round_did_not_reach_has_no_slack() -> None:
    metrics = Meter()
    train, settle = (PhaseView(phase, 0, 700, 1_000) for phase in (Phase.TRAIN, Phase.SETTLE))
    metrics.on_round(round_view(5, phases=(train, settle)))
    assert exposition(metrics)['demo_round_slack_seconds{phase="settle"}'] == 0.3
    metrics.on_round(round_view(6, outcome=Outcome.SKIPPED, phases=(train,)))
    series = exposition(metrics)
    assert series['demo_round_slack_seconds{phase="train"}'] == 0.3
    assert math.isnan(series['demo_round_slack_seconds{phase="settle"}'])


def test_exactly_one_state_holds() -> None:
    metrics = Meter()
    for state in NodeState:
        metrics.on_status(status_view(state=state))
        series = exposition(metrics)
        held = [s for s in NodeState if series[f'demo_node_state{{state="{s}"}}']]
        assert held == [state]
        is_level = state in (NodeState.ACTIVE, NodeState.PAUSED, NodeState.FINISHED)
        assert series["demo_ready"] == is_level


def test_a_held_out_loss_is_not_a_number_before_the_first_look() -> None:
    metrics = Meter()
    metrics.on_status(status_view(heldout_loss=math.nan, heldout_round=-1))
    assert math.isnan(exposition(metrics)["demo_heldout_loss"])
    assert exposition(metrics)["demo_heldout_round"] == -1
    metrics.on_status(status_view(heldout_loss=2.75, heldout_round=20))
    assert exposition(metrics)["demo_heldout_loss"] == 2.75
    assert exposition(metrics)["demo_heldout_round"] == 20


def test_only_a_written_snapshot_is_a_success() -> None:
    metrics = Meter()
    name = "demo_snapshot_last_success_timestamp_seconds"
    metrics.on_op("apply", 0.1)
    metrics.on_event("snapshot.missed", reason="the disk is full")
    assert exposition(metrics)[name] == 0
    before_s = time.time()
    metrics.on_op("snapshot", 0.1)
    assert before_s <= exposition(metrics)[name] <= time.time()


def test_totals_follow_the_status_and_never_fall() -> None:
    metrics = Meter()
    name, labels = "demo_network_bytes_total", ("out", "gossip")
    for total in (1_000, 5_000, 4_000):
        metrics.on_figures([Figure(name, total, labels)])
    assert exposition(metrics)[name + '{direction="out",protocol="gossip"}'] == 5_000


def test_the_run_replaces_the_node_info() -> None:
    metrics = Meter()
    metrics.on_status(status_view(run_id=b""))
    metrics.on_status(status_view())
    assert len([name for name in exposition(metrics) if name.startswith("demo_node_info")]) == 1


def test_the_operating_manual_lists_every_metric() -> None:
    assert format_metrics_table() in OPERATING.read_text()
