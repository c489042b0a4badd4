"""What a terminal shows of a run that takes long, and that a pipe gets nothing of it."""

import io
import os
import subprocess
import termios
from dataclasses import replace

import pytest

from demo_node.cli.simulate.progress import ProgressLine, show_progress
from demo_node.sim.scenario import Do, Event, Scenario
from demo_node.sim.simulation import Progress, simulate
from tests.cli.command import COMMAND, environment

QUIET = Scenario(nodes=4, rounds=4)

AT_ROUND_1 = Progress(round=1, rounds=9, nodes_up=8, records=1, faults=0)


def test_every_round_is_told_and_telling_changes_nothing() -> None:
    dying = replace(QUIET, events=(Event(do=Do.KILL, round=2, at=0.5, count=3),))
    told: list[Progress] = []
    report = simulate(dying, 5, told.append)
    assert [progress.round for progress in told] == [0, 1, 2, 3, 4]
    assert [progress.nodes_up for progress in told] == [4, 4, 4, 1, 1]
    assert [progress.faults for progress in told] == [0, 0, 0, 3, 3]
    assert told[0].records == 0
    assert told[-1].records == report.records
    assert {progress.rounds for progress in told} == {4}
    assert simulate(dying, 5).event_log_digest == report.event_log_digest


def test_a_line_is_written_in_the_place_of_the_last_one_a_few_times_a_second() -> None:
    now_s = 100.0
    stream = io.StringIO()
    line = ProgressLine(stream, lambda: now_s)
    line.show(replace(AT_ROUND_1, round=0))
    now_s += 0.1
    line.show(AT_ROUND_1)  # too soon
    now_s += 61
    line.show(replace(AT_ROUND_1, round=7, records=6, faults=12, nodes_up=10))
    now_s += 1
    line.show(replace(AT_ROUND_1, round=8))
    line.erase()
    first, second, third, blanks, cursor = stream.getvalue().split("\r")[1:]
    assert first == "round 0 of 9, 8 nodes up, 1 records, 0 faults, 0 s"
    assert second == "round 7 of 9, 10 nodes up, 6 records, 12 faults, 61 s"
    assert third == "round 8 of 9, 8 nodes up, 1 records, 0 faults, 62 s  "
    assert (blanks, cursor) == (" " * len(third.rstrip()), "")


def test_a_pipe_gets_nothing() -> None:
    stream = io.StringIO()
    with show_progress(stream) as on_round:
        assert on_round is None
    assert stream.getvalue() == ""


@pytest.mark.parametrize(("arguments", "shows"), [((), True), (("--seeds=1..2",), False)])
def test_a_terminal_shows_it_and_is_clean_at_the_end(
    arguments: tuple[str, ...], shows: bool
) -> None:
    """With --seeds a line a run stands there anyway."""
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [*COMMAND, "simulate", "--nodes=4", "--rounds=3", "--json", *arguments],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env=environment(),
    )
    os.close(theirs)
    with process:
        assert process.stdout is not None
        assert b"\r" not in process.stdout.read()
    said = os.read(ours, 10_000).decode()
    os.close(ours)
    assert process.returncode == 0
    assert ("round 0 of 3, 4 nodes up, 0 records, 0 faults, " in said) == shows
    if shows:
        *_, blanks, rest = said.split("\r")
        assert (blanks.strip(), rest) == ("", "")


def test_a_narrow_terminal_is_not_overrun() -> None:
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 20))
    with os.fdopen(theirs, "w") as terminal, show_progress(terminal) as on_round:
        assert on_round is not None
        on_round(AT_ROUND_1)
        assert os.read(ours, 1_000) == b"\rround 1 of 9, 8 nod"
    os.close(ours)
