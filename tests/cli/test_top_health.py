"""Whether `demo-node top` judges events and levels as the alert rules do."""

import re
from dataclasses import replace
from typing import Any

import pytest
import yaml

from demo_node.cli.lately import find_warnings, format_warning, format_warnings
from demo_node.cli.top.concerns import find_concerns
from demo_node.cli.top.figures import compute_figures
from demo_node.cli.top.health import EVENT_ALERTS, EventAlert
from demo_node.cli.top.reading import Reading
from demo_node.observe.events import ERROR, EVENTS, WARNING
from demo_node.observe.recent import TIMES_KEPT
from demo_node.views import EventCount, NodeState
from tests.cli.command import ROOT
from tests.cli.top_readings import differing, in_state, peers, reading, usual_round, with_status
from tests.control.fake_node import health_view

MINUTE_S = 60
NOW_MS = reading().now_ms
SNAPSHOT_LIMIT_S = 40 * 3
"""Rounds of the readings last 3 s."""

ELSEWHERE = {
    "DemoNodeDown",  # there is no screen then, but one line
    "DemoNoNodes",  # of Prometheus' targets, which it knows nothing of
    *(  # tests/cli/test_top_figures.py has them
        *("DemoRoundsStalled", "DemoRoundLatencyHigh", "DemoRoundsSkipped", "DemoParticipationLow"),
        *("DemoNotIncluded", "DemoForksFrequent", "DemoDigestDiverged", "DemoDigestDisputed"),
        "DemoFinalConflict",
        *("DemoClockSkew", "DemoClockUnverified", "DemoNodeIsolated"),
    ),
}


def event(name: str, *ages_s: float, count: int = 0) -> EventCount:
    """An event that happened so many seconds ago, oldest first."""
    times_ms = tuple(NOW_MS - round(age * 1000) for age in ages_s)
    return EventCount(name, EVENTS[name].level, count or len(ages_s), times_ms)


def with_health(*events: EventCount, view: Reading | None = None, **changes: Any) -> Reading:
    """A node that does its part, but for these."""
    return replace(view or reading(), health=health_view(*events, now_ms=NOW_MS, **changes))


def names(view: Reading) -> list[str]:
    return [concern.name for concern in find_concerns(view, compute_figures(view))]


def read_rules() -> dict[str, str]:
    """The condition of each alert."""
    document = yaml.safe_load((ROOT / "deploy/prometheus/rules/alerts.yml").read_text())
    return {rule["alert"]: rule["expr"] for group in document["groups"] for rule in group["rules"]}


OTHERS = {
    "DemoNodeNotReady": with_health(
        event("state.changed", 16 * MINUTE_S), view=in_state(NodeState.SYNCING)
    ),
    "DemoStateFault": with_health(event("state.fault_cleared", 9), event("state.fault", 20, 8)),
    "DemoEventLoopBlocked": with_health(loop_lag_p99_s=0.26),
    "DemoDiskLow": with_health(disk_free_bytes=0.99e9),
    "DemoGossipMeshEmpty": with_health(gossip_links=0),
    "DemoSnapshotStale": with_health(
        event("snapshot.saved", SNAPSHOT_LIMIT_S + 1), records_applied=41
    ),
}


def test_every_alert_is_judged() -> None:
    judged = {alert.concern.name for alert in EVENT_ALERTS} | set(OTHERS)
    assert judged | ELSEWHERE == set(read_rules())
    assert not judged & ELSEWHERE


@pytest.mark.parametrize("alert", EVENT_ALERTS, ids=lambda alert: alert.concern.name)
def test_windows_and_thresholds_are_those_of_the_rules(alert: EventAlert) -> None:
    rule = read_rules()[alert.concern.name]
    subject, verdict = alert.event.split(".")
    metric = re.search(r"demo_\w+", rule)
    assert metric
    if metric[0] == "demo_events_total":
        assert f'event="{alert.event}"' in rule
    else:
        assert subject in metric[0]
        assert f'verdict="{verdict}"' in rule
    window = re.search(r"\[(\d+)([mh])\]", rule)
    shown_s = int(window[1]) * {"m": 60, "h": 3_600}[window[2]] if window else float("inf")
    assert alert.window_s == shown_s
    threshold = re.search(r"> ([\d.]+)\s*$", rule)
    assert threshold
    # Rules leave room for what Prometheus adds when it extrapolates; it adds nothing to 0.
    assert float(threshold[1]) == alert.more_than + (0.5 if alert.more_than else 0)
    assert alert.more_than < TIMES_KEPT, "as many times are kept as it counts"


@pytest.mark.parametrize("alert", EVENT_ALERTS, ids=lambda alert: alert.concern.name)
def test_an_event_is_a_concern_as_long_as_an_alert_counts_it(alert: EventAlert) -> None:
    window_s = min(alert.window_s, 86_400.0)
    enough = [window_s - 1, *[1.0] * alert.more_than]
    assert names(with_health(event(alert.event, *enough))) == [alert.concern.name]
    assert names(with_health(event(alert.event, *enough[1:]))) == []
    if alert.window_s < 86_400:
        assert names(with_health(event(alert.event, window_s + 1, *enough[1:]))) == []


@pytest.mark.parametrize("name", OTHERS)
def test_each_level_is_named_alone_with_what_to_do(name: str) -> None:
    assert names(OTHERS[name]) == [name]


@pytest.mark.parametrize("alert", [*EVENT_ALERTS, *OTHERS], ids=str)
def test_each_fits_the_narrowest_screen(alert: EventAlert | str) -> None:
    if isinstance(alert, str):
        (concern,) = find_concerns(OTHERS[alert], compute_figures(OTHERS[alert]))
    else:
        concern = alert.concern
    assert len(f"!! {concern.text}: {concern.remedy}") <= 80


def test_what_is_usual_is_no_concern() -> None:
    assert names(with_health(loop_lag_p99_s=float("nan"), disk_free_bytes=float("nan"))) == []
    assert names(with_health(loop_lag_p99_s=0.24, disk_free_bytes=1.01e9)) == []
    assert names(with_health(snapshot_bytes=10**9, disk_free_bytes=4.1e9)) == []
    assert names(with_health(event("state.changed", 86_400))) == []
    assert names(with_health(event("state.fault", 9), event("state.fault_cleared", 8))) == []
    syncing = in_state(NodeState.SYNCING)
    assert names(with_health(event("state.changed", 60), view=syncing)) == []
    waiting = in_state(NodeState.WAITING)
    assert names(with_health(event("state.changed", 86_400), view=waiting)) == []
    assert names(with_health(gossip_links=0, view=reading(peer_count=1, peers=1))) == []
    fresh = reading(rounds=[usual_round(r) for r in range(5)])
    assert names(with_health(gossip_links=0, view=fresh)) == []
    saved = event("snapshot.saved", SNAPSHOT_LIMIT_S - 1)
    assert names(with_health(saved, records_applied=10_000)) == []
    assert names(with_health(records_applied=40)) == []
    over = in_state(NodeState.FINISHED)
    old = event("snapshot.saved", 86_400)
    assert names(with_health(old, records_applied=10_000, view=over)) == []


def test_a_large_snapshot_needs_more_room() -> None:
    assert names(with_health(snapshot_bytes=10**9, disk_free_bytes=3.9e9)) == ["DemoDiskLow"]


def test_a_large_momentum_file_needs_more_room() -> None:
    assert names(with_health(momentum_file_bytes=2 * 10**9, disk_free_bytes=2.1e9)) == []
    assert names(with_health(momentum_file_bytes=2 * 10**9, disk_free_bytes=1.9e9)) == [
        "DemoDiskLow"
    ]


def test_where_nothing_happened_yet_the_start_counts() -> None:
    assert names(with_health(records_applied=41)) == ["DemoSnapshotStale"]
    young = reading(started_ms=NOW_MS - 60_000)
    assert names(with_health(records_applied=41, view=young)) == []
    syncing = in_state(NodeState.SYNCING)
    assert names(with_health(view=syncing)) == []
    old = with_status(syncing, started_ms=NOW_MS - 901_000)
    assert names(with_health(view=old)) == ["DemoNodeNotReady"]


def test_urgent_ones_come_first() -> None:
    died = event("trainer.died", 3, 2, 1)
    view = with_health(died, view=reading(swarm=[*peers(1, 70), differing(9, 70)]))
    assert names(view) == ["DemoDigestDiverged", "DemoTrainerRestarts"]


def test_warnings_of_the_last_hour_are_told_newest_first() -> None:
    events = [
        event("trainer.died", 4_000, 40),
        event("snapshot.saved", 1),
        event("key.in_use", 30),
        event("payload.lost", 3_601),
    ]
    found = find_warnings(events, NOW_MS)
    assert {EVENTS[warning.name].level for warning in found} == {WARNING, ERROR}
    assert [format_warning(warning, NOW_MS) for warning in found] == [
        "key.in_use once, 30 s ago",
        "trainer.died 2 times, last 40 s ago",
    ]
    assert format_warnings(health_view(now_ms=NOW_MS)) == ""
    assert format_warnings(health_view(*events, event("message.rejected", 90), now_ms=NOW_MS)) == (
        "key.in_use once, 30 s ago; trainer.died 2 times, last 40 s ago; 1 more kind"
    )
    many = event("message.rejected", 3, 2, 1, count=12_345)
    assert format_warning(many, NOW_MS) == "message.rejected 12,345 times, last 1 s ago"
