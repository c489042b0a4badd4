"""Planned events that happen to nobody: told beforehand where that is certain, and at the end."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from demo_node.cli.simulate.command import simulate as command
from demo_node.sim.impossible import list_impossible
from demo_node.sim.scenario import Do, Event, Mix, Scenario
from demo_node.sim.simulation import simulate
from tests.simulate.stages import let_stray

QUIET = Scenario(nodes=4, rounds=4)

KILL_2 = Event(do=Do.KILL, round=1, nodes=(2,))

IN_VAIN = """
nodes = 4
rounds = 4
[[event]]
round = 1
do = "kill"
nodes = [2]
[[event]]
round = 2
do = "kill"
nodes = [2]
[[event]]
round = 9
do = "kill"
every = 3
"""


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (Event(do=Do.KILL, round=3), ""),
        (Event(do=Do.KILL, round=4), "event 1: there is no round 4, the last one is 3"),
        (Event(do=Do.KILL, nodes=(3, 0)), ""),
        (Event(do=Do.KILL, nodes=(3, 50)), "event 1: there is never a node 50, the last one is 3"),
        (
            Event(do=Do.CUT, sides=((0, 1), (9, 8))),
            "event 1: there is never a node 8, 9, the last one is 3",
        ),
        (
            Event(do=Do.KILL, nodes=tuple(range(10, 20))),
            "event 1: there is never a node 10, 11, 12, 13, 14 and others, the last one is 3",
        ),
    ],
)
def test_what_can_never_happen_is_known_beforehand(event: Event, line: str) -> None:
    assert list_impossible(replace(QUIET, events=(event,))) == [line] * bool(line)


def test_new_nodes_get_the_next_numbers() -> None:
    kill = Event(do=Do.KILL, round=3, nodes=(6,))
    join = Event(do=Do.JOIN, round=1, every=1, until=2)
    assert list_impossible(replace(QUIET, events=(join, kill))) == [
        "event 2: there is never a node 6, the last one is 5"
    ]
    assert not list_impossible(replace(QUIET, events=(replace(join, count=2), kill)))
    assert not list_impossible(replace(QUIET, events=(replace(join, share=0.1), kill)))
    assert not list_impossible(replace(QUIET, events=(kill,), mix=Mix(join=0.1)))


@pytest.mark.parametrize(
    ("change", "happens"),
    [
        ({"do": Do.KILL}, True),
        ({"do": Do.KILL, "round": 4}, False),
        ({"do": Do.KILL, "nodes": (2,)}, False),
        ({"do": Do.KILL, "nodes": (2, 3)}, True),
        ({"do": Do.LEAVE, "nodes": (50,)}, False),
        ({"do": Do.POWER_CUT, "nodes": (2,)}, False),
        ({"do": Do.FULL_DISK, "nodes": (2,)}, False),
        ({"do": Do.STOP, "nodes": (2,)}, False),
        ({"do": Do.STOP, "nodes": (1,)}, True),
        ({"do": Do.CONTINUE}, False),
        ({"do": Do.RESTART, "nodes": (2,)}, True),
        ({"do": Do.RESTART, "nodes": (3,)}, False),
        ({"do": Do.KILL, "nodes": (1,), "every": 1}, True),
        ({"do": Do.JOIN}, True),
        ({"do": Do.HEAL}, False),
        ({"do": Do.CUT, "sides": ((0, 1), (2, 3)), "rounds": 1}, True),
        ({"do": Do.CUT, "sides": ((0, 1), (8, 9)), "rounds": 1}, False),
        ({"do": Do.CLOCK, "nodes": (2,), "ms": 10}, False),
        ({"do": Do.SLOW, "nodes": (2,)}, False),
        ({"do": Do.TRAINER_DIES, "nodes": (2,)}, False),
        ({"do": Do.TRAINER_DIES, "nodes": (1,)}, True),
        ({"do": Do.LIE, "nodes": (2,), "how": "replay"}, False),
        ({"do": Do.LIE, "nodes": (1,), "how": "replay"}, True),
    ],
)
def test_what_happened_to_nobody_is_known_at_the_end(change: dict[str, Any], happens: bool) -> None:
    """Node 2 is dead by then."""
    event = Event(**{"round": 2, "at": 0.5, **change})
    report = simulate(replace(QUIET, events=(KILL_2, event)), 0)
    assert not report.violations
    assert report.events_without_effect == (() if happens else (2,))


def test_a_file_is_told_beforehand_and_at_the_end(tmp_path: Path) -> None:
    file = tmp_path / "in-vain.toml"
    file.write_text(IN_VAIN)
    ended = CliRunner().invoke(command, ["--scenario", str(file)])
    assert ended.exit_code == 0
    assert ended.stderr == f"{file}: event 3: there is no round 9, the last one is 3\n"
    assert [line for line in ended.stdout.splitlines() if "never" in line] == [
        "  never happened: event 2, kill in round 2",
        "  never happened: event 3, kill in round 9 and every 3 rounds",
    ]
    assert ended.stdout.endswith("all held\n")


def test_of_many_runs_only_what_happened_in_none_is_named(tmp_path: Path) -> None:
    """Node 0 dies in some of them: the third event comes too late to kill it in all."""
    file = tmp_path / "drawn.toml"
    file.write_text(
        f'{IN_VAIN}[[event]]\nround=1\ndo="kill"\n[[event]]\nround=2\ndo="kill"\nnodes=[0]'
    )
    ended = CliRunner().invoke(command, ["--scenario", str(file), "--seeds=0..8", "--json"])
    *each, total = map(json.loads, ended.stdout.splitlines())
    never = [document["events_without_effect"] for document in each]
    assert [2, 3] in never
    assert [2, 3, 5] in never
    assert total["events_without_effect"] == [2, 3]


def test_the_full_mix_is_nobodys_file() -> None:
    """Its second event is in round 10."""
    ended = CliRunner().invoke(command, ["--nodes=3", "--rounds=2"])
    assert not ended.stderr
    assert "never" not in ended.stdout


def test_what_was_still_to_come_when_something_broke_did_not_fail_to_happen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    let_stray(monkeypatch, node=1, round_=2)
    late = Event(do=Do.KILL, round=8)
    never = Event(do=Do.KILL, round=10)
    report = simulate(replace(QUIET, rounds=10, events=(late, never)), 0)
    assert report.violations
    assert report.events_without_effect == (2,)
