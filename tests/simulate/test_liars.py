"""Dishonest nodes, up to a third: each kind is heard, and honest ones go on as if it were not."""

from dataclasses import replace

import pytest

from demo_node.sim.agreeing import OneChain, OneFinal, OwnFinal
from demo_node.sim.invariants import Bounds, EqualStates, HonestWords
from demo_node.sim.scenario import LIES, Links, Mix, Scenario
from demo_node.sim.simulation import simulate
from demo_protocol.roster import get_member_names
from tests.simulate.stages import Stage

AMONG_HONEST = Scenario(
    nodes=13,
    rounds=25,
    links=Links(loss=0.01, duplicate=0.01, reorder=0.01),
    mix=Mix(liars=0.3),
)
"""Three liars and ten honest nodes."""


def lying(*how: str) -> Scenario:
    return replace(AMONG_HONEST, mix=replace(AMONG_HONEST.mix, liar_kinds=how))


@pytest.mark.parametrize("how", LIES)
def test_one_kind_of_lie_costs_no_round_and_no_finality(how: str) -> None:
    report = simulate(lying(how), 5)
    assert not report.violations, (report.violations, *report.transcript)
    assert report.liars == 3
    told = report.messages["lie.withheld" if how in ("withhold", "half_serve") else f"lie.{how}"]
    assert told >= 3
    assert report.records >= 23
    assert report.final_lag <= 6
    assert report.contributors >= 9.5  # of ten honest nodes: nobody is censored for long


def test_all_kinds_of_lies_together() -> None:
    report = simulate(replace(lying(*LIES), nodes=40, rounds=20), 3)
    assert not report.violations, (report.violations, *report.transcript)
    assert report.liars in (11, 12)  # 0.3 is a little less than that
    assert len(report.document()["lies"]) >= 6  # type: ignore[arg-type]
    assert report.records >= 18


def test_who_signs_twice_is_removed_and_nobody_else() -> None:
    watched = (OneChain(), OneFinal(), OwnFinal(), EqualStates(), HonestWords(), Bounds())
    stage = Stage(lying("equivocate"), *watched, seed=3)
    assert stage.run() == []
    actors = stage.world.actors
    liars = {actor.name for actor in actors if actor.traits.how}
    honest = {actor.name for actor in actors} - liars
    for actor in actors:
        if actor.name in honest:
            state = actor.view.head_state
            assert get_member_names(state, stage.world.manifest.agreement) == honest
            assert {p for p, m in state.known.items() if m.removed_until} == liars


def test_liars_who_are_most_stop_finality() -> None:
    """So the liars of the tests above do something: only a third of all is too little of it."""
    most = replace(lying("old_chain"), mix=Mix(liars=0.7, liar_kinds=("old_chain",)), rounds=15)
    assert simulate(most, 4).finals == 0
    assert simulate(replace(most, mix=replace(most.mix, liars=0.3)), 4).finals > 0
