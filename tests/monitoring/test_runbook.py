"""docs/runbook.md has an entry for every alert, and speaks of nothing that does not exist."""

import re

import pytest

from demo_node.observe.events import EVENTS
from demo_node.observe.metrics import METRICS
from tests.cli.command import ROOT
from tests.monitoring.test_rules import ALERTS, RECORDED

TEXT = (ROOT / "docs" / "runbook.md").read_text()
ENTRIES = dict(re.findall(r"\n## (\w+)\n(.*?)(?=\n## |\Z)", TEXT, re.DOTALL))
CODE = re.findall(r"`([^`]+)`", TEXT.replace("\n", " "))

METRIC_LABELS = {value for m in METRICS for values in m.labels.values() for value in values}


def test_every_alert_has_an_entry_in_the_order_of_the_rules() -> None:
    assert list(ENTRIES) == list(ALERTS)


@pytest.mark.parametrize("alert", ENTRIES)
def test_an_entry_says_what_it_means_what_to_see_and_what_to_do(alert: str) -> None:
    meaning, see, do = re.split(r"\n- \*\*(?:See|Do)\*\*", ENTRIES[alert])[:3]
    assert meaning.strip()
    assert see.startswith(":")
    assert len(do) > 20
    is_critical = ALERTS[alert]["labels"]["severity"] == "critical"
    assert meaning.strip().startswith("**Critical.**") == is_critical


def test_every_metric_in_it_exists() -> None:
    named = {code for code in CODE if re.match(r"(demo[:_]|up$|process_)", code)}
    known = {metric.name for metric in METRICS} | RECORDED
    assert len(named) > 20
    assert named <= known | {"up", "process_cpu_seconds_total"}


def test_every_label_in_it_exists() -> None:
    matchers = [re.fullmatch(r'(\w+)="([^"…]+)"', code) for code in CODE]
    found = [match.groups() for match in matchers if match]
    assert found
    for label, value in found:
        assert any(value in metric.labels.get(label, ()) for metric in METRICS), (label, value)


def test_every_event_in_it_exists() -> None:
    named = {code for code in CODE if re.fullmatch(r"[a-z]+\.[a-z_]+", code)}
    files = {"node.key"}
    assert len(named) > 8
    assert named <= set(EVENTS) | files
