"""What a node remembers of its events and of its loop, and that it stays little."""

import math

import pytest

from demo_node.observe.events import ERROR, EVENTS, WARNING
from demo_node.observe.meter import Meter
from demo_node.observe.recent import LAGS_KEPT, LAGS_MIN, Recent
from demo_node.views import EventCount
from tests.control.fake_node import round_view, status_view


class Clock:
    now_ms = 5_000

    def read(self) -> int:
        return self.now_ms


def test_each_event_is_counted_and_its_newest_three_times_are_kept() -> None:
    clock = Clock()
    recent = Recent(clock.read)
    assert recent.events() == ()
    for clock.now_ms in (5_000, 6_000, 7_000, 8_000):
        recent.add_event("trainer.died")
    recent.add_event("key.in_use")
    assert recent.events() == (
        EventCount("trainer.died", WARNING, 4, (6_000, 7_000, 8_000)),
        EventCount("key.in_use", ERROR, 1, (8_000,)),
    )


def test_it_counts_what_the_metrics_count() -> None:
    recent = Recent(Clock().read)
    meter = Meter(recent=recent)
    meter.on_round(round_view())
    for _ in range(3):
        meter.on_status(status_view())  # one change of state
        meter.on_event("payload.rejected", reason="bad magic")
    meter.on_event("kademlia.complained")  # what a library logs is no event of ours
    counts = {event.name: event.count for event in recent.events()}
    assert counts == {"round.closed": 1, "state.changed": 1, "payload.rejected": 3}
    for name in EVENTS:
        value = meter.registry.get_sample_value("demo_events_total", {"event": name})
        assert value == counts.get(name, 0)


def test_the_loops_lag_is_that_of_one_wake_of_a_hundred_lately() -> None:
    recent = Recent(Clock().read)
    meter = Meter(recent=recent)
    for _ in range(LAGS_MIN - 1):
        meter.on_loop_lag(0.001)
    assert math.isnan(recent.loop_lag_p99_s()), "too few to tell"
    meter.on_loop_lag(0.001)
    assert recent.loop_lag_p99_s() == 0.001
    for _ in range(LAGS_MIN // 10):
        meter.on_loop_lag(20.0)  # as after a pause of the whole process
    assert recent.loop_lag_p99_s() == 0.001, "most minutes were as usual"
    for look in range(LAGS_KEPT * 2 // 3):
        meter.on_loop_lag(0.4 if look % 50 == 0 else 0.001)
    assert recent.loop_lag_p99_s() == 0.4
    for _ in range(LAGS_KEPT):
        meter.on_loop_lag(0.002)
    assert recent.loop_lag_p99_s() == pytest.approx(0.002), "that was long ago"
