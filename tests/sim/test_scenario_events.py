"""What a scenario's events come to: when they happen, and to whom."""

from dataclasses import replace
from typing import Any

import pytest

from demo_node.sim.scenario import EVENTS_MAX, Do, Event, Scenario, choose, parse_scenario, split


def event(do: Do = Do.KILL, round_: int = 0, **changes: Any) -> Event:
    return replace(Event(do=do, round=round_), **changes)


def test_a_plan_has_every_repetition_in_order_and_none_after_the_run() -> None:
    scenario = Scenario(
        rounds=12,
        events=(
            event(Do.KILL, 4, every=3, until=10, rounds=2.0),
            event(Do.JOIN, 7),
            event(Do.CUT, 7, at=0.5),
            event(Do.HEAL, 2, every=50),
            event(Do.LEAVE, 12),
            event(Do.STOP, 11, every=1),
        ),
    )
    plan = [(e.round, e.do) for e in scenario.plan()]
    assert plan == [
        (2, Do.HEAL),
        (4, Do.KILL),
        (7, Do.KILL),  # of one moment, the first in the file is the first
        (7, Do.JOIN),
        (7, Do.CUT),
        (10, Do.KILL),
        (11, Do.STOP),
    ]
    assert all(e.every == 0 for e in scenario.plan())
    assert {e.rounds for e in scenario.plan() if e.do is Do.KILL} == {2.0}


def test_a_file_may_not_ask_for_events_without_end() -> None:
    source = f'rounds = {EVENTS_MAX + 1}\n[[event]]\ndo="kill"\nround=0\nevery=1\n'
    assert len(parse_scenario(f"{source}until={EVENTS_MAX - 1}").plan()) == EVENTS_MAX
    with pytest.raises(ValueError, match=f"more than {EVENTS_MAX} events"):
        parse_scenario(source)


def test_who_suffers_is_drawn_by_the_seed_and_the_place_in_the_plan() -> None:
    able = list(range(50))
    some = event(count=5)
    drawn = choose(some, 3, 1, able)
    assert drawn == choose(some, 3, 1, able) == tuple(sorted(set(drawn)))
    assert len(drawn) == 5
    assert len({choose(some, index, seed, able) for index in range(5) for seed in range(5)}) == 25
    assert choose(event(count=4), 0, 0, range(6)) == (1, 2, 3, 4)  # on every machine


@pytest.mark.parametrize(
    ("changes", "count"), [({}, 1), ({"count": 9}, 4), ({"share": 0.5}, 2), ({"share": 0.01}, 1)]
)
def test_how_many_suffer_is_bounded_by_who_can(changes: dict[str, Any], count: int) -> None:
    assert len(choose(event(**changes), 0, 0, [2, 4, 6, 8])) == count
    assert choose(event(**changes), 0, 0, []) == ()


def test_named_nodes_suffer_if_they_can() -> None:
    assert choose(event(nodes=(4, 1, 7)), 0, 0, [1, 2, 4]) == (4, 1)


def test_a_cut_has_named_sides_or_parts_the_drawn_ones_from_all_others() -> None:
    everybody = range(6)
    named = event(Do.CUT, sides=((0, 1), (2,)))
    assert split(named, (5,), everybody) == (frozenset({0, 1}), frozenset({2}))
    drawn, others = split(event(Do.CUT), (5, 1), everybody)
    assert (drawn, others) == (frozenset({1, 5}), frozenset({0, 2, 3, 4}))
