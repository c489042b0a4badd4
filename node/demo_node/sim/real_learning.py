"""Real training in a simulated swarm, of a model small enough for it.

Each replica computes its own states with the trainer's own learner, so that equal digests prove
what they are to prove: training, codec, exact updates, snapshots. Some 20 ms per node and round.
"""

import contextlib
import functools
import hashlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch import Tensor

from demo_node.learn.digest import compute_digest, known_answer
from demo_node.ports import ApplyOrder, TrainOrder
from demo_node.sim.learning import Work
from demo_node.sim.snapshots import ModelSnapshot
from demo_node.trainer.device import Devices, check_devices
from demo_node.trainer.learner import LocalLearner
from demo_node.trainer.tensors import compute_leaves, encode_tensors, make_initial
from demo_protocol.effects import Apply, Train
from demo_protocol.manifest import Manifest
from demo_protocol.roster import ChainState
from demo_protocol.schema import compute_schema

if TYPE_CHECKING:
    from demo_node.sim.world import World

SAMPLES_MAX: Final = 32
"""Trained in a round: eight steps."""

WORDS, TEXT_WORDS = 64, 1 << 16
"""Of the language that is learned, and of the text that is written in it."""


class RealLearning:
    """A `LocalLearner` in this process. Virtual time stands still while it works."""

    def __init__(self, world: "World") -> None:
        self._payloads = world.payloads
        self._learner = _make_learner(world.manifest)
        self._k = world.manifest.learning.k
        self._held: set[bytes] = set()

    def begin(self, start: ModelSnapshot) -> None:
        """As `Learning`. Raises Reject where the snapshot is none of this model."""
        self.forget(tuple(self._held))
        self._learner.load(start.state.record, start.raw)
        self._held.add(start.state.record)

    def train(self, effect: Train, samples: int) -> Work:
        """As `Learning`."""
        order = TrainOrder(
            round=effect.round,
            base=effect.base,
            deadline_ms=effect.deadline_ms,
            sample_first=effect.sample_first,
            sample_count=min(samples, SAMPLES_MAX),
            k=self._k if effect.sends else 0,
            probation_key=effect.probation_key,
        )
        with _one_thread():
            trained = self._learner.train(order)
        if not trained.k:
            return Work()
        name = hashlib.sha256(trained.payload).digest()
        self._payloads[name] = trained.payload
        return Work(name, len(trained.payload), trained.samples, trained.loss_micronats)

    def apply(self, effect: Apply, parent_digest: bytes) -> bytes:
        """As `Learning`."""
        payloads = tuple(self._payloads[name] for name in effect.payload_hashes)
        self._held.add(effect.record)
        order = ApplyOrder(
            record=effect.record, parent=effect.parent, round=effect.round, payloads=payloads
        )
        return self._learner.apply(order)

    def forget(self, records: Sequence[bytes]) -> None:
        """As `Learning`."""
        self._held.difference_update(records)
        self._learner.forget(records)

    def restore(self, round_: int) -> None:
        """As `Learning`."""
        self._learner.restore(round_)

    def release(self, round_: int) -> None:
        """As `Learning`."""
        self._learner.release(round_)

    def snapshot(self, state: ChainState, digest: bytes) -> ModelSnapshot:
        """As `Learning`."""
        raw = b"".join(self._learner.snapshot(state.record))
        return ModelSnapshot(state, digest, self._learner.leaves(state.record), raw)


def make_initial_state(manifest: Manifest, root: ChainState) -> ModelSnapshot:
    """State 0, as if it followed the record that everybody begins from."""
    tensors = make_initial(manifest, compute_schema(manifest.model), None)
    return ModelSnapshot(
        root, compute_digest(tensors), compute_leaves(tensors), encode_tensors(tensors)
    )


def measure_loss(manifest: Manifest, snapshot: ModelSnapshot) -> float:
    """Held-out loss of a state, nats per byte."""
    learner = _make_learner(manifest)
    learner.load(snapshot.state.record, snapshot.raw)
    with _one_thread():
        return learner.evaluate(snapshot.state.record)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Sums of local work depend on how many share it; a run is to be repeated on any machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _make_learner(manifest: Manifest) -> LocalLearner:
    """On the CPU. Its clock stands still: a round ends by its samples, not by its deadline."""
    return LocalLearner(manifest, _make_corpus(manifest), _find_cpu(), now_ms=lambda: 0)


@functools.cache
def _find_cpu() -> Devices:
    """With the start-up test of its arithmetic."""
    return check_devices(torch.device("cpu"), known_answer)


@functools.lru_cache(maxsize=1)
def _make_corpus(manifest: Manifest) -> Tensor:
    """Words of a made-up language, one after the other at random, uint8 [train + held-out]."""
    data, dice = manifest.data, np.random.Generator(np.random.PCG64(manifest.seed))
    letters = np.frombuffer(b"aeinorst", dtype=np.uint8)
    words = [dice.choice(letters, size=size).tobytes() for size in dice.integers(2, 8, size=WORDS)]
    text = b" ".join(words[i] for i in dice.integers(0, WORDS, size=TEXT_WORDS))
    whole = np.resize(np.frombuffer(text, dtype=np.uint8), data.train_bytes + data.heldout_bytes)
    return torch.from_numpy(whole)
