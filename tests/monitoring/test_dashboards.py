"""The dashboards without any server: what they ask for exists, and they say what they show."""

import itertools
import re
from collections.abc import Iterator
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client import Histogram

from demo_node.observe.metrics import METRICS
from deploy.grafana.build import build
from tests.cli.command import ROOT
from tests.monitoring.boards import BOARDS, FOLDER, Json, fill_in, load, marks, panels, targets

COLUMNS = 24

OTHERS = {
    "process_cpu_seconds_total": {},
    "process_resident_memory_bytes": {},
    "process_start_time_seconds": {},
    "up": {},
    "ALERTS": {"alertname": ("DemoNodeDown",), "alertstate": ("firing", "pending")},
}
"""From Prometheus itself and from its client, with labels and some of their values."""

ONLY_IN_DOCS = {
    "demo_clock_error_seconds": "`demo-node status` says how sure the correction is",
    "demo_head_height": "the head's round says the same, and whether it is behind",
    "demo_final_height": "four records behind the head, unless a cut is on",
    "demo_parameters": "never changes within a run",
    "demo_heldout_round": "every tenth round; the loss is what one looks at",
    "demo_learning_rate": "follows from the round; for comparing runs",
    "demo_train_samples_total": "tokens say the same",
    "demo_train_nonfinite_total": "each round with one is an event, which is on the dashboard",
    "demo_train_step_seconds": "samples per second say whether training is slow",
    "demo_train_steps_total": "tokens say the same",
    "demo_trainer_micro_batch": "falls with an event, which is on the dashboard",
    "demo_residual_norm_ratio": "the norms themselves are on the dashboard",
    "demo_payload_bytes": "bandwidth by protocol is on the dashboard",
    "demo_reachability": "changes are events, and the status has the advice",
    "demo_relay_reservations": "of relays alone, and those have been asked for it",
    "demo_relay_circuits": "of relays alone; bandwidth by protocol is on the dashboard",
    "demo_relay_bytes_total": "of relays alone; bandwidth by protocol is on the dashboard",
    "demo_relay_refusals_total": "for finding out who is carried by nobody",
    "demo_k": "status says it, and why; what came of it is in the rounds that count",
    "demo_uplink_bytes_per_second": "what k follows from; bandwidth by use is on the dashboard",
    "demo_peers_known": "for finding out why nobody is connected",
    **dict.fromkeys(
        ("demo_kad_queries_total", "demo_kad_found_total", "demo_kad_dials_total"),
        "for finding out why nobody is found, with --kad",
    ),
    **dict.fromkeys(
        ("demo_kad_table", "demo_kad_records"), "what is held for others, with --kad; bounded"
    ),
    "demo_dials_total": "for finding out why nobody is connected",
    "demo_pulls_total": "what came of payloads is on the dashboard",
    "demo_bans": "`demo-node peers` shows them, and each is an event, which is on the dashboard",
    "demo_offences_total": "a ban is an event, which is on the dashboard",
    "demo_refusals_total": "for finding out who keeps others from connecting",
    "demo_payload_sources_total": "for finding out whose uplink carries what",
    "demo_payload_hedges_total": "for finding out why payloads come late",
    "demo_payload_requests_total": "for finding out why payloads come late",
    "demo_payload_copies_total": "for finding out whose uplink carries what",
    "demo_control_requests_total": "for who writes programs against the control socket",
    "demo_sync_seconds": "once per start",
    "demo_snapshot_fetch_ratio": "while a joiner fetches; the log says it, too",
    "demo_snapshot_fetch_sources": "while a joiner fetches; the log says it, too",
    "demo_node_archive": "never changes in a node's life",
    "demo_comparisons_total": "one a round; for finding out what gossip loses",
    "demo_comparison_missing_total": "for finding out what gossip loses",
    "demo_replays_total": "rare, and each is an event, which is on the dashboard",
}
"""Neither in a panel nor in a rule, and why."""


@pytest.fixture(params=BOARDS)
def board(request: pytest.FixtureRequest) -> Json:
    return load(request.param)


def read_selectors(query: str) -> list[promql_parser.VectorSelector]:
    """Every place of a query that names a metric. Raises ValueError unless it is PromQL."""
    found = []

    def visit(expression: promql_parser.Expr) -> None:
        if isinstance(expression, promql_parser.VectorSelector):
            found.append(expression)
        if isinstance(expression, promql_parser.MatrixSelector):
            found.append(expression.vector_selector)

    promql_parser.walk(promql_parser.parse(fill_in(query)), visit)
    return found


def declared_series() -> dict[str, dict[str, tuple[str, ...]]]:
    """Name of each series a query may name -> its labels -> their values."""
    series = {}
    for metric in METRICS:
        ends = ("_bucket", "_sum", "_count") if metric.kind is Histogram else ("",)
        for end in ends:
            series[metric.name + end] = metric.labels
        if metric.kind is Histogram:
            buckets = {"le": tuple(str(float(end)) for end in metric.buckets)}
            series[metric.name + "_bucket"] = metric.labels | buckets
    return series


def recorded_names() -> Iterator[str]:
    for path in (ROOT / "deploy" / "prometheus" / "rules").glob("*.yml"):
        for group in yaml.safe_load(path.read_text())["groups"]:
            yield from (rule["record"] for rule in group["rules"] if "record" in rule)


def read_rules() -> str:
    paths = sorted((ROOT / "deploy" / "prometheus" / "rules").glob("*.yml"))
    return "\n".join(path.read_text() for path in paths)


def test_files_are_what_the_builder_makes() -> None:
    made = build()
    assert sorted(made) == sorted(path.name for path in FOLDER.iterdir())
    for name, document in made.items():
        assert (FOLDER / name).read_text() == document, "run: python -m deploy.grafana.build"


@pytest.mark.parametrize(("name", "title", "query"), targets() + marks())
def test_queries_name_what_exists(name: str, title: str, query: str) -> None:
    known = declared_series() | OTHERS | {name: {} for name in recorded_names()}
    selectors = read_selectors(query)
    assert selectors
    for selector in selectors:
        assert selector.name in known, selector.name
        assert 'instance=~"$instance"' in query
        for matcher in selector.matchers.matchers:
            if matcher.name == "instance":
                continue
            values = known[selector.name][matcher.name]
            asked = re.compile(matcher.value)
            assert any(asked.fullmatch(value) for value in values), matcher.value


@pytest.mark.parametrize(("name", "title", "query"), targets())
def test_queries_group_by_labels_that_exist(name: str, title: str, query: str) -> None:
    labels = {"le", "instance"} | {
        label
        for s in read_selectors(query)
        if s.name
        for label in declared_series().get(s.name, {})
    }
    for group in re.findall(r"\b(?:by|on|ignoring) \(([^)]*)\)", query):
        assert {label.strip() for label in group.split(",")} - {""} <= labels, group


def test_every_choice_of_nodes_reaches_every_metric() -> None:
    """A selector without the variable would show all nodes whatever is chosen."""
    for _, title, query in targets() + marks():
        for selector in read_selectors(query):
            assert "instance" in {m.name for m in selector.matchers.matchers}, (title, query)


def test_legends_name_labels_that_the_query_leaves() -> None:
    for name in BOARDS:
        for panel in panels(load(name)):
            for target in panel["targets"]:
                for label in re.findall(r"{{(\w+)}}", target["legendFormat"]):
                    kept = re.search(rf"\bby \([^)]*\b{label}\b", target["expr"])
                    joined = re.search(r"\b(sum|min|max|avg|count)\b", target["expr"])
                    assert kept or not joined, (panel["title"], label)


def test_every_metric_is_shown_or_watched_or_only_documented() -> None:
    asked = {s.name or "" for _, _, query in targets() for s in read_selectors(query)}
    shown = {re.sub("_(bucket|sum|count)$", "", name) for name in asked} | asked
    used = shown | set(re.findall(r"demo_\w+?(?=(?:_bucket|_count|_sum)?\b)", read_rules()))
    variables = " ".join(str(v) for name in BOARDS for v in load(name)["templating"]["list"])
    unused = {m.name for m in METRICS if m.name not in used and m.name not in variables}
    assert unused == set(ONLY_IN_DOCS)


def test_everything_comes_from_the_chosen_data_source(board: Json) -> None:
    def sources(value: Any) -> Iterator[Any]:
        if isinstance(value, dict):
            yield from ([value["datasource"]] if "datasource" in value else [])
            value = list(value.values())
        if isinstance(value, list):
            for each in value:
                yield from sources(each)

    found = [source for source in sources(board) if source is not None]
    assert len(found) > 2 * len(panels(board))
    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in found)


def test_panels_say_what_is_good_and_have_units(board: Json) -> None:
    assert len(panels(board)) <= 28
    for panel in panels(board):
        text = panel["description"]
        assert re.search(r"good|late", text, re.IGNORECASE), panel["title"]
        assert text.endswith((".", ".)"))
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert all(target["legendFormat"] for target in panel["targets"]), panel["title"]


def test_identities_are_unique(board: Json) -> None:
    for key in ("id", "title"):
        found = [panel[key] for panel in board["panels"]]
        assert len(set(found)) == len(found), key
    assert len({load(name)["uid"] for name in BOARDS}) == len(BOARDS)
    for panel in panels(board):
        refs = [target["refId"] for target in panel["targets"]]
        assert len(set(refs)) == len(refs)


def test_panels_lie_side_by_side(board: Json) -> None:
    places = [panel["gridPos"] for panel in board["panels"]]
    for place in places:
        assert place["w"] > 0
        assert place["h"] > 0
        assert 0 <= place["x"] <= COLUMNS - place["w"]
    for one, other in itertools.combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above, (one, other)
    filled = sum(place["w"] * place["h"] for place in places)
    assert filled == COLUMNS * max(place["y"] + place["h"] for place in places), "there are gaps"


def test_what_can_be_chosen(board: Json) -> None:
    variables = {variable["name"]: variable for variable in board["templating"]["list"]}
    assert list(variables) == ["datasource", "run", "instance", "window"]
    assert variables["instance"]["multi"]
    assert variables["instance"]["includeAll"]
    assert "$run" in variables["instance"]["query"]
    assert board["refresh"] == "10s"


def test_the_run_is_chosen_by_its_id_and_shown_by_its_name() -> None:
    (run,) = [v for v in load("swarm")["templating"]["list"] if v["name"] == "run"]
    # As Prometheus orders labels and Grafana writes the answer of query_result.
    answer = (
        'demo_node_info{instance="a:1", peer_id="12D", run_id="ab12cd34ef", run_name="orchard",'
        ' short="ab12cd34", shown="orchard ab12cd34"} 1 9'
    )
    pattern = run["regex"].strip("/").replace("(?<", "(?P<")
    match = re.search(pattern, answer)
    assert match
    assert match.groupdict() == {"value": "ab12cd34ef", "text": "orchard ab12cd34"}


def test_each_dashboard_leads_to_the_other() -> None:
    uids = {name: load(name)["uid"] for name in BOARDS}
    for name, other in (("swarm", "node"), ("node", "swarm")):
        (link,) = load(name)["links"]
        assert link["url"] == f"/d/{uids[other]}"
        assert link["includeVars"]
        assert link["keepTime"]


def test_thresholds_alarm_where_they_should() -> None:
    found = {
        (name, panel["title"]): panel["fieldConfig"]["defaults"].get("thresholds", {}).get("steps")
        for name in BOARDS
        for panel in panels(load(name))
    }
    for name in BOARDS:
        assert pick(found[name, "Slack by phase, least of those chosen"], -0.001) == "red"
        assert pick(found[name, "Slack by phase, least of those chosen"], 0) == "transparent"
        assert pick(found[name, "Least slack"], -0.001) == "red"
        assert pick(found[name, "Least slack"], 0.1) == "green"
    assert pick(found["swarm", "Digests that differ"], 1) == "red"
    assert pick(found["swarm", "Digests that differ"], 0) == "green"
    assert pick(found["swarm", "Down or out of step"], 1) == "red"
    assert pick(found["node", "Peers"], 0) == "red"


def pick(steps: list[Json], value: float) -> str:
    colours: list[str] = [s["color"] for s in steps if s["value"] is None or s["value"] <= value]
    return colours[-1]


def test_latency_has_the_length_of_a_round_beside_it() -> None:
    for name in BOARDS:
        for title in ("Round latency, quantiles", "Phases of a round, mean"):
            (panel,) = [p for p in panels(load(name)) if p["title"] == title]
            (line,) = [t for t in panel["targets"] if t["legendFormat"] == "round length"]
            assert "demo_round_length_seconds" in line["expr"]


def test_points_lead_from_latency_to_traces(board: Json) -> None:
    """Only buckets have exemplars, and of those of seconds, since they stand on an axis of them."""
    (panel,) = [p for p in panels(board) if p["title"] == "Round latency, quantiles"]
    (query,) = [t["expr"] for t in panel["targets"] if t.get("exemplar")]
    assert "demo_round_latency_seconds_bucket" in query
    assert "ratio" not in query
    others = [t["expr"] for t in panel["targets"] if not t.get("exemplar")]
    assert not any("demo_round_latency_seconds_bucket" in each for each in others)


def test_what_happens_to_nodes_is_marked() -> None:
    found = {name: {m["name"] for m in load(name)["annotations"]["list"]} for name in BOARDS}
    assert found["swarm"] == {"Not answering", "Starts", "Trainer deaths", "Alerts"}
    assert found["node"] == found["swarm"] | {"States"}
    for name in BOARDS:
        for mark in load(name)["annotations"]["list"]:
            assert mark["enable"]
            assert "{{instance}}" in mark["titleFormat"]


def test_grafana_is_told_where_things_are() -> None:
    folder = ROOT / "deploy" / "grafana" / "provisioning"
    (source,) = yaml.safe_load((folder / "datasources" / "prometheus.yml").read_text())[
        "datasources"
    ]
    (provider,) = yaml.safe_load((folder / "dashboards" / "demo-node.yml").read_text())["providers"]
    prometheus = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    assert source["type"] == "prometheus"
    assert source["jsonData"]["timeInterval"] == prometheus["global"]["scrape_interval"]
    (traces,) = source["jsonData"]["exemplarTraceIdDestinations"]
    assert traces == {"name": "trace_id", "datasourceUid": "$DEMO_TRACES_UID"}
    assert provider["type"] == "file"
    assert provider["options"]["path"]
