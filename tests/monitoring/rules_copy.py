"""The rules of deploy/prometheus with short durations, for a test that cannot wait for minutes.

Only durations differ: how long an alert must hold, the windows of rates, how often a group is
evaluated. Names, labels, thresholds and everything else are the deployed ones.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from tests.cli.command import ROOT

RULES = ROOT / "deploy" / "prometheus" / "rules"

HOLD, WINDOW, PACE = "2s", "20s", "1s"
"""An alert must hold so long, a rate looks back so far (some rounds), rules are evaluated so often.
"""

_DURATION = r"(?:\d+(?:ms|[smhdwy]))+"


def copy_rules(folder: Path) -> list[Path]:
    """Shortened copies of all files of rules, for the configuration of Prometheus."""
    folder.mkdir()
    copies = []
    for path in sorted(RULES.glob("*.yml")):
        copy = folder / path.name
        copy.write_text(shorten(path.read_text()))
        copies.append(copy)
    return copies


def shorten(rules: str) -> str:
    """The same rules with short durations. Raises AssertionError where more than these differ."""
    short = re.sub(rf"(\b(?:keep_firing_)?for: *){_DURATION}", rf"\g<1>{HOLD}", rules)
    short = re.sub(rf"(\binterval: *){_DURATION}", rf"\g<1>{PACE}", short)
    short = re.sub(rf"\[{_DURATION}(:?)({_DURATION})?\]", _shorten_window, short)
    for before, after in zip(_split(rules), _split(short), strict=True):
        is_duration = re.fullmatch(_DURATION, before) and after in (HOLD, WINDOW, PACE)
        assert before == after or is_duration, (before, after)
    return short


def _shorten_window(match: re.Match[str]) -> str:
    return f"[{WINDOW}{match[1]}{PACE if match[2] else ''}]"


def _split(rules: str) -> Sequence[str]:
    """Words, numbers and signs, each by itself."""
    return re.findall(r"\w+|[^\w\s]|\s+", rules)
