"""What the dashboards mark, by promtool on made-up nodes: above 0 where something happens."""

from pathlib import Path

import pytest

from tests.monitoring.boards import VALUES, Json, fill_in, marks
from tests.monitoring.test_dashboard_lag import check

pytestmark = pytest.mark.monitoring

NODE = 'instance="a", job="demo-node"'


def find_query(name: str) -> str:
    """Of the *Node* dashboard's mark of this name."""
    (query,) = [expr for board, mark, expr in marks() if (board, mark) == ("node", name)]
    return fill_in(query, {**VALUES, "$__rate_interval": "2m"})


def expect(query: str, moment: str, value: float) -> Json:
    samples = [{"labels": "{}", "value": value}]
    return {"expr": query, "eval_time": moment, "exp_samples": samples}


def expect_marks(name: str, marked: dict[str, int]) -> list[Json]:
    """Moment -> how many of its series are above 0."""
    query = f"count(({find_query(name)}) > 0) or vector(0)"
    return [expect(query, moment, value) for moment, value in marked.items()]


def test_a_node_that_is_killed_and_returns(tmp_path: Path) -> None:
    series = [
        {"series": f"up{{{NODE}}}", "values": "1 1 1 0 0 0 1 1 1 1"},
        {"series": f"process_start_time_seconds{{{NODE}}}", "values": "7 7 7 _ _ stale 360x3"},
    ]
    starts = f"max({find_query('Starts')})"  # in ms: at_value
    expected = [
        *expect_marks("Not answering", {"2m": 0, "3m": 1, "5m": 1, "6m": 0}),
        expect(starts, "2m", 7_000),
        expect(starts, "7m", 360_000),
    ]
    check(tmp_path, series, expected)


def test_a_trainer_that_dies(tmp_path: Path) -> None:
    events = "demo_events_total{%s, event=%s}"
    series = [
        {"series": events % (NODE, '"trainer.died"'), "values": "0 0 0 0 1 1 1 1 1 1"},
        {"series": events % (NODE, '"round.closed"'), "values": "0+1x9"},
    ]
    check(tmp_path, series, expect_marks("Trainer deaths", {"3m": 0, "4m": 1, "8m": 0}))


def test_a_state_is_marked_when_it_begins(tmp_path: Path) -> None:
    states = "demo_node_state{%s, state=%s}"
    series = [
        {"series": states % (NODE, '"syncing"'), "values": "1 1 1 1 0 0 0 0 0 0"},
        {"series": states % (NODE, '"active"'), "values": "0 0 0 0 1 1 1 1 1 1"},
    ]
    check(tmp_path, series, expect_marks("States", {"3m": 0, "4m": 1, "8m": 0}))
