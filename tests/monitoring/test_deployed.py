"""The copy of the rules that a test runs differs from the deployed ones in durations only."""

import re
from pathlib import Path

import pytest

from tests.monitoring.deployed import HOLD, PROMETHEUS, WINDOW, shorten_rules

RULES = sorted((PROMETHEUS / "rules").glob("*.yml"))


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.stem)
def test_only_durations_differ_from_what_is_deployed(path: Path) -> None:
    deployed = path.read_text()
    short = shorten_rules(deployed)
    assert set(re.findall(r"\bfor: (\S+)", short)) <= {HOLD}
    assert set(re.findall(r"\[(\d\w*)\]", short)) == {WINDOW}
    for kept in (r"alert: .*", r"record: .*", r"labels: .*", r"[<>=]=? [-\d].*", r"summary: .*"):
        assert re.findall(kept, short) == re.findall(kept, deployed)


def test_a_threshold_is_no_duration() -> None:
    rule = "expr: rate(x_total[5m]) > 5 and y > 2m\nfor: 10m\nsummary: for 10m"
    assert (
        shorten_rules(rule) == "expr: rate(x_total[20s]) > 5 and y > 2m\nfor: 4s\nsummary: for 10m"
    )
