"""Who trains: in a process of its own, or in this one."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOrder:
    """Train from the state after `base` until `deadline_ms`, on these samples, in this order.

    `probation_key` is empty for a member whose turn it is; all others' samples are the draws of
    that key (assignment.compute_probation_samples), `sample_first` on. The `k` largest coefficients
    of each chunk are sent; with k 0 all that was learned stays in the residual.
    """

    round: int
    base: bytes
    deadline_ms: int
    sample_first: int
    sample_count: int
    k: int
    probation_key: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Norms:
    """Lengths of what was trained and encoded, for people to look at: nothing is decided by them.

    `gradient`: mean over the steps, before clipping. `delta`: of what local work changed.
    `residual`: of what is left after the payload was taken; `residual_ratio`: that over the length
    before.
    """

    gradient: float
    delta: float
    residual: float
    residual_ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """One round's local work: the payload and what the header says of it.

    A heartbeat has no norms: nothing was encoded. Nor has what memory was too short to measure.
    Without a turn there are samples and no payload: k is 0. Samples, tokens, loss and steps are of
    what was learned from: `nonfinite_gradients` were left out of it (of steps; of the round where
    gradients are accumulated), and with one of `nonfinite_deltas` the round is a heartbeat.
    """

    round: int
    base: bytes
    payload: bytes
    k: int
    samples: int
    tokens: int
    loss_micronats: int
    train_ms: int
    encode_ms: int
    steps: int
    norms: Norms | None = None
    nonfinite_gradients: int = 0
    nonfinite_deltas: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplyOrder:
    """Compute the state after `record` from that after `parent` (rules T6, E1 to E15)."""

    record: bytes
    parent: bytes
    round: int
    payloads: tuple[bytes, ...]
    """The payloads' bytes, sorted by header hash; heartbeats left out."""


class Fate(StrEnum):
    """What became of a payload that this node sent (rule 24)."""

    COUNTED = "counted"  # or nobody knows any more: nothing is to be sent twice
    DROPPED = "dropped"  # its coefficients go back into the residual
    OPEN = "open"  # `Learner.release` or `Learner.restore` will say


@dataclass(frozen=True, slots=True, kw_only=True)
class SentPayload:
    """A payload whose header this node has signed. `payload` is empty where it is not here."""

    round: int
    fate: Fate
    payload: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdoptOrder:
    """Go on with the momentum in the file `path`, and with what was sent since it was written.

    `sent`: oldest first, all that was signed after the round `forgotten_until`; payloads only of
    what is younger than the file and may have counted.
    """

    path: Path
    forgotten_until: int
    sent: tuple[SentPayload, ...]


class Learner(Protocol):
    """The trainer as the round driver sees it: states are named by the record they follow."""

    async def load(self, record: bytes, snapshot: bytes | None) -> bytes:
        """Hold state `record`: from safetensors bytes, or state 0 for None. Returns the digest."""
        ...

    async def train(self, order: TrainOrder) -> Trained:
        """Local work of one round. Raises LearnerLost when the trainer process died."""
        ...

    async def apply(self, order: ApplyOrder) -> bytes:
        """Compute and keep the state after a record; returns its digest. Idempotent."""
        ...

    async def forget(self, records: Sequence[bytes]) -> None:
        """These states are not needed any more."""
        ...

    async def restore(self, round_: int) -> None:
        """What was sent in `round_` did not count: add it back to the residual (rule 24)."""
        ...

    async def release(self, round_: int) -> None:
        """What was sent in `round_` counted: forget the copy kept for `restore`."""
        ...

    def snapshot(self, record: bytes) -> AsyncIterator[bytes]:
        """The state after `record` as safetensors bytes, in pieces of at most 4 MiB."""
        ...

    @property
    def needs_momentum(self) -> bool:
        """Whether it is new, and `adopt` is due before it trains. Raises LearnerLost."""
        ...

    def momentum(self) -> AsyncIterator[bytes]:
        """What a restart would lose, as a momentum file in pieces of at most 4 MiB.

        The residual, what was sent and is not decided yet, the local optimizer's state. Raises
        ConfigError where memory is too short for it.
        """
        ...

    async def adopt(self, order: AdoptOrder | None) -> None:
        """Go on from a momentum file; None: there is none.

        A file that is damaged or another run's changes nothing, and is told.
        """
        ...

    async def leaves(self, record: bytes) -> tuple[bytes, ...]:
        """Leaf hashes of the parameters after `record` (rule 21)."""
        ...

    async def tensor_digests(self, record: bytes) -> tuple[bytes, ...]:
        """The digest of each tensor after `record`, in the order of their names (rule 20).

        Raises LookupError where that state is not held.
        """
        ...

    async def evaluate(self, record: bytes) -> float:
        """Held-out loss of the state after `record`, in nats per byte, over 16 KiB.

        Raises ConfigError where memory is too short for it, or it takes too long.
        """
        ...

    async def generate(self, record: bytes, length: int) -> bytes:
        """Printable text sampled from the state after `record`, seeded by its digest."""
        ...


class LearnerLost(ConnectionError):
    """The trainer process died; its supervisor starts another, which must be loaded again."""
