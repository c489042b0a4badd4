"""A run's report in a pipe and on a terminal."""

import os
import re
import termios
from collections import Counter
from dataclasses import replace

import pytest

from demo_node.cli.simulate.telling import print_all
from demo_node.sim.scenario import Scenario
from demo_node.sim.simulation import simulate

FAULTS = Counter({f"kind_{number:02}": 10**number for number in range(12)})


def print_report() -> None:
    """Of a run with far more faults than go into a line."""
    report = replace(simulate(Scenario(nodes=3, rounds=2), 0), faults=FAULTS)
    print_all(iter([report]), report.scenario, None, as_json=False, many=False)


def check(text: str, columns: int) -> None:
    """No line is wider, and none ends between a kind and its count."""
    assert max(map(len, text.splitlines())) <= columns
    faults = re.search(r"^  faults       (.*\n(?: {15}.*\n)+)", text, re.MULTILINE)
    assert faults is not None
    assert " ".join(faults[1].split()) == "111111111111: " + ", ".join(
        f"{kind} {count}" for kind, count in FAULTS.items()
    )
    assert all(re.search(r"\d,?$", line) for line in faults[1].splitlines())


def test_a_report_in_a_pipe_has_100_columns(capsys: pytest.CaptureFixture[str]) -> None:
    print_report()
    check(capsys.readouterr().out, 100)


def test_a_report_on_a_terminal_is_as_wide_as_that(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 60))
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr("sys.stdout", terminal)
        print_report()
        monkeypatch.undo()
        check(os.read(ours, 10_000).decode().replace("\r", ""), 60)
    os.close(ours)
