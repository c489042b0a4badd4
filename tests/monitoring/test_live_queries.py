"""Every query of the dashboards, put to a real Prometheus that has watched a real swarm.

The name of this file sorts behind test_live_alerts.py: panels of faults then have seen some.
"""

import itertools
import math
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from tests.monitoring.boards import (
    BOARDS,
    VALUES,
    fill_in,
    load,
    marks,
    name_series,
    panels,
    read_marks,
    targets,
)
from tests.monitoring.faulty_node import Fault, planted
from tests.monitoring.watched import NODES, WatchedSwarm
from tests.waiting import wait_until_sync

pytestmark = [
    pytest.mark.monitoring,
    pytest.mark.swarm,
    pytest.mark.slow,
    pytest.mark.timeout(300),
]

SEEN_S = 120.0
"""At most this long until everything has happened once; only a bug takes longer."""

PAST_S = 3000.0
"""The swarm is younger than that, or that is enough of it."""

STEP_S = 1.0


@pytest.fixture(scope="module")
def seasoned_swarm(watched_swarm: WatchedSwarm) -> WatchedSwarm:
    """It has evaluated a head, asked for the time once more, and had something to warn of."""
    sender, receiver, *_ = watched_swarm.nodes
    warned = f'demo_events_total{{event="payload.rejected",instance="{receiver.instance}"}} > 0'
    wait_until_sync(lambda: len(watched_swarm.query("demo_heldout_loss > 0")) == NODES, SEEN_S)
    asked = fill_in("sum(increase(demo_peer_rtt_seconds_count[$window])) > 0")
    wait_until_sync(lambda: watched_swarm.query(asked), SEEN_S)
    if not watched_swarm.query(warned):
        with planted(sender.faults, Fault.UNSOUND):
            wait_until_sync(lambda: watched_swarm.query(warned), SEEN_S)
    return watched_swarm


def ask_range(
    swarm: WatchedSwarm, query: str, values: Mapping[str, str] = VALUES
) -> Sequence[Mapping[str, Any]]:
    """As Grafana would; an error or a warning of Prometheus fails the test."""
    now_s = time.time()
    return swarm.query_range(fill_in(query, values), now_s - PAST_S, now_s, STEP_S)


@pytest.mark.parametrize(("name", "title", "query"), targets())
def test_query_returns_series(
    seasoned_swarm: WatchedSwarm, name: str, title: str, query: str
) -> None:
    series = ask_range(seasoned_swarm, query)
    values = [float(value) for one in series for _, value in one["values"]]
    assert any(math.isfinite(value) for value in values), query


def test_series_of_a_panel_have_names_of_their_own(seasoned_swarm: WatchedSwarm) -> None:
    for panel in itertools.chain.from_iterable(panels(load(name)) for name in BOARDS):
        names = [
            name_series(target["legendFormat"], one["metric"])
            for target in panel["targets"]
            for one in ask_range(seasoned_swarm, target["expr"])
        ]
        assert len(set(names)) == len(names), (panel["title"], names)


def test_a_choice_of_one_node_leaves_out_the_others(seasoned_swarm: WatchedSwarm) -> None:
    chosen = seasoned_swarm.nodes[2].instance
    for _, title, query in targets() + marks():
        series = ask_range(seasoned_swarm, query, {**VALUES, "$instance": chosen})
        instances = {one["metric"].get("instance", chosen) for one in series}
        assert instances <= {chosen}, title


def test_the_run_can_be_chosen(seasoned_swarm: WatchedSwarm) -> None:
    (run,) = [v for v in load("swarm")["templating"]["list"] if v["name"] == "run"]
    query = run["query"].removeprefix("query_result(").removesuffix(")")
    answers = seasoned_swarm.query(fill_in(query))
    assert len(answers) == NODES
    found = set()
    for answer in answers:
        labels = ", ".join(f'{key}="{value}"' for key, value in answer["metric"].items())
        match = re.search(run["regex"].strip("/").replace("(?<", "(?P<"), f"{{{labels}}} 1")
        assert match
        found.add((match["text"], match["value"]))
    status = seasoned_swarm.nodes[0].running.status()
    run_id = status.run_id.hex()
    assert found == {(f"{status.run_name} {run_id[:8]}", run_id)}


def test_what_happened_is_marked(seasoned_swarm: WatchedSwarm) -> None:
    alerts = 'ALERTS{alertname="DemoPayloadsRejected", alertstate="firing"}[1h]'
    wait_until_sync(lambda: seasoned_swarm.query(alerts), SEEN_S)
    found = read_marks(load("node"), lambda query: ask_range(seasoned_swarm, query), 15)
    texts = {mark.text for mark in found}
    for node in seasoned_swarm.nodes:
        assert {f"{node.instance} starts", f"{node.instance} is active"} <= texts
    begun = [mark for mark in found if mark.text.endswith(" starts")]
    assert len(begun) == NODES
    assert all(time.time() - PAST_S < mark.begin_s < time.time() for mark in begun)
    assert any(text.startswith("DemoPayloadsRejected ") for text in texts), texts


def test_phases_add_up_to_the_latency(seasoned_swarm: WatchedSwarm) -> None:
    by_title = {panel["title"]: panel for panel in panels(load("swarm"))}
    latency = find_query(by_title["Round latency, quantiles"], "mean")
    phases = [
        find_query(by_title["Phases of a round, mean"], phase)
        for phase in ("train", "contribute", "propose", "settle")
    ]
    moment = f" @ {time.time():.0f}"
    parts = [compute(seasoned_swarm, query, moment) for query in phases]
    whole = compute(seasoned_swarm, latency, moment)
    assert all(part >= 0 for part in parts)
    assert sum(parts) == pytest.approx(whole, rel=0.02)


def find_query(panel: Mapping[str, Any], legend: str) -> str:
    (query,) = [t["expr"] for t in panel["targets"] if t["legendFormat"] == legend]
    return str(query)


def compute(swarm: WatchedSwarm, query: str, moment: str) -> float:
    """Its one value, at that moment."""
    at_moment = fill_in(query).replace("[20s]", f"[20s]{moment}")
    (series,) = swarm.query(at_moment)
    return float(series["value"][1])
