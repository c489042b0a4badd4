"""The rules of Prometheus: sound, about metrics that exist, and tested by promtool themselves."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from demo_node.observe.metrics import METRICS
from tests.cli.command import ROOT
from tests.monitoring.quiet import CUT_OFF, QUIET, Scenario
from tests.needs import needs

PROMETHEUS = ROOT / "deploy" / "prometheus"
RULES = sorted((PROMETHEUS / "rules").glob("*.yml"))
UNIT_TESTS = sorted((PROMETHEUS / "tests").glob("*.yml"))
OTHERS = {"up"}
"""What Prometheus itself makes."""


def read_groups() -> Iterator[dict[str, Any]]:
    for path in RULES:
        yield from yaml.safe_load(path.read_text())["groups"]


def read_rules() -> Iterator[dict[str, Any]]:
    for group in read_groups():
        yield from group["rules"]


GROUPS = sorted(
    (group["name"] for group in read_groups()), key=lambda name: "recording" not in name
)
"""What alerts are made of comes first. promtool evaluates what it is not told of even before."""

ALERTS = {rule["alert"]: rule for rule in read_rules() if "alert" in rule}
RECORDED = {rule["record"] for rule in read_rules() if "record" in rule}
EXPRESSIONS = [(rule.get("alert") or rule["record"], rule["expr"]) for rule in read_rules()]


def run_tool(*line: object) -> "subprocess.CompletedProcess[str]":
    needs(str(line[0]))
    return subprocess.run(
        [str(word) for word in line], check=False, capture_output=True, text=True, timeout=110
    )


def list_metrics(expression: str) -> set[str]:
    """Names of series in an expression, without what is between braces or brackets."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", expression)
    bare = re.sub(r"\b(without|by|ignoring|on) \([^)]*\)", "", bare)
    return set(re.findall(r"\b(?:demo[_:][\w:]*|up|process_\w+)\b(?! *\()", bare))


def declared_name(series: str) -> str:
    return re.sub(r"_(bucket|sum|count)$", "", series)


def test_there_are_rules_and_their_tests() -> None:
    assert {path.stem for path in RULES} == {"recording", "alerts"}
    assert len(ALERTS) >= 20
    assert UNIT_TESTS


@pytest.mark.parametrize(("name", "expression"), EXPRESSIONS, ids=[e[0] for e in EXPRESSIONS])
def test_every_metric_and_label_in_a_rule_exists(name: str, expression: str) -> None:
    declared = {metric.name: metric for metric in METRICS}
    known = declared.keys() | RECORDED | OTHERS
    assert {declared_name(series) for series in list_metrics(expression)} <= known, name
    for series, matchers in re.findall(r"(demo_\w+)\{([^}]*)\}", expression):
        labels = declared[declared_name(series)].labels
        for label, _, values in re.findall(r'(\w+)(=~|=)"([^"]*)"', matchers):
            assert set(values.split("|")) <= set(labels[label]), (name, series)


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_says_how_bad_what_and_where_to_read_on(alert: str) -> None:
    rule = ALERTS[alert]
    assert re.fullmatch(r"Demo[A-Z][A-Za-z]+", alert)
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    label = "job" if rule["expr"].startswith("absent(") else "instance"
    assert f"$labels.{label}" in rule["annotations"]["summary"]
    assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{alert.lower()}"


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_has_a_unit_test_that_fires_and_one_that_stays_quiet(alert: str) -> None:
    expected = [
        case["exp_alerts"]
        for path in UNIT_TESTS
        for test in yaml.safe_load(path.read_text())["tests"]
        for case in test.get("alert_rule_test", [])
        if case["alertname"] == alert
    ]
    assert any(expected), f"{alert} never fires in {PROMETHEUS / 'tests'}"
    assert [] in expected, f"{alert} is never quiet in {PROMETHEUS / 'tests'}"


def test_inhibitions_name_alerts_that_exist() -> None:
    document = yaml.safe_load((ROOT / "deploy/alertmanager/alertmanager.yml").read_text())
    named = set(re.findall(r"Demo\w+", json.dumps(document["inhibit_rules"])))
    assert named
    assert named <= ALERTS.keys()


@pytest.mark.monitoring
@pytest.mark.parametrize("name", ["prometheus.yml", "swarm.yml"])
def test_configurations_are_sound(name: str) -> None:
    result = run_tool("promtool", "check", "config", PROMETHEUS / name)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{len(RULES)} rule files found" in result.stdout


@pytest.mark.monitoring
def test_the_configuration_of_alertmanager_is_sound() -> None:
    config = ROOT / "deploy/alertmanager/alertmanager.yml"
    result = run_tool("amtool", "check-config", config)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.monitoring
def test_what_alertmanager_is_to_be_told_by_removing_hashes_is_sound(tmp_path: Path) -> None:
    text = (ROOT / "deploy/alertmanager/alertmanager.yml").read_text()
    config = tmp_path / "alertmanager.yml"
    config.write_text(re.sub(r"^  # (?!A )", "  ", text, flags=re.MULTILINE))
    (route,) = yaml.safe_load(config.read_text())["route"]["routes"]
    assert route["receiver"] == "mail"
    result = run_tool("amtool", "check-config", config)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "3 receivers" in result.stdout


@pytest.mark.monitoring
def test_rules_are_sound() -> None:
    result = run_tool("promtool", "check", "rules", "--lint-fatal", *RULES)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("path", UNIT_TESTS, ids=lambda path: path.stem)
def test_unit_tests_evaluate_what_alerts_need_first(path: Path) -> None:
    order = yaml.safe_load(path.read_text())["group_eval_order"]
    assert order[0] == GROUPS[0] == "demo-recording"
    assert sorted(order) == sorted(GROUPS)


@pytest.mark.monitoring
@pytest.mark.parametrize("path", UNIT_TESTS, ids=lambda path: path.stem)
def test_unit_tests_of_rules_pass(path: Path) -> None:
    result = run_tool("promtool", "test", "rules", path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "SUCCESS" in result.stdout


@pytest.mark.monitoring
@pytest.mark.parametrize("path", UNIT_TESTS, ids=lambda path: path.stem)
def test_rules_do_not_mind_further_labels_of_a_target(path: Path, tmp_path: Path) -> None:
    """As those of a swarm's nodes. They differ from node to node, and alerts keep them."""
    text = path.read_text().replace("../rules", str(PROMETHEUS / "rules"))
    text, series = re.subn(r'(instance="(\w+)")', r'\1, node="n\2", datadir="/s/\2"', text)
    text = re.sub(r"(\binstance: (\w+))", r"\1, node: n\2, datadir: /s/\2", text)
    assert series
    labelled = tmp_path / path.name
    labelled.write_text(text)
    result = run_tool("promtool", "test", "rules", labelled)
    assert result.returncode == 0, result.stdout + result.stderr


def look_at(scenario: Scenario, folder: Path) -> "subprocess.CompletedProcess[str]":
    """promtool expects that no alert fires at any moment of the scenario."""
    step = f"{scenario.step_s}s"
    never = {
        "expr": f'count_over_time(ALERTS{{alertstate="firing"}}[{scenario.lasts_s}s])',
        "eval_time": f"{scenario.lasts_s}s",
        "exp_samples": [],
    }
    test = {
        "interval": step,
        "input_series": scenario.make_series(),
        "promql_expr_test": [never],
    }
    document = {
        "rule_files": [str(path) for path in RULES],
        "evaluation_interval": step,
        "group_eval_order": GROUPS,
        "tests": [test],
    }
    path = folder / "quiet.yml"
    path.write_text(json.dumps(document))  # JSON is YAML
    return run_tool("promtool", "test", "rules", path)


@pytest.mark.monitoring
@pytest.mark.parametrize("scenario", QUIET, ids=lambda scenario: scenario.name)
def test_no_alert_fires_where_nothing_is_wrong(scenario: Scenario, tmp_path: Path) -> None:
    result = look_at(scenario, tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.monitoring
def test_an_alert_of_a_scenario_is_seen(tmp_path: Path) -> None:
    result = look_at(CUT_OFF, tmp_path)
    assert result.returncode != 0
    assert set(re.findall(r'alertname="(\w+)"', result.stdout + result.stderr)) == {
        "DemoNodeIsolated"
    }
