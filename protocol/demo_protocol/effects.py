"""What a node must do: all that the round machine asks for. What it is told is in events.py.

Effects are carried out in the order given.
"""

from dataclasses import dataclass
from typing import NamedTuple

from demo_protocol.errors import Ignore, Reject
from demo_protocol.identity import Kind
from demo_protocol.limits import RECORDS_PER_REPLY_MAX


@dataclass(frozen=True, slots=True)
class Persist:
    """Write this down, durably, BEFORE any later effect is carried out (rule 10)."""

    kind: Kind
    round: int
    hash: bytes
    raw: bytes


@dataclass(frozen=True, slots=True)
class Announce:
    """Gossip a signed message."""

    kind: Kind
    raw: bytes


@dataclass(frozen=True, slots=True)
class MakeStamp:
    """Find a stamp, off the loop (`admission.search_stamp`); answer with StampMade.

    Give it up once the hour is over: another is asked for then, if one is still needed.
    """

    hour: int
    seed: bytes
    bits: int


class PullPayload(NamedTuple):
    """Get a payload from any of its holders; answer with PayloadsHeld.

    A tuple, which is made in half the time: there is one for every header.
    """

    payload_hash: bytes
    payload_bytes: int
    k: int
    round: int
    holders: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class PullProposal:
    """Get a whole proposal by its name; answer with ProposalFetched."""

    proposal: bytes
    holders: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class PullHeaders:
    """Get headers by hash; answer with HeadersFetched.

    `only`: the holders are asked and nobody else, since it is their word that there are any.
    """

    hashes: tuple[bytes, ...]
    holders: tuple[bytes, ...]
    only: bool = False


@dataclass(frozen=True, slots=True)
class PullRecords:
    """Get a record and its ancestors, `count` together; answer with RecordsFetched.

    `only`: the holders are asked and nobody else, since it is their word that there is one.
    """

    record: bytes
    holders: tuple[bytes, ...]
    count: int = RECORDS_PER_REPLY_MAX
    only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Train:
    """Train from the state after `base` until `deadline_ms`; answer with TrainingDone.

    Where it `sends` nothing, everything stays in the residual: it is not this node's turn.
    """

    round: int
    base: bytes
    deadline_ms: int
    sample_first: int
    sample_count: int
    probation_key: bytes
    sends: bool = True


@dataclass(frozen=True, slots=True)
class Apply:
    """Compute the state after `record` from its parent's; answer with StateApplied or PayloadsLost.

    `payload_hashes` are in the order of the record's header hashes, heartbeats left out.
    """

    record: bytes
    parent: bytes
    round: int
    payload_hashes: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class ComputeRoot:
    """Compute the Merkle root of the state after `record`; answer with RootComputed.

    Where the state is gone there is no answer: it is asked for again.
    """

    record: bytes


@dataclass(frozen=True, slots=True)
class Resync:
    """The states needed to reach `target` are gone: load a snapshot; answer with StatesLost."""

    target: bytes


@dataclass(frozen=True, slots=True)
class Leap:
    """Rule 16: `over` lists what nobody gives any more, and the majority stands on `target`.

    Load a snapshot of a record between them; answer with StartMoved, or not at all.
    """

    over: bytes
    target: bytes


@dataclass(frozen=True, slots=True)
class BeginAgain:
    """Voters stand where no record of ours leads: load a snapshot of their chain.

    Only one of more than `above` records is worth it, and of these only one that descends from
    the record `through`, if it is named. Answer with StartMoved, or not at all. `adopts`: by
    command, a chain that holds one of these records, whatever is final here.
    """

    above: int
    through: bytes | None = None
    adopts: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class KeepRecord:
    """A record is valid: put it into the chain log."""

    record: bytes


@dataclass(frozen=True, slots=True)
class HeadChanged:
    """The node's head is `head` now; `rolled_back` records of the old branch were left."""

    head: bytes
    previous: bytes
    rolled_back: int


@dataclass(frozen=True, slots=True)
class Finalised:
    """Rule 19: this record is final, and everything below it. Write it down: it is never left."""

    record: bytes
    round: int
    height: int


@dataclass(frozen=True, slots=True)
class FinalsConflict:
    """Rule 19: `theirs` peers stand on a chain without our final record, and `ours` on ours.

    One of them stands on `record`. Nobody (0, and no record): that is over.
    """

    record: bytes
    theirs: int
    ours: int


@dataclass(frozen=True, slots=True)
class ForgetStates:
    """States that no rollback in range can need."""

    records: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Release:
    """What was sent in `round` counted for good (rule 24)."""

    round: int


@dataclass(frozen=True, slots=True)
class Restore:
    """What was sent in `round` did not count: add it back to the residual (rule 24)."""

    round: int


@dataclass(frozen=True, slots=True)
class DigestAccused:
    """A header gives another digest than ours for the same base (rule 20)."""

    peer: bytes
    base: bytes


@dataclass(frozen=True, slots=True)
class Refused:
    """A message of a batch was not taken; `error` is Ignore or Reject."""

    kind: Kind
    sender: bytes
    error: Ignore | Reject


@dataclass(frozen=True, slots=True)
class RootDiffered:
    """`record`, by `peer`, names another root of its parent's state than ours (rules 20, 21)."""

    peer: bytes
    record: bytes


@dataclass(frozen=True, slots=True)
class Replay:
    """Most others have another state after `base` than we have: compute ours again (rule 20).

    Load a snapshot of one of the records in `verified`; answer with StatesLost, or not at all.
    """

    base: bytes
    verified: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class ReplayAgreed:
    """The replay gave what most others have: our memory or device had erred."""

    base: bytes


@dataclass(frozen=True, slots=True)
class StateFault:
    """The replay gave not what most others have: this node signs nothing any more.

    `round` is that of the first record after which the states differ.
    """

    base: bytes
    round: int


@dataclass(frozen=True, slots=True)
class FaultCleared:
    """Most others have our states again: this node takes part again."""


@dataclass(frozen=True, slots=True)
class KeyInUse:
    """Another node has signed with our key: a copied data folder. Two of one name are none."""

    round: int


@dataclass(frozen=True, slots=True)
class RoundEnded:
    """The clock left `round`; what it decided so far is on the chain."""

    round: int


Effect = (
    Persist
    | Announce
    | MakeStamp
    | PullPayload
    | PullHeaders
    | PullProposal
    | PullRecords
    | Train
    | Apply
    | ComputeRoot
    | Resync
    | Leap
    | BeginAgain
    | KeepRecord
    | HeadChanged
    | Finalised
    | FinalsConflict
    | ForgetStates
    | Release
    | Restore
    | DigestAccused
    | RootDiffered
    | Refused
    | Replay
    | ReplayAgreed
    | StateFault
    | FaultCleared
    | KeyInUse
    | RoundEnded
)
