"""A simulated trainer: when what is computed is there, and how it gets a lost state back.

It holds states as `demo_node.trainer` does. What it computes is in `learning.py`.
"""

import functools
from typing import TYPE_CHECKING

from demo_node.sim.learning import make_learning
from demo_node.sim.snapshots import ModelSnapshot
from demo_protocol.astray import find_wanted
from demo_protocol.effects import Apply, BeginAgain, Leap, Replay, Train
from demo_protocol.events import (
    PayloadsLost,
    RootComputed,
    StartMoved,
    StateApplied,
    StatesLost,
    TrainingDone,
)
from demo_protocol.roster import ChainState

if TYPE_CHECKING:
    from demo_node.sim.actor import Actor

ENCODE_MS, APPLY_MS, LOAD_MS = 5, 5, 50
"""What a trainer takes: `tiny` on a quiet core."""

SAMPLES_MAX = 4096
"""Done in a round: without a limit assignments would grow by half every few rounds (rule T2)."""

ASK_AGAIN_MS = 2_000
"""Pause before peers are asked again for a snapshot that nobody gave."""


class ModelTrainer:
    """One node's trainer in one life. `states` are digests by record."""

    def __init__(self, actor: "Actor", start: ModelSnapshot) -> None:
        self._actor = actor
        self._world = actor.world
        self._finding_way = False
        self._learning = make_learning(actor.world, actor.name)
        self._hold(start)

    # --- rounds ----------------------------------------------------------------------------------

    def train(self, effect: Train) -> None:
        """Local work until the boundary; then a payload that only this node could send."""
        ready_ms = effect.deadline_ms - self._actor.now_ms() + ENCODE_MS * self._slowness
        self._actor.later(ready_ms, functools.partial(self._trained, effect))

    def _trained(self, effect: Train) -> None:
        if effect.base not in self.states:
            return
        actor = self._actor
        samples = min(effect.sample_count, SAMPLES_MAX) // self._slowness
        work = self._learning.train(effect, samples)
        if work.payload_hash:
            actor.disk.payloads.add(work.payload_hash, effect.round)
        actor.post(
            TrainingDone(
                now_ms=actor.now_ms(),
                round=effect.round,
                base=effect.base,
                payload_hash=work.payload_hash,
                payload_bytes=work.payload_bytes,
                k=self._world.manifest.learning.k if work.payload_hash else 0,
                samples=work.samples,
                loss_micronats=work.loss_micronats,
            )
        )

    def apply(self, effect: Apply) -> None:
        """The state after a record, or word that payloads are not on the disk."""
        self._actor.later(APPLY_MS * self._slowness, functools.partial(self._applied, effect))

    def _applied(self, effect: Apply) -> None:
        actor = self._actor
        assert actor.machine is not None
        if actor.machine.replica.applying != effect.record:
            return
        lost = actor.disk.payloads.list_missing(effect.record, effect.payload_hashes)
        if lost:
            actor.post(PayloadsLost(actor.now_ms(), lost))
            return
        digest = self._learning.apply(effect, self.states[effect.parent])
        self.states[effect.record] = digest
        actor.post(StateApplied(actor.now_ms(), effect.record, digest))

    def compute_root(self, record: bytes) -> None:
        """The Merkle root of a state (rule 21)."""
        delay_ms = APPLY_MS * self._slowness
        self._actor.later(delay_ms, functools.partial(self._computed_root, record))

    def _computed_root(self, record: bytes) -> None:
        chain = self._actor.view.chain
        if record in self.states and record in chain:
            root = self._world.compute_root(self.snapshot(chain[record].state))
            self._actor.post(RootComputed(self._actor.now_ms(), record, root))

    def forget(self, records: tuple[bytes, ...]) -> None:
        """These states are not needed any more."""
        for record in records:
            self.states.pop(record, None)
        self._learning.forget(records)

    def restore(self, round_: int) -> None:
        """What was sent in `round_` did not count (rule 24)."""
        self._learning.restore(round_)

    def release(self, round_: int) -> None:
        """What was sent in `round_` counted."""
        self._learning.release(round_)

    def snapshot(self, state: ChainState) -> ModelSnapshot:
        """The state after a record, which is held."""
        return self._learning.snapshot(state, self.states[state.record])

    # --- ways back -------------------------------------------------------------------------------

    def die(self) -> bool:
        """Lose every state; its successor loads a snapshot. Not while it computes (a model's)."""
        machine = self._actor.machine
        if machine is None or machine.replica.applying is not None:
            return False
        self._learning = make_learning(self._world, self._actor.name)
        self._load_towards(self._actor.view.head)
        return True

    def resync(self, target: bytes) -> None:
        """Load a state from which replaying leads to `target`, or at least to the others."""
        self._actor.later(LOAD_MS, functools.partial(self._load_towards, target))

    def _load_towards(self, target: bytes) -> None:
        """As `StateLoading.resync`."""
        view, actor, world = self._actor.view, self._actor, self._world
        goal = target if target in view.chain else view.head
        found = (
            world.find_below(actor, goal)
            or world.find_beyond(actor, view.chain.root.record, find_wanted(view))
            or world.find_elsewhere(actor, -1)
        )
        if found is None:
            actor.later(ASK_AGAIN_MS, functools.partial(self._load_towards, goal))
            return
        if found.state.record in view.digests:
            self._load_again(found)
        else:
            self._move(found)

    def replay(self, effect: Replay) -> None:
        """Rule 20: compute again what most others have otherwise."""
        self._actor.later(LOAD_MS, functools.partial(self._load_verified, effect))

    def _load_verified(self, effect: Replay) -> None:
        """As `StateLoading.find_replay`."""
        view, actor, world = self._actor.view, self._actor, self._world
        found = world.find_among(actor, effect.verified)
        if found is None:
            found = world.find_beyond(actor, view.chain.root.record, find_wanted(view))
        if found is not None and found.state.record in view.digests:
            self._load_again(found)

    def _load_again(self, found: ModelSnapshot) -> None:
        """A state that was applied here, and no other: all after it are computed again."""
        self._hold(found)
        self._actor.post(StatesLost(self._actor.now_ms(), found.state.record, found.digest))

    def _move(self, found: ModelSnapshot) -> None:
        """A state to which no record of ours leads."""
        self._hold(found)
        self._actor.post(StartMoved(self._actor.now_ms(), found.state, found.digest))

    def find_way(self, effect: Leap | BeginAgain) -> None:
        """Go on from a snapshot where replaying does not lead to the others (rules 16 and 25)."""
        if not self._finding_way:
            self._finding_way = True
            self._actor.later(LOAD_MS, functools.partial(self._find_snapshot, effect))

    def _find_snapshot(self, effect: Leap | BeginAgain) -> None:
        self._finding_way = False
        actor = self._actor
        match effect:
            case Leap(over, target):
                found = self._world.find_beyond(actor, over, target)
            case BeginAgain(above):
                found = self._world.find_elsewhere(actor, above)
        if found is not None and found.state.record not in actor.view.digests:
            self._move(found)

    def _hold(self, found: ModelSnapshot) -> None:
        """This state and no other."""
        self.states = {found.state.record: found.digest}
        self._learning.begin(found)

    @property
    def _slowness(self) -> int:
        return self._actor.traits.slowness
