"""What a node shows of itself: immutable values, published by the round driver, read by everyone.

The control service, the metrics and the terminal views look at these; they never reach in.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from demo_node.ports import BanView, PeerView
from demo_protocol.reach import Reachability


class NodeState(StrEnum):
    """Exactly one holds at a time."""

    STARTING = "starting"
    WAITING = "waiting"  # for the manifest or for genesis
    SYNCING = "syncing"
    ACTIVE = "active"
    PAUSED = "paused"  # in the run, but not training: its operator said so
    FINISHED = "finished"  # the run has come to its last round
    DRAINING = "draining"
    STOPPED = "stopped"


READY = frozenset({NodeState.ACTIVE, NodeState.PAUSED, NodeState.FINISHED})
"""States in which a node is level with its run and serves others: /readyz says yes."""


class Phase(StrEnum):
    """Phases of a round (DESIGN.md section 5); NONE before genesis."""

    NONE = "none"
    TRAIN = "train"
    CONTRIBUTE = "contribute"
    PROPOSE = "propose"
    SETTLE = "settle"


class Outcome(StrEnum):
    """How a round ended for this node."""

    RECORDED = "recorded"  # a record of this round was applied before the round ended
    LATE = "late"  # applied, but after the round had ended
    SKIPPED = "skipped"  # no record
    FORKED = "forked"  # a record was applied and later rolled back


@dataclass(frozen=True, slots=True)
class PhaseView:
    """What one phase of a round took: from the milestone before it to its own, Unix ms.

    Milestones are: the round's start, trained, announced, a valid proposal here, applied. So the
    phases of a round add up to its latency. `due_ms`: when the phase ends by the clock. So does the
    train phase of a round in which nothing was trained, if no later milestone came before that.
    """

    phase: Phase
    begin_ms: int
    end_ms: int
    due_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundView:
    """One clock round as this node saw it. Times in milliseconds; hashes raw bytes.

    `phases`: those whose milestone was reached, in order. `heard`: peers whose header of this
    round came, our own included; of these headers `agreeing` name the digest that this node has
    for the same base, and `differing` another one (rule 20). `again`: it was shown before, and its
    record has come since, or was replaced. `due`: it was our turn to contribute; `drawn`: how many
    members' turn it was.
    """

    round: int
    outcome: Outcome
    record: bytes
    digest: bytes
    participants: int
    included: bool
    latency_ms: int
    exchange_ms: int
    train_ms: int
    samples: int
    tokens: int
    steps: int
    loss: float
    payload_bytes: int
    bytes_in: int
    bytes_out: int
    phases: tuple[PhaseView, ...] = ()
    heard: int = 0
    agreeing: int = 0
    differing: int = 0
    again: bool = False
    due: bool = True
    drawn: int = 0

    def slacks_ms(self) -> dict[Phase, int]:
        """What was left of each phase when its work was done; not of train if there was none."""
        return {
            part.phase: part.due_ms - part.end_ms
            for part in self.phases
            if part.phase is not Phase.TRAIN or self.samples
        }


class Standing(StrEnum):
    """A peer's place in the run, by the chain."""

    UNKNOWN = "unknown"
    CANDIDATE = "candidate"
    MEMBER = "member"
    EXPIRED = "expired"  # not heard of for expire_rounds
    LEFT = "left"


@dataclass(frozen=True, slots=True, kw_only=True)
class ContributorView:
    """What one peer has contributed, by the chain; rounds of -1 where it has not yet.

    `share` is that of all samples on the chain, 0 to 1.
    """

    peer: bytes
    standing: Standing
    rounds: int
    samples: int
    share: float
    first_round: int
    last_round: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockView:
    """How far the machine's clock is corrected (rules 3 and 4), in milliseconds.

    Most clocks of `peers` peers and this machine are within `error_ms` of the corrected one; unless
    `verified`, too few have answered.
    """

    correction_ms: int
    error_ms: int
    peers: int
    verified: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ReachView:
    """Whether others can dial this node, by `reached` of the `asked` networks that tried.

    `addresses`: where they do, without key, or those of the relays that bring them; `port`: the one
    they try. `holders`: connected peers
    that this node dialled, so that it takes part through them where nobody dials it.
    """

    state: Reachability
    addresses: tuple[str, ...] = ()
    reached: int = 0
    asked: int = 0
    port: int = 0
    holders: int = 0


UNKNOWN_REACH = ReachView(state=Reachability.UNKNOWN)
"""Before anybody has tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SendingView:
    """How much this node sends in a round, and why.

    `k` of at most `k_max` coefficients of each chunk, 0 before the first round; `fixed` by the
    operator, else so that `copies` of `payload_bytes` leave in `window_ms`, the exchange, beside
    `passed_on_bytes` of others' payloads, over an uplink that was `measured`, or is assumed. An
    upload cap is no less than `uplink_bits_per_s`. `metered`: at most a quarter of `k_max`.
    """

    k: int = 0
    k_max: int = 0
    fixed: bool = False
    metered: bool = False
    measured: bool = False
    uplink_bits_per_s: float = 0.0
    window_ms: int = 0
    payload_bytes: int = 0
    copies: int = 0
    passed_on_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusView:
    """The node now. Losses are in nats per byte, NaN before the first training round or look.

    `heldout_round`: of the record that the held-out loss is of; -1 before the first look.

    `final_record` is the newest that this node will not leave; empty for none. `rival_record` is
    on a chain without it, on which `rival_peers` stand, no fewer than the `own_peers` on ours.

    `started_ms`: when this process began to be a node, Unix ms. The `_bps` are lengths of phases
    in basis points of a round, 0 before the run is known.
    """

    version: str
    pid: int
    trainer_pid: int
    peer: bytes
    peer_id: str
    run_id: bytes
    run_name: str
    state: NodeState
    detail: str
    addresses: Sequence[str]
    genesis_ms: int
    round_ms: int
    round: int
    phase: Phase
    head: bytes
    head_round: int
    height: int
    digest: bytes
    parameters: int
    members: int
    candidates: int
    peers: int
    loss: float
    heldout_loss: float
    heldout_round: int
    bytes_in: int
    bytes_out: int
    train_ms_total: int
    tokens_total: int
    forks_total: int
    snapshot_record: bytes
    snapshot_path: str
    invitation: str
    rounds_total: int
    replayed_total: int
    micro_batch: int
    payload_bytes_held: int
    clock: ClockView
    contribution: ContributorView
    started_ms: int = 0
    train_bps: int = 0
    contribute_bps: int = 0
    propose_bps: int = 0
    final_record: bytes = b""
    final_round: int = -1
    final_height: int = 0
    rival_record: bytes = b""
    rival_peers: int = 0
    own_peers: int = 0
    reach: ReachView = UNKNOWN_REACH
    sending: SendingView = SendingView()


class DigestVerdict(StrEnum):
    """What a peer's header says of the parameters, against what this node has (rule 20)."""

    UNKNOWN = "unknown"  # this node has no digest for the record that it was trained from
    EQUAL = "equal"
    DIFFERENT = "different"


@dataclass(frozen=True, slots=True, kw_only=True)
class SwarmPeerView:
    """One peer of the run as this node sees it; this node, too.

    Fields from `heard_round` (-1 for none) to `digest` are those of its newest header; `heard_ms`
    is when that came by gossip, Unix ms by the node's clock, 0 where it did not. `held`: its
    payload is here. `loss` is NaN where it has trained on nothing. `rtt_ms` is that of PeerView,
    `rounds` and `share` are those of ContributorView.
    """

    peer: bytes
    standing: Standing
    connected: bool
    rtt_ms: int
    heard_round: int
    heard_ms: int
    k: int
    samples: int
    loss: float
    held: bool
    digest: DigestVerdict
    rounds: int
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SwarmPeersView:
    """The run's peers at `now_ms` by the node's clock: this node first, then by newest header.

    `known` counts all of them; of many, not all are in `peers`.
    """

    peers: tuple[SwarmPeerView, ...]
    known: int
    now_ms: int


@dataclass(frozen=True, slots=True)
class EventCount:
    """One kind of event since the start of the process: how often, and when the newest were.

    `name` and `level` as `demo_node.observe.events` declares them; `newest_ms`: Unix ms by the
    node's clock, oldest first, of as many as are kept.
    """

    name: str
    level: str
    count: int
    newest_ms: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthView:
    """What alerts are made of, and no other view has, at `now_ms` by the node's clock.

    `gossip_links`: of the mesh for headers or for proposals, where there are fewer. NaN where
    nobody can tell: `disk_free_bytes`, and `loop_lag_p99_s`, which is of ten minutes.
    """

    now_ms: int
    events: tuple[EventCount, ...]
    loop_lag_p99_s: float
    disk_free_bytes: float
    snapshot_bytes: int
    momentum_file_bytes: int
    records_applied: int
    gossip_links: int


class Operations(Protocol):
    """What an operator may ask of a running node. The control service exposes exactly this."""

    def status(self) -> StatusView:
        """The node now."""
        ...

    def peers(self) -> Sequence[PeerView]:
        """Connected peers."""
        ...

    def bans(self) -> Sequence[BanView]:
        """Who is kept out."""
        ...

    def ban(self, peer: bytes, seconds: int) -> None:
        """Close a peer's connections and keep it out for so long."""
        ...

    def unban(self, who: str) -> None:
        """Let a peer id or an address in again; LookupError where nothing is held against it."""
        ...

    def rounds(self, limit: int) -> Sequence[RoundView]:
        """The newest rounds, oldest first."""
        ...

    def contributors(self) -> Sequence[ContributorView]:
        """What every peer has contributed, most samples first."""
        ...

    def swarm(self) -> SwarmPeersView:
        """The run's peers as this node sees them now."""
        ...

    def health(self) -> HealthView:
        """What alerts are made of."""
        ...

    def pause(self) -> None:
        """Train no more until `resume`; the node stays in the run, votes and serves."""
        ...

    def resume(self) -> None:
        """Train again."""
        ...

    async def save_snapshot(self) -> str:
        """Write a snapshot of the head; returns its path."""
        ...

    async def evaluate(self, record: bytes) -> float:
        """Held-out loss (nats per byte) of the state after `record`; empty means the head.

        The genesis record is always answered; any other must be a state still held.
        """
        ...

    async def sample(self, length: int) -> bytes:
        """Text generated deterministically from the head's parameters."""
        ...

    async def adopt(self, prefix: str) -> bytes:
        """Leave what is final here for the chain that conflicts with it; returns its record.

        `prefix`: the first hexadecimal digits of a record on that chain.
        """
        ...

    def drain(self) -> None:
        """Leave cleanly: finish or abandon the round, announce the leave, snapshot, exit 0."""
        ...
