"""What a scenario plans happens to the nodes it names, when it says, and is undone."""

from collections.abc import Callable

from demo_node.sim.agreeing import OneChain, OneFinal
from demo_node.sim.faults import Faults
from demo_node.sim.invariants import EqualStates, SignsOnce
from demo_node.sim.scenario import Do, Event, Mix, Scenario
from tests.simulate.stages import Stage


def play(*events: Event, nodes: int = 8, rounds: int = 14, mix: Mix | None = None) -> Stage:
    scenario = Scenario(nodes=nodes, rounds=rounds, events=events, mix=mix or Mix())
    return Stage(scenario, OneChain(), OneFinal(), EqualStates(), SignsOnce(), seed=11)


def up_in(stage: Stage, round_: int) -> set[int]:
    """Filled when the stage runs."""
    seen: set[int] = set()
    stage.at(round_, lambda: seen.update(stage.world.up), ms=5)
    return seen


def test_killed_nodes_are_down_and_come_back_on_their_disks() -> None:
    stage = play(Event(do=Do.KILL, round=3, nodes=(2, 5), rounds=4))
    before, during, after = (up_in(stage, r) for r in (2, 5, 9))
    assert stage.run() == []
    assert before == after == set(range(8))
    assert during == set(range(8)) - {2, 5}
    assert stage.director.faults.counts == {"crash": 2}
    assert stage.director.faults.comings == {"return": 2}
    assert len({actor.view.head for actor in stage.world.actors}) == 1


def test_power_cuts_come_in_the_midst_of_writing() -> None:
    stage = play(Event(do=Do.POWER_CUT, round=2, every=2, until=10, count=3, rounds=1.5))
    assert stage.run() == []
    assert stage.director.faults.counts["power_cut"] > 10


def test_a_full_disk_ends_a_node_until_there_is_room() -> None:
    stage = play(Event(do=Do.FULL_DISK, round=3, nodes=(1,), rounds=5))
    during, after = up_in(stage, 5), up_in(stage, 10)
    assert stage.run() == []
    assert during == set(range(8)) - {1}
    assert after == set(range(8))


def test_who_hangs_does_late_what_was_due_and_catches_up() -> None:
    stage = play(Event(do=Do.STOP, round=3, at=0.5, nodes=(4,), rounds=3))
    during = up_in(stage, 5)
    assert stage.run() == []
    assert during == set(range(8)) - {4}
    heads = {actor.view.head for actor in stage.world.actors}
    assert len(heads) == 1
    assert stage.world.actors[4].life == stage.world.actors[3].life  # it never died


def test_stop_and_continue_restart_and_join_by_events() -> None:
    stage = play(
        Event(do=Do.STOP, round=3, nodes=(4,)),
        Event(do=Do.CONTINUE, round=5, nodes=(4,)),
        Event(do=Do.KILL, round=3, nodes=(6,)),
        Event(do=Do.RESTART, round=6, nodes=(6,)),
        Event(do=Do.JOIN, round=4, count=2),
        Event(do=Do.LEAVE, round=7, nodes=(0,)),
    )
    assert stage.run() == []
    assert set(stage.world.up) == set(range(1, 10))
    assert stage.director.faults.comings == {"return": 1, "join": 2}
    members = stage.world.actors[1].view.chain[stage.world.actors[1].view.head].members
    names = {actor.name: actor.index for actor in stage.world.actors}
    assert {names[name] for name in members} == set(range(1, 10))


def test_a_cut_heals_after_its_rounds() -> None:
    stage = play(Event(do=Do.CUT, round=2, rounds=5, sides=((0, 1, 2), (3, 4, 5, 6, 7))))
    apart: set[bytes] = set()
    stage.at(6, lambda: apart.update(a.view.head for a in stage.world.actors))
    assert stage.run() == []
    assert len(apart) == 2
    assert len({actor.view.head for actor in stage.world.actors}) == 1


def test_heal_ends_every_cut() -> None:
    stage = play(
        Event(do=Do.CUT, round=2, nodes=(1,)),
        Event(do=Do.CUT, round=3, nodes=(2,), one_way=True),
        Event(do=Do.HEAL, round=6),
    )
    assert stage.run() == []
    assert stage.world.links.cuts == []
    assert stage.director.faults.counts == {"two_way_cut": 1, "one_way_cut": 1}


def test_a_clock_that_steps_is_corrected_by_the_others() -> None:
    """Rule 4: the others say what time it is; of four seconds it stands still or jumps."""
    stage = play(
        Event(do=Do.CLOCK, round=3, nodes=(1,), ms=4_000),
        Event(do=Do.CLOCK, round=3, nodes=(2,), ms=-4_000),
        Event(do=Do.KILL, round=4, nodes=(1, 2), rounds=1),  # what it begins with is wrong
    )
    assert stage.run() == []
    true_ms = stage.world.timeline.now_ms
    for actor in stage.world.actors:
        assert abs(actor.now_ms() - true_ms) <= 60


def test_a_drifting_clock_stays_with_the_others() -> None:
    stage = play(rounds=40, mix=Mix(clock_ms=100, drift_ppm=200))
    assert stage.run() == []
    errors = [abs(a.now_ms() - stage.world.timeline.now_ms) for a in stage.world.actors]
    assert max(errors) <= 166  # skew_max_ms
    assert any(abs(actor.drift_ppm) > 100 for actor in stage.world.actors)


def test_a_trainer_that_dies_replays_to_the_same_state() -> None:
    stage = play(Event(do=Do.TRAINER_DIES, round=12, every=1, nodes=(3,)), rounds=16)
    assert stage.run() == []
    assert stage.director.faults.counts == {"trainer_dies": 4}
    heads = {actor.view.digests[actor.view.head] for actor in stage.world.actors}
    assert len(heads) == 1


def test_slow_nodes_do_less_and_hold_nobody_up() -> None:
    stage = play(Event(do=Do.SLOW, round=0, nodes=(3,), factor=4), rounds=6)
    assert stage.run() == []
    view = stage.world.actors[0].view
    slow, quick = (stage.world.actors[i].name for i in (3, 4))
    known = view.head_state.known
    assert 0 < known[slow].samples_total < known[quick].samples_total
    assert view.head_state.height == stage.world.root.height + 6


def test_a_node_that_was_away_for_very_long_is_one_of_them_again() -> None:
    stage = play(Event(do=Do.KILL, round=5, nodes=(3,), rounds=40), rounds=52)
    assert stage.run() == []
    node = stage.world.actors[3]
    assert node.view.head == stage.world.actors[0].view.head
    assert node.name in node.view.chain[node.view.head].members


def test_nobody_kills_the_dead() -> None:
    stage = play()
    counted: list[bool] = []

    def kill_twice() -> None:
        faults: Faults = stage.director.faults
        kills: list[Callable[[], bool]] = [lambda: faults.kill(stage.world.actors[1])] * 2
        counted.extend(kill() for kill in kills)
        counted.append(faults.hang(stage.world.actors[1]))
        counted.append(faults.kill_trainer(stage.world.actors[1]))
        counted.append(faults.restart(stage.world.actors[2]))

    stage.at(3, kill_twice)
    stage.run()
    assert counted == [True, False, False, False, False]
    assert stage.director.faults.counts == {"crash": 1}
