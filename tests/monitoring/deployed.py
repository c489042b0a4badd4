"""What deploy/ has for Prometheus and Alertmanager, with short durations and a test's addresses.

A test cannot wait for minutes. Only durations differ: how long an alert must hold, the windows of
rates, how often something is done. Names, labels, thresholds and all else are the deployed ones.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from tests.cli.command import ROOT

PROMETHEUS = ROOT / "deploy" / "prometheus"
ALERTMANAGER = ROOT / "deploy" / "alertmanager" / "alertmanager.yml"

HOLD, WINDOW, PACE = "4s", "20s", "1s"
"""An alert must hold so long: some scrapes. A rate looks back so far: some rounds. Nodes are
scraped, rules evaluated and notices sent so often."""

_DURATION = r"(?:\d+(?:ms|[smhdwy]))+"


def copy_prometheus(folder: Path, targets: Sequence[str], alertmanager: str) -> Path:
    """Configuration and rules for these nodes; returns the former's path."""
    (folder / "rules").mkdir(parents=True)
    for path in (PROMETHEUS / "rules").glob("*.yml"):
        (folder / "rules" / path.name).write_text(shorten_rules(path.read_text()))
    config = (PROMETHEUS / "prometheus.yml").read_text()
    config = _replace(rf"(?<=scrape_interval: ){_DURATION}", PACE, config)
    config = _replace(rf"(?<=evaluation_interval: ){_DURATION}", PACE, config)
    config = _replace(r'\["127\.0\.0\.1:9464"\]', json.dumps(list(targets)), config)
    config = _replace(r'\["127\.0\.0\.1:9093"\]', json.dumps([alertmanager]), config)
    path = folder / "prometheus.yml"
    path.write_text(config)
    return path


def copy_alertmanager(folder: Path, webhook_url: str) -> Path:
    """Configuration that tells the webhook, and soon; returns its path."""
    folder.mkdir()
    webhooks = json.dumps([{"url": webhook_url, "send_resolved": True}])
    config = ALERTMANAGER.read_text()
    config = _replace(rf"(?<=group_wait: ){_DURATION}", "0s", config)
    config = _replace(rf"(?<=group_interval: ){_DURATION}", PACE, config)
    config = _replace(
        r"(?<=\n)  - name: nobody\n", rf"\g<0>    webhook_configs: {webhooks}\n", config
    )
    path = folder / "alertmanager.yml"
    path.write_text(config)
    return path


def shorten_rules(rules: str) -> str:
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


def _replace(pattern: str, by: str, text: str) -> str:
    """Exactly one place."""
    replaced, times = re.subn(pattern, by, text)
    assert times == 1, f"{pattern} is {times} times in what is deployed"
    return replaced
