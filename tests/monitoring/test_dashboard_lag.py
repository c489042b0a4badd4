"""Who is behind, by the dashboards: what promtool makes of their own queries on made-up nodes."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.monitoring.boards import VALUES, Json, fill_in, load, panels
from tests.monitoring.test_rules import RULES, run_tool

pytestmark = pytest.mark.monitoring

LAG = "Rounds behind the clock, by node"
WORST = "Rounds behind the clock"
OUT = "Down or out of step"


def make_node(name: str, state: str, clock: str, head: str) -> list[Json]:
    """A node that is up; its clock and head as promtool writes values."""
    labels = f'instance="{name}", job="demo-node"'
    others = {"waiting", "syncing", "active", "paused", "finished"} - {state}
    return [
        {"series": f"up{{{labels}}}", "values": "1x10"},
        {"series": f"demo_round_current{{{labels}}}", "values": clock},
        {"series": f"demo_head_round{{{labels}}}", "values": head},
        {"series": f'demo_node_state{{{labels}, state="{state}"}}', "values": "1x10"},
        *(
            {"series": f'demo_node_state{{{labels}, state="{other}"}}', "values": "0x10"}
            for other in sorted(others)
        ),
    ]


QUIET = [
    *make_node("finished", "finished", "900+1x10", "99x10"),
    *make_node("waiting", "waiting", "-100+1x10", "-1x10"),
    *make_node("syncing", "syncing", "900+1x10", "0+2x10"),
    *make_node("level", "active", "900+1x10", "898+1x10"),
    *make_node("paused", "paused", "900+1x10", "899+1x10"),
]
LAGGING = [
    *make_node("lagging", "active", "900+1x10", "893+1x10"),
    *make_node("idle", "paused", "900+1x10", "897+1x10"),
]
DOWN = [{"series": 'up{instance="down", job="demo-node"}', "values": "0x10"}]


def find_query(title: str) -> str:
    """What the panel of this title asks."""
    (panel,) = [p for p in panels(load("swarm")) if p["title"] == title]
    (target,) = panel["targets"]
    return fill_in(target["expr"])


def expect(title: str, values: dict[str, int]) -> Json:
    """By node, or "" where the panel has one value."""
    return {
        "expr": f"sum by (instance) ({find_query(title)})",
        "eval_time": "8m",
        "exp_samples": [
            {"labels": f'{{instance="{name}"}}' if name else "{}", "value": value}
            for name, value in values.items()
        ],
    }


def check(folder: Path, series: list[Json], expected: list[Json]) -> None:
    test: dict[str, Any] = {
        "interval": "1m",
        "input_series": series,
        "promql_expr_test": expected,
    }
    document = {"rule_files": [str(p) for p in RULES], "evaluation_interval": "1m", "tests": [test]}
    path = folder / "lag.yml"
    path.write_text(json.dumps(document))  # JSON is YAML
    result = run_tool("promtool", "test", "rules", path)
    assert result.returncode == 0, result.stdout + result.stderr


def test_who_waits_syncs_or_has_finished_is_not_out_of_step(tmp_path: Path) -> None:
    expected = [
        expect(LAG, {"level": 2, "paused": 1}),
        expect(WORST, {"": 2}),
        expect(OUT, {"": 0}),
    ]
    check(tmp_path, QUIET, expected)


def test_who_lags_or_is_down_is(tmp_path: Path) -> None:
    lags = {"level": 2, "paused": 1, "lagging": 7, "idle": 3}
    expected = [expect(LAG, lags), expect(WORST, {"": 7}), expect(OUT, {"": 3})]
    check(tmp_path, QUIET + LAGGING + DOWN, expected)


def test_where_all_have_finished_nobody_is(tmp_path: Path) -> None:
    finished = make_node("finished", "finished", "900+1x10", "99x10")
    check(tmp_path, finished, [expect(LAG, {}), expect(OUT, {"": 0})])


def test_the_alerts_see_the_same(tmp_path: Path) -> None:
    alerts = {
        "expr": "max by (instance) (demo:round_lag)",
        "eval_time": "8m",
        "exp_samples": [
            {"labels": f'{{instance="{name}"}}', "value": value}
            for name, value in {"level": 2, "paused": 1, "lagging": 7, "idle": 3}.items()
        ],
    }
    check(tmp_path, QUIET + LAGGING, [alerts])


def test_a_node_that_is_level_is_a_level_line(tmp_path: Path) -> None:
    """The clock goes on before the record comes: without the maximum, 1 and 0 in turns."""
    turns = make_node("turns", "active", "900+1x10", "899 901 901 903 903 905 905 907 907 909 909")
    (panel,) = [p for p in panels(load("swarm")) if p["title"] == LAG]
    query = fill_in(panel["targets"][0]["expr"], {**VALUES, "$__rate_interval": "2m"})
    expected = [
        {
            "expr": f"sum by (instance) ({query})",
            "eval_time": moment,
            "exp_samples": [{"labels": '{instance="turns"}', "value": 1}],
        }
        for moment in ("6m", "7m", "8m", "9m")
    ]
    check(tmp_path, turns, expected)
