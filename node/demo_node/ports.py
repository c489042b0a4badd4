"""What a round needs of the outside world. Rooms implement these; so do the simulator's fakes.

Values only: no port hands out a library's object. Peers are their 32-byte Ed25519 public keys.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Protocol


class Clock(Protocol):
    """Wall time, as far as this node knows it."""

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch."""
        ...

    async def sleep_until_ms(self, deadline_ms: int) -> None:
        """Return at or after `deadline_ms`."""
        ...


class Topic(StrEnum):
    """Gossip topics of a run; on the wire `demo/<run id hex>/<topic>`."""

    HEADERS = "headers"
    PROPOSALS = "proposals"
    MEMBERSHIP = "membership"


class Blob(IntEnum):
    """What can be pulled from a peer over the blob protocol. The wire knows the numbers."""

    MANIFEST = 1
    PAYLOAD = 2
    HEADERS = 3
    RECORDS = 4
    HEAD = 5
    INITIAL = 6
    CORPUS_BLOCK = 7
    PEERS = 8
    TIME = 9
    STATE_LEAVES = 10
    STATE_CHUNK = 11
    SETS = 12
    PROPOSAL = 13
    TENSORS = 14
    CHAIN_STATE = 15
    REACH = 16


@dataclass(frozen=True, slots=True)
class BlobRequest:
    """`key` says what is asked for, where the kind does not: hashes, or what is known already.

    `limit` bounds the reply. `wait_ms`: for how long an answer may be put off until what is asked
    for is here; whoever answers may put it off less.
    """

    kind: Blob
    key: bytes = b""
    limit: int = 0
    wait_ms: int = 0


class Unreachable(ConnectionError):
    """The peer could not be asked, or did not answer in time."""


class NotHeld(LookupError):
    """The peer answered: it does not hold what was asked for."""


class Busy(NotHeld):
    """The peer answered: others hold it, too, and should be asked first."""


Verdict = bool
"""What a gossip handler says of a message: True = forward it to others, False = drop it here."""

OnGossip = Callable[[Topic, bytes, bytes], Verdict]
"""(topic, peer that handed it over, message). Called on the loop; must return in under 10 ms."""

OnBlob = Callable[[bytes, BlobRequest], Awaitable[bytes | None]]
"""(asking peer, request) -> the bytes, or None where this node does not hold them.

Raises Busy where it does, and others are to be asked first."""

OnAnswered = Callable[[bytes, BlobRequest, int], None]
"""(asking peer, request, bytes): so many of an `OnBlob`'s begin to leave; 0: it was called off.

Called on the loop, once for each answer that has bytes."""


def ignore_answered(asking: bytes, request: BlobRequest, size: int) -> None:
    """An OnAnswered for whoever does not want to know."""


OnPiece = Callable[[int], None]
"""So many bytes more of an answer have come. First 0: the peer has it, and begins to give it."""


def ignore_piece(size: int) -> None:
    """An OnPiece for whoever does not want to know."""


OnWait = Callable[[bool], None]
"""True: a request waits for our own cap, and not for the peer. False: it does so no longer."""


def ignore_wait(is_held: bool) -> None:
    """An OnWait for whoever does not want to know."""


@dataclass(frozen=True, slots=True)
class PeerView:
    """One connected peer.

    `connected_s`: for how many seconds it has been. `rtt_ms`: the last round trip of a question
    for the time, at least 1; 0 while nobody has measured it, and from the mesh itself. `score`:
    what is held against it, which fades; at 100 it is banned. `elsewhere`: it said that it takes
    part in another run than we do; nothing of ours is to be had from it.
    """

    peer: bytes
    address: str
    outbound: bool
    connected_s: int = 0
    rtt_ms: int = 0
    score: int = 0
    elsewhere: bool = False


class Direction(StrEnum):
    """Seen from this node."""

    IN = "in"
    OUT = "out"


class Use(StrEnum):
    """What bytes on the mesh's sockets are for."""

    GOSSIP = "gossip"
    PAYLOAD = "payload"
    SYNC = "sync"  # what nodes catch up with
    OTHER = "other"  # handshakes, headers of frames, encryption, small questions


class PullResult(StrEnum):
    """What came of a request to one peer."""

    OK = "ok"
    NOT_HELD = "not_held"
    UNREACHABLE = "unreachable"


class DialResult(StrEnum):
    """What came of dialling one address."""

    CONNECTED = "connected"
    TIMED_OUT = "timed_out"
    REFUSED = "refused"  # nobody listens there
    FAILED = "failed"


class Offence(StrEnum):
    """What no honest peer does."""

    MESSAGE = "message"  # gossip that whoever passes it on can see is wrong
    ANSWER = "answer"  # bytes that are not what was asked for
    PAYLOAD = "payload"  # it signed for something that is no payload
    GARBAGE = "garbage"  # bytes that are no frame of the protocol they came by
    FLOOD = "flood"  # more than any node has to say, or than was allowed
    STALLED = "stalled"  # a stream held open with nothing on it, by who is there
    KEYS = "keys"  # of an address: a key that came from there was banned
    OPERATOR = "operator"  # our own operator banned it


@dataclass(frozen=True, slots=True)
class BanView:
    """Who is kept out: a key, or an address (a /32 or /64); the other one is empty.

    `times`: how often it was, of late. `offence`: the last of those that led there.
    """

    peer: bytes
    address: str
    left_s: int
    offence: Offence
    times: int


class Refusal(StrEnum):
    """Why a socket was closed before its handshake."""

    BANNED = "banned"  # its address is
    NETWORK = "network"  # as many are connected from its /24 or /56
    FULL = "full"
    HANDSHAKES = "handshakes"  # as many are under way
    KEY = "key"  # it lacks the key of this private swarm


class PeerChange(StrEnum):
    """A peer's first connection, and the end of its last one."""

    CONNECTED = "connected"
    DISCONNECTED = "disconnected"


@dataclass(frozen=True, slots=True)
class MeshCounters:
    """What the mesh has done since start; none of these falls, and none is of a single peer.

    `bytes_in` and `bytes_out` are those of the sockets. `traffic` says what they were for: its
    uses add up to them, but for frames that are on their way. `pulls` are requests that we made,
    those that were cancelled left out; so with `dials`.
    """

    bytes_in: int
    bytes_out: int
    traffic: Mapping[tuple[Direction, Use], int] = field(default_factory=dict)
    pulls: Mapping[tuple[Blob, PullResult], int] = field(default_factory=dict)
    dials: Mapping[DialResult, int] = field(default_factory=dict)
    changes: Mapping[PeerChange, int] = field(default_factory=dict)
    refused: Mapping[Refusal, int] = field(default_factory=dict)
    offences: Mapping[Offence, int] = field(default_factory=dict)


class Mesh(Protocol):
    """Announce by gossip, pull by hash over streams."""

    @property
    def peer(self) -> bytes:
        """Our own public key."""
        ...

    def addresses(self) -> Sequence[str]:
        """Full multiaddrs we listen on, each ending in /p2p/<peer id>."""
        ...

    def peers(self) -> Sequence[PeerView]:
        """Who is connected now."""
        ...

    def counters(self) -> MeshCounters:
        """What was done since start."""
        ...

    def mesh_peers(self, topic: Topic) -> int:
        """Links of the gossip mesh of a topic. None while peers are connected is an alarm."""
        ...

    def serving(self) -> int:
        """Requests of peers that are being answered."""
        ...

    def blame(self, peer: bytes, offence: Offence) -> None:
        """The peer did what no honest one does: lower its standing, ban it where that is enough."""
        ...

    def bans(self) -> Sequence[BanView]:
        """Who is kept out now."""
        ...

    def ban(self, peer: bytes, seconds: float) -> None:
        """Close its connections and keep it out for so long."""
        ...

    def forgive(self, peer: bytes = b"", host: str = "") -> bool:
        """Hold nothing against a key, or an address, any more; False where nothing was."""
        ...

    async def join(
        self,
        run_id: bytes,
        on_gossip: OnGossip,
        on_blob: OnBlob,
        on_answered: OnAnswered = ignore_answered,
    ) -> None:
        """Subscribe to the run's topics and begin to serve."""
        ...

    async def connect(self, address: str) -> bytes:
        """Dial a full multiaddr, a number for its host; return the peer's public key.

        Raises Unreachable.
        """
        ...

    async def publish(self, topic: Topic, message: bytes) -> None:
        """Hand `message` to the gossip mesh. Raises LocalFault over the size limit."""
        ...

    async def request(
        self,
        peer: bytes,
        request: BlobRequest,
        *,
        bytes_max: int,
        timeout_s: float,
        on_piece: OnPiece | None = None,
        on_wait: OnWait | None = None,
    ) -> bytes:
        """Pull a blob. The caller checks its hash. Raises Unreachable or NotHeld.

        Where it is cancelled the peer is told, and sends no more.
        """
        ...


@dataclass(frozen=True, slots=True)
class Slice:
    """A while in which replies waited to be sent, and the bytes that reached others in it."""

    seconds: float = 0.0
    bytes: int = 0

    @property
    def bytes_per_s(self) -> float:
        """0 where nothing was seen."""
        return self.bytes / self.seconds if self.seconds > 0 else 0.0


TakeUplink = Callable[[], Slice]
"""The fastest stretch of sending since it was last called."""


class OpenMesh(Mesh, Protocol):
    """A mesh over sockets, which listens, can fail, and has to be stopped."""

    @property
    def take_uplink(self) -> TakeUplink | None:
        """Looks at this node's uplink; None where the mesh cannot."""
        ...

    def set_caps(self, upload_bytes_per_s: float, download_bytes_per_s: float) -> None:
        """Other caps from now on; 0 is none."""
        ...

    def listening(self) -> Sequence[str]:
        """The multiaddrs that connections are accepted on, without peer id."""
        ...

    async def wait(self) -> None:
        """Return when the mesh has ended; raise what ended it. Some task has to watch this."""
        ...

    async def stop(self) -> None:
        """Close every connection and end. Raises nothing; twice is fine."""
        ...


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


class RoundStore(Protocol):
    """What a round writes down and looks up. Methods that wait on the disk are coroutines."""

    async def persist_signed(self, kind: str, round_: int, hash_: bytes, raw: bytes) -> None:
        """Durable when it returns (rule 10). Raises LocalFault where another hash is there."""
        ...

    def list_signed(self, kind: str) -> tuple[int, list[bytes]]:
        """What was signed of a kind, oldest first, after a round, and that round.

        Up to it what was signed may be forgotten; -1 where nothing is. May be called in a thread.
        """
        ...

    async def keep_record(self, record: bytes, parent: bytes, round_: int, bundle: bytes) -> None:
        """Append a RecordBundle to the chain log."""
        ...

    async def read_record(self, record: bytes) -> tuple[bytes | None, bytes]:
        """(RecordBundle of a record, its parent), or (None, b"") where the log lacks it."""
        ...

    @property
    def payload_bytes(self) -> int:
        """Bytes of all payloads that are held."""
        ...

    @property
    def payloads_from(self) -> int | None:
        """First round of which there are payloads; None where there are none at all."""
        ...

    async def keep_payload(self, round_: int, payload_hash: bytes, raw: bytes) -> None:
        """Keep a payload for the window of the manifest.

        Raises ConfigError where the disk takes none: then it is held in memory for a while.
        """
        ...

    async def read_payload(self, payload_hash: bytes) -> bytes | None:
        """The payload, if it is held and its hash still matches."""
        ...

    async def forget_payloads_before(self, round_: int, needed_from: int) -> int:
        """Payloads of older rounds are not needed any more. Returns the first round kept.

        A later one where the disk budget asks for it, but none from `needed_from` on is dropped.
        """
        ...


class Archive(Protocol):
    """What a node serves besides its rounds."""

    def snapshots(self) -> Sequence[tuple[bytes, bytes]]:
        """(record, root of the state after it) of the snapshots that can be given, newest first."""
        ...

    async def read_initial(self, hash_: bytes) -> bytes | None:
        """The file of state 0, by its SHA-256, where the manifest names one."""
        ...

    async def read_state_leaves(self, root: bytes) -> bytes | None:
        """Leaf hashes of a state that is kept, by its Merkle root (rule 21)."""
        ...

    async def read_state_chunk(self, leaf: bytes) -> bytes | None:
        """A chunk of such a state, by its leaf hash."""
        ...

    async def read_corpus(self, hash_: bytes) -> bytes | None:
        """For the corpus root the list of its leaf hashes, for a leaf hash the block."""
        ...

    def addresses(self) -> Sequence[str]:
        """Multiaddrs of this node and of peers it knows, for others to dial."""
        ...
