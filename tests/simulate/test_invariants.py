"""Each invariant is broken by a lie planted into the world, and by nothing in a quiet one."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from demo_node.sim.actor import Actor
from demo_node.sim.agreeing import KeepsGoing, OneChain, OneFinal, OwnFinal
from demo_node.sim.books import CreditedOnce, GivenBack, Innocent, NoWitness
from demo_node.sim.catching_up import take_part
from demo_node.sim.invariants import Bounds, EqualStates, HonestWords, SamplesOnce, SignsOnce
from demo_node.sim.watching import Invariant
from demo_node.store.memory import MemoryDisk
from demo_protocol import roster
from demo_protocol.assignment import Interval
from demo_protocol.effects import Finalised, StateFault
from demo_protocol.events import StartMoved, StateApplied, Tick
from demo_protocol.manifest import Manifest
from tests.simulate.stages import QUIET, Stage

NODE = 3


def test_nothing_is_broken_where_nothing_happens() -> None:
    chain, samples, final = OneChain(), SamplesOnce(), OneFinal()
    others = [EqualStates(), SignsOnce(), HonestWords(), Bounds(), OwnFinal()]
    others += [Innocent(), CreditedOnce(), GivenBack(), NoWitness()]
    stage = Stage(QUIET, chain, samples, final, *others)
    assert stage.run() == []
    heights = {actor.view.head_state.height for actor in stage.world.actors}
    assert heights == {stage.world.root.height + QUIET.rounds}
    assert chain.checked > 8  # they did look
    assert final.finals > 8
    assert samples.checked > 8
    assert (samples.sibling_bases, samples.probes) == (0, 0)


def what_breaks(invariant: Invariant, lie: Callable[[Actor], object], ms: int = 100) -> set[str]:
    """The names of what is broken where node 3 does this in round 5."""
    stage = Stage(QUIET, invariant)
    stage.at(5, lambda: lie(stage.world.actors[NODE]), ms)
    return set(stage.run())


def test_another_state_after_an_equal_record_is_seen() -> None:
    def lie(actor: Actor) -> None:
        actor.trainer.states = dict.fromkeys(actor.trainer.states, b"another!")

    assert what_breaks(EqualStates(), lie) == {EqualStates.name}


def test_a_second_signature_for_one_round_is_seen() -> None:
    def lose_the_log(actor: Actor) -> None:
        actor.crash()
        actor.disk.files = MemoryDisk()
        actor.disk.files.make_folder(Path("/node"))
        actor.boot()
        take_part(actor)  # it does not listen first, whether its key is in use: that would do

    after_it_signed_ms = 5_700
    assert what_breaks(SignsOnce(), lose_the_log, after_it_signed_ms) == {SignsOnce.name}
    # Where nobody looks, the others do: they hear both, and list them as evidence.
    assert what_breaks(Innocent(), lose_the_log, after_it_signed_ms) == {Innocent.name}


def test_the_same_signature_after_a_crash_is_none_of_that() -> None:
    def crash(actor: Actor) -> None:
        actor.crash(power_cut=True)
        actor.boot()

    assert what_breaks(SignsOnce(), crash, 5_700) == set()


def test_samples_dealt_out_twice_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = roster.compute_interval

    def first_ones(
        state: roster.ChainState, peer: bytes, round_: int, manifest: Manifest
    ) -> tuple[Interval, bytes]:
        interval, key = honest(state, peer, round_, manifest)
        return Interval(state.cursor, interval.count), key

    monkeypatch.setattr("demo_protocol.round.compute_interval", first_ones)
    assert what_breaks(SamplesOnce(), lambda actor: None) == {SamplesOnce.name}


def test_an_honest_word_that_is_rejected_is_seen() -> None:
    def doubt_everybody(actor: Actor) -> None:
        actor.view.verify = lambda key, message, signature: False

    assert what_breaks(HonestWords(), doubt_everybody) == {HonestWords.name}


def test_a_memory_without_a_bound_is_seen() -> None:
    def remember_everything(actor: Actor) -> None:
        actor.view.held_at_cut |= dict.fromkeys(range(1_000, 1_100), frozenset())

    assert what_breaks(Bounds(), remember_everything) == {Bounds.name}


def test_a_node_that_stays_behind_is_seen() -> None:
    def stand_still(actor: Actor) -> None:
        assert actor.machine is not None
        actor.machine.replica.applying = actor.view.head

    stage = Stage(QUIET, OneChain())
    stage.at(2, lambda: stand_still(stage.world.actors[NODE]))
    assert stage.run() == [OneChain.name]


def test_a_node_that_leaves_its_own_final_record_is_seen() -> None:
    def believe_in_another(actor: Actor) -> None:
        height = actor.view.head_state.height
        claimed = Finalised(b"never seen by anybody else......", 2, height - 2)
        actor.world.watcher.on_step(actor, Tick(actor.now_ms()), [claimed], 0)

    assert what_breaks(OwnFinal(), believe_in_another) == {OwnFinal.name}


def test_a_node_that_leaves_its_final_record_by_a_snapshot_is_seen() -> None:
    in_round_8_ms = 30_100  # something is final by then

    def move_elsewhere(actor: Actor) -> None:
        state = actor.view.head_state
        assert actor.view.final is not None
        assert actor.view.final.height < state.height
        elsewhere = replace(state, record=bytes(32))
        actor.trainer.states[elsewhere.record] = b"another!"
        actor.post(StartMoved(actor.now_ms(), elsewhere, b"another!"))

    def move_along(actor: Actor) -> None:
        digest = actor.trainer.states[actor.view.head]
        actor.post(StartMoved(actor.now_ms(), actor.view.head_state, digest))

    assert what_breaks(OwnFinal(), move_elsewhere, in_round_8_ms) == {OwnFinal.name}
    assert what_breaks(OwnFinal(), move_along, in_round_8_ms) == set()


def test_two_final_records_of_one_height_are_seen() -> None:
    invariant = OneFinal()

    def rewrite(actor: Actor) -> None:
        head = actor.view.head_state
        invariant._by_height[head.height] = (b"what another node holds final...", 0)

    assert what_breaks(invariant, rewrite) == {OneFinal.name}


def test_a_witness_is_seen() -> None:
    def doubt_itself(actor: Actor) -> None:
        fault = StateFault(actor.view.head, 4)
        actor.world.watcher.on_step(actor, Tick(actor.now_ms()), [fault], 0)

    assert what_breaks(NoWitness(), doubt_itself) == {NoWitness.name}


def test_too_few_records_are_seen() -> None:
    going = KeepsGoing()
    going.finish(95, 100)
    assert going.broken == []
    going.finish(94, 100)
    assert [violation.text for violation in going.broken] == ["94 records in 100 rounds"]


def test_a_node_that_ends_by_its_own_fault_is_seen() -> None:
    def answer_unasked(actor: Actor) -> None:
        actor.post(StateApplied(actor.now_ms(), bytes(32), bytes(8)))

    assert what_breaks(SignsOnce(), answer_unasked) == {"no node ends by its own fault"}
