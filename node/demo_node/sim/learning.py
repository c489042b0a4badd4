"""What a simulated trainer computes: digests alone, or the training of a tiny model.

`trainer.py` says when, this says what.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from demo_node.sim.snapshots import ModelSnapshot
from demo_protocol.effects import Apply, Train
from demo_protocol.manifest import Manifest
from demo_protocol.merkle import compute_leaf
from demo_protocol.roster import ChainState

if TYPE_CHECKING:
    from demo_node.sim.world import World

STATE_0: Final = b"state 0\0"
"""The digest of a modelled state 0."""


@dataclass(frozen=True, slots=True)
class Work:
    """What came of one round's local work; a heartbeat where `payload_hash` is empty."""

    payload_hash: bytes = b""
    payload_bytes: int = 0
    samples: int = 0
    loss_micronats: int = 0


class Learning(Protocol):
    """One node's, in one life. The trainer remembers which states are held, and their digests."""

    def begin(self, start: ModelSnapshot) -> None:
        """Hold this state and no other."""

    def train(self, effect: Train, samples: int) -> Work:
        """Local work on so many samples at most. Its payload is what others can ask for."""
        ...

    def apply(self, effect: Apply, parent_digest: bytes) -> bytes:
        """Compute and hold the state after a record, whose parent's is held; its digest."""
        ...

    def forget(self, records: Sequence[bytes]) -> None:
        """These states are not needed any more."""

    def restore(self, round_: int) -> None:
        """What was sent in `round_` did not count (rule 24)."""

    def release(self, round_: int) -> None:
        """What was sent in `round_` counted."""

    def snapshot(self, state: ChainState, digest: bytes) -> ModelSnapshot:
        """The state after a record, which is held."""
        ...


def make_first(manifest: Manifest, root: ChainState, learner: str) -> ModelSnapshot:
    """The state that everybody begins with, after record `root`."""
    if learner == "modelled":
        return model_state(root, STATE_0)
    from demo_node.sim.real_learning import make_initial_state  # it brings torch

    return make_initial_state(manifest, root)


def make_learning(world: "World", name: bytes) -> Learning:
    """As the scenario wants it."""
    if world.scenario.learner == "modelled":
        return ModelledLearning(world, name)
    from demo_node.sim.real_learning import RealLearning

    return RealLearning(world)


class ModelledLearning:
    """Of parameters there is only their digest, of payloads only their names.

    What follows from both is computed once for all nodes.
    """

    def __init__(self, world: "World", name: bytes) -> None:
        self._world = world
        self._name = name

    def begin(self, start: ModelSnapshot) -> None:
        """There is nothing to hold but the digest, which the trainer has."""

    def train(self, effect: Train, samples: int) -> Work:
        """A payload that only this node could send."""
        if not effect.sends:
            return Work()
        payload = hashlib.sha256(self._name + effect.round.to_bytes(8, "big")).digest()
        return Work(payload, self._world.payload_bytes, samples, 1_000_000)

    def apply(self, effect: Apply, parent_digest: bytes) -> bytes:
        """A hash of the parent's digest and of all payloads, in order."""
        return self._world.apply(parent_digest, effect)

    def forget(self, records: Sequence[bytes]) -> None:
        """There is nothing held."""

    def restore(self, round_: int) -> None:
        """There is no residual."""

    def release(self, round_: int) -> None:
        """There is no residual."""

    def snapshot(self, state: ChainState, digest: bytes) -> ModelSnapshot:
        """As `Learning`."""
        return model_state(state, digest)


def model_state(state: ChainState, digest: bytes) -> ModelSnapshot:
    """A snapshot whose parameters are their digest."""
    return ModelSnapshot(state, digest, (compute_leaf(digest),))
