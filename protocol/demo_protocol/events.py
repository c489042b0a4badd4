"""What happens to a node: all that the round machine is told. What it answers is in effects.py.

Time enters only as `now_ms`, Unix milliseconds.
"""

from dataclasses import dataclass

from demo_protocol.identity import Kind
from demo_protocol.roster import ChainState
from demo_protocol.sets import Difference


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed."""

    now_ms: int


@dataclass(frozen=True, slots=True)
class GossipReceived:
    """A message came over gossip; `sender` handed it over and need not be its author."""

    now_ms: int
    kind: Kind
    raw: bytes
    sender: bytes


@dataclass(frozen=True, slots=True)
class GossipBatch:
    """Messages that came within one millisecond: (kind, bytes, who handed it over).

    What is not taken of them changes nothing, and is answered with Refused.
    """

    now_ms: int
    messages: tuple[tuple[Kind, bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class HeadersFetched:
    """Headers that were pulled by hash."""

    now_ms: int
    raws: tuple[bytes, ...]
    sender: bytes


@dataclass(frozen=True, slots=True)
class SetsCompared:
    """A peer said what it knows and we may not (rule 23)."""

    now_ms: int
    difference: Difference
    sender: bytes


@dataclass(frozen=True, slots=True)
class ProposalFetched:
    """A whole proposal of which the notice had come (rule 15)."""

    now_ms: int
    raw: bytes
    sender: bytes


@dataclass(frozen=True, slots=True)
class Bundle:
    """A record as peers give it to each other: the signed proposal and every header it lists."""

    proposal: bytes
    headers: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class RecordsFetched:
    """Part of a chain, oldest first: pulled from a peer or read from our own log."""

    now_ms: int
    bundles: tuple[Bundle, ...]
    sender: bytes


@dataclass(frozen=True, slots=True)
class PayloadsHeld:
    """Payloads are here, hashed and parsed, that came within one millisecond.

    They are kept as those of `round`: its headers name them.
    """

    now_ms: int
    round: int
    hashes: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class PayloadsLost:
    """Payloads that were here are not any more: the disk gave back other bytes, or none."""

    now_ms: int
    payload_hashes: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingDone:
    """The trainer finished a round's local work; `k` 0 where it has nothing to send."""

    now_ms: int
    round: int
    base: bytes
    payload_hash: bytes
    payload_bytes: int
    k: int
    samples: int
    loss_micronats: int


@dataclass(frozen=True, slots=True)
class StampMade:
    """The work for a join is done (rule 26): it is good for the rounds of one hour."""

    now_ms: int
    hour: int
    nonce: int


@dataclass(frozen=True, slots=True)
class StateApplied:
    """The trainer holds the state after `record`."""

    now_ms: int
    record: bytes
    digest: bytes


@dataclass(frozen=True, slots=True)
class StatesLost:
    """The trainer was restarted: of all states it holds only that after `record`."""

    now_ms: int
    record: bytes
    digest: bytes


@dataclass(frozen=True, slots=True)
class StartMoved:
    """A snapshot of the others' chain was loaded: `state` is what the chain says there.

    `adopted`: by command, though it does not descend from our final record (rule 19).
    """

    now_ms: int
    state: ChainState
    digest: bytes
    adopted: bool = False


@dataclass(frozen=True, slots=True)
class RootComputed:
    """The Merkle root of the state after `record` (rule 21), as it is here."""

    now_ms: int
    record: bytes
    root: bytes


Event = (
    Tick
    | GossipReceived
    | GossipBatch
    | HeadersFetched
    | ProposalFetched
    | SetsCompared
    | RecordsFetched
    | PayloadsHeld
    | PayloadsLost
    | TrainingDone
    | StampMade
    | StateApplied
    | StatesLost
    | StartMoved
    | RootComputed
)
