"""Groups that began a run apart, and meet: rule 18 under a parent without members, and its end."""

from demo_node.sim.agreeing import OneChain, OneFinal, OwnFinal
from demo_node.sim.scenario import Do, Event, Scenario
from tests.simulate.stages import Stage


def apart_for(rounds: int, total: int) -> Scenario:
    return Scenario(
        nodes=7,
        rounds=total,
        from_genesis=True,
        events=(Event(do=Do.CUT, round=0, rounds=rounds, sides=((0, 1, 2), (3, 4, 5, 6))),),
    )


def test_those_who_meet_in_time_are_one_run_where_most_was_done() -> None:
    stage = Stage(apart_for(15, 30), OneChain(), OneFinal(), OwnFinal(), seed=3)
    heads: dict[int, bytes] = {}
    stage.at(14, lambda: heads.update((a.index, a.view.head) for a in stage.world.actors))
    assert stage.run() == []
    assert heads[0] != heads[6]
    joined = stage.world.actors[0].view
    assert all(actor.view.head == joined.head for actor in stage.world.actors)
    assert heads[6] in {step.hash for step in joined.chain.ancestors(joined.head)}  # of four nodes
    assert len(joined.chain[joined.head].members) == 7


def test_those_who_meet_too_late_are_two_runs_and_that_is_seen() -> None:
    """After `final_min_records` each has final records of its own: merging needs a person."""
    stage = Stage(apart_for(75, 80), OneFinal(), OwnFinal(), seed=3)
    assert set(stage.run()) == {OneFinal.name}
