"""Rule 19 holds within its two bounds, and not beyond them: a scenario on each side of both.

A cut shorter than `forget_rounds`; dishonest voters fewer than a third.
"""

import functools

from demo_node.sim.agreeing import OneFinal, OwnFinal
from demo_node.sim.scenario import Do, Event, Scenario
from tests.simulate.stages import Stage
from tests.simulate.two_faced import TwoFaced

FORGET = 40
"""Rounds after which who is not heard is no voter any more: the fewest a manifest may say."""


def cut_for(rounds: int, total: int) -> Scenario:
    return Scenario(
        nodes=8,
        rounds=total,
        events=(Event(do=Do.CUT, round=2, rounds=rounds, sides=((0, 1, 2, 3), (4, 5, 6, 7))),),
        agreement=(("expire_rounds", 2), ("forget_rounds", FORGET)),
    )


def test_halves_that_are_apart_for_less_finalise_nothing_and_agree_again() -> None:
    final = OneFinal()
    stage = Stage(cut_for(FORGET - 10, FORGET + 10), final, OwnFinal())
    assert stage.run() == []
    heads = {actor.view.head for actor in stage.world.actors}
    assert len(heads) == 1
    newest = {a.view.final.round for a in stage.world.actors if a.view.final is not None}
    assert min(newest) > FORGET - 10  # made after the heal; none was made while it lasted
    assert final.finals > 0


def test_halves_that_forget_each_other_finalise_both() -> None:
    stage = Stage(cut_for(FORGET + 20, FORGET + 22), OneFinal())
    assert set(stage.run()) == {OneFinal.name}


def split_with_dishonest(dishonest: int) -> list[str]:
    """Twelve members: the honest ones in two halves, the others with a word for each."""
    honest = 12 - dishonest
    half = (honest + 1) // 2
    left, right = range(half), range(half, honest)
    scenario = Scenario(
        nodes=12,
        rounds=22,
        events=(Event(do=Do.CUT, round=2, sides=(tuple(left), tuple(right))),),
    )
    stage = Stage(scenario, OneFinal(), OwnFinal())
    for index in range(honest, 12):
        stage.at(0, functools.partial(stage.crash, index))
    TwoFaced(stage.world, range(honest, 12), (left, right)).speak_in_rounds(range(22))
    return stage.run()


def test_fewer_than_a_third_cannot_make_two_records_final() -> None:
    assert split_with_dishonest(3) == []


def test_a_third_can() -> None:
    assert set(split_with_dishonest(4)) == {OneFinal.name}
