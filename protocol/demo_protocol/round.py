"""The round machine: events in, effects out. Start reading here.

It decides everything one node does: what to train on, what to announce, what to propose, which
record to follow. It does no I/O and reads no clock: the daemon drives it with real time and
sockets, the simulator with virtual ones.

What the node believes is in `view.py`. Messages are judged in `receive.py`, proposals made in
`propose.py` and turned into records in `recording.py`, the head chosen in `forkchoice.py` and
followed in `replica.py`; this file is the order of things in a round.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from demo_protocol.asking import Asking
from demo_protocol.astray import find_way_back
from demo_protocol.conflict import judge_conflict
from demo_protocol.doubt import Doubts
from demo_protocol.effects import Announce, Effect, Persist, Restore, RoundEnded, Train
from demo_protocol.events import (
    Event,
    GossipBatch,
    GossipReceived,
    HeadersFetched,
    PayloadsHeld,
    PayloadsLost,
    ProposalFetched,
    RecordsFetched,
    RootComputed,
    SetsCompared,
    StampMade,
    StartMoved,
    StateApplied,
    StatesLost,
    Tick,
    TrainingDone,
)
from demo_protocol.identity import Kind
from demo_protocol.manifest import has_ended
from demo_protocol.messages import Header, encode_announcement, make_notice, seal_header
from demo_protocol.propose import make_proposal
from demo_protocol.pulling import pull_again
from demo_protocol.receive import on_gossip, on_gossip_batch, on_headers
from demo_protocol.reconcile import on_compared
from demo_protocol.recording import on_proposal, on_records, resolve_pending
from demo_protocol.replica import Replica
from demo_protocol.rooting import ask_root
from demo_protocol.roster import compute_interval, was_due
from demo_protocol.schedule import coverage_cut_ms, next_boundary_ms, round_at, train_end_ms
from demo_protocol.sent import Sent
from demo_protocol.view import View


@dataclass(slots=True)
class Round:
    """One node in the run, advanced by `step`.

    `signed_until` says for each kind the newest round this key has signed before (rule 10): it
    signs nothing for those rounds again. From `stop_round` on the node neither trains nor
    proposes; it keeps voting by heartbeats. While `syncing` it signs nothing at all: its head is
    an old one. `contributes` is False where the device failed the known-answer test. While
    `paused` it votes and serves, and trains nothing. One that `observes` signs nothing ever: it
    follows the others and is none of them.
    """

    view: View
    signed_until: Mapping[Kind, int] = field(default_factory=dict)
    stop_round: int | None = None
    leaving: bool = False
    syncing: bool = False
    contributes: bool = True
    paused: bool = False
    observes: bool = False

    replica: Replica = field(init=False)
    asking: Asking = field(init=False)
    doubts: Doubts = field(init=False)
    sent: Sent = field(init=False)
    training: int | None = field(init=False, default=None)
    ordered_round: int = field(init=False, default=-1)
    announced_round: int = field(init=False)
    proposed_round: int = field(init=False)

    def __post_init__(self) -> None:
        self.replica = Replica(self.view)
        self.asking = Asking(self.view)
        self.doubts = Doubts(self.view)
        self.sent = Sent(self.view)
        self.announced_round = self.signed_until.get(Kind.HEADER, -1)
        self.view.signed_round = self.announced_round
        self.proposed_round = self.signed_until.get(Kind.PROPOSAL, -1)

    def step(self, event: Event) -> list[Effect]:
        """Advance on one event; return what the node must now do, in order.

        Raises Ignore or Reject on remote input that is not taken.
        """
        match event:
            case Tick():
                effects: list[Effect] = []
            case GossipReceived():
                effects = on_gossip(self.view, event)
            case GossipBatch():
                effects = on_gossip_batch(self.view, event)
            case HeadersFetched():
                effects = on_headers(self.view, event)
            case ProposalFetched():
                effects = on_proposal(self.view, event)
            case RecordsFetched():
                effects = on_records(self.view, event)
            case SetsCompared():
                effects = on_compared(self.view, event)
            case PayloadsHeld():
                self.view.pool.add_payloads(event.round, event.hashes)
                effects = []
            case PayloadsLost():
                effects = self.replica.on_payloads_lost(event)
            case TrainingDone():
                effects = self._on_training_done(event)
            case StampMade():
                effects = self._on_stamp_made(event)
            case StateApplied():
                effects = self.replica.on_applied(event)
                effects += self.doubts.on_applied(event.record)
            case StatesLost():
                self.training = None
                effects = self.replica.on_states_lost(event)
            case StartMoved():
                self.training = None
                effects = self.replica.on_start_moved(event)
            case RootComputed():
                effects = self.replica.on_root(event)
        return effects + self._advance(event.now_ms)

    # --- what the clock asks for -----------------------------------------------------------------

    def next_wake_ms(self, now_ms: int) -> int:
        """When the next Tick is due: the next boundary of a phase or slot after `now_ms`."""
        return next_boundary_ms(self.view.manifest.schedule, now_ms)

    def _advance(self, now_ms: int) -> list[Effect]:
        """Whatever is due now, in the order of a round."""
        effects: list[Effect] = []
        now_round = round_at(self.view.manifest.schedule, now_ms)
        self._count_votes(now_round, now_ms)
        if now_round > self.view.round:
            effects += self._enter_round(now_round)
        effects += self.replica.choose(now_ms)
        is_cut = now_round >= 0 and not self.syncing and self._cut(now_ms)
        if is_cut and self.replica.applying is None:
            effects += self.doubts.judge()
        if now_round >= 0 and not self.is_silent:
            effects += self._order_training(now_ms)
            effects += self._announce_heartbeat(now_ms)
            effects += self._propose(now_ms)
        return effects

    def _count_votes(self, now_round: int, now_ms: int) -> None:
        """Rule 18: a round's votes count once our own is cast, or was due long ago."""
        votes, schedule = self.view.votes, self.view.manifest.schedule
        has_voted = self.announced_round >= now_round
        if not has_voted and now_ms < coverage_cut_ms(schedule, now_round):
            now_round -= 1
        if now_round != votes.counted_until:
            votes.count_until(now_round)

    @property
    def is_witness(self) -> bool:
        """Rule 20: it computes other states than most, and so signs nothing."""
        return self.doubts.fault is not None

    @property
    def is_silent(self) -> bool:
        """Does it sign nothing now?"""
        return self.syncing or self.observes or self.is_witness

    def _enter_round(self, round_: int) -> list[Effect]:
        view = self.view
        effects: list[Effect] = [RoundEnded(view.round)] if view.round >= 0 else []
        if round_ > view.round + 1 or self.replica.applying is not None:
            # We were away, or are busy following: that is no answer.
            view.astray_since = view.undisputed = round_
        view.round = round_
        agreement = view.manifest.agreement
        effects += self.replica.finalise()
        effects += self.sent.settle(round_ - agreement.late_rounds)
        effects += pull_again(view) + self.replica.pull_missing()
        if self.replica.applying is None:
            effects += self.doubts.judge_root()
            effects += find_way_back(view, self.replica.states)
        if not self.syncing:
            effects += judge_conflict(view)
        effects += ask_root(view, view.head)  # again where a trainer died over it, or we just began
        effects += self.replica.prune()
        self.replica.drop_dead_branches()
        newest = min(round_, view.head_state.round)  # a run may have stood still for a week
        view.forget_before(round_ - agreement.late_rounds, newest - agreement.payload_window_rounds)
        return effects + self._announce_membership(round_)

    def _announce_membership(self, round_: int) -> list[Effect]:
        """Ask to be let in, or out, where the chain does not say so yet."""
        is_silent = self.syncing or self.observes or (self.is_witness and not self.leaving)
        if round_ < 0 or is_silent or has_ended(self.view.manifest, round_):
            return []
        return self.asking.ask(round_, leaving=self.leaving, never_drawn=self._cannot_contribute())

    def _on_stamp_made(self, event: StampMade) -> list[Effect]:
        self.asking.stamp = event
        return self._announce_membership(self.view.round)

    def _cannot_contribute(self) -> bool:
        """Where contributors are drawn, whoever cannot contribute says so, and is not drawn."""
        return not self.contributes and self.view.manifest.agreement.contributors > 0

    def take_part(self) -> list[Effect]:
        """It has caught up. It asks to be let in at once: the next round would cost it another."""
        self.syncing = False
        return self._announce_membership(self.view.round)

    def deepen(self, deeper: View, now_ms: int) -> list[Effect]:
        """Take what came before our first record: forks below it can be judged from now on."""
        self.view.deepen(deeper)
        self.replica.at_rest = None
        return self._advance(now_ms)

    def leave(self) -> list[Effect]:
        """The operator wants out: sign a leave, train no more."""
        self.leaving = True
        return self._announce_membership(max(self.view.round, 0))

    def _cut(self, now_ms: int) -> bool:
        """Rule 17: what counts for coverage is what was held by now. Once a round it is True."""
        view = self.view
        cut_ms = coverage_cut_ms(view.manifest.schedule, view.round)
        if view.round in view.held_at_cut or now_ms < cut_ms:
            return False
        view.held_at_cut[view.round] = view.pool.held_of_round(view.round)
        return True

    # --- training and contributing ---------------------------------------------------------------

    def is_over(self, round_: int | None = None) -> bool:
        """Is this node done with training and proposing by `round_`, or now? It still votes."""
        round_ = self.view.round if round_ is None else round_
        stopped = self.stop_round is not None and round_ >= self.stop_round
        return self.leaving or stopped or has_ended(self.view.manifest, round_)

    def _may_announce(self, round_: int) -> bool:
        return self._is_due(round_) and not self.is_witness

    def _is_due(self, round_: int) -> bool:
        """Is it this node's turn to be heard of, by its own head? Else it sends no header at all.

        Whoever is not on the chain yet, where contributors are drawn, is heard once it is.
        """
        view = self.view
        return was_due(view.head_state, view.me, round_, view.manifest.agreement)

    def _order_training(self, now_ms: int) -> list[Effect]:
        """Rule T1: train from the replicated parameters, until the boundary (rule T2).

        With overlap the next round's training begins at the boundary, from the newest state there
        is then: while it runs, this round is exchanged and applied.
        """
        view, schedule = self.view, self.view.manifest.schedule
        round_, overlap = view.round, view.manifest.agreement.overlap_rounds
        if overlap and now_ms >= train_end_ms(schedule, round_):
            round_ += 1
        deadline_ms = train_end_ms(schedule, round_)
        behind = round_ - 1 - view.head_state.round
        if (
            round_ <= max(self.ordered_round, self.announced_round)
            # the state to train from is about to change, by more than what overlaps
            or (self.replica.applying is not None and (not overlap or behind > 2 * overlap))
            or view.head not in self.replica.states  # or was lost
            or self.training is not None
            or self.is_over(round_)
            or self.paused
            or not self.contributes
            or now_ms >= deadline_ms
        ):
            return []
        self.ordered_round = self.training = round_
        dealer = view.chain.find_dealer(view.head, round_).state
        interval, probation_key = compute_interval(dealer, view.me, round_, view.manifest)
        return [
            Train(
                round=round_,
                base=view.head,
                deadline_ms=deadline_ms,
                sample_first=interval.first,
                sample_count=interval.count,
                probation_key=probation_key,
                sends=self._is_due(round_),
            )
        ]

    def _on_training_done(self, event: TrainingDone) -> list[Effect]:
        self.training = None
        is_stale = event.base not in self.view.digests  # the chain was begun anew meanwhile
        if event.round <= self.announced_round or is_stale or not self._may_announce(event.round):
            return [Restore(event.round)] if event.k else []
        if event.k:
            self.view.pool.add_payloads(event.round, (event.payload_hash,))
        return self._announce(event)

    def _announce_heartbeat(self, now_ms: int) -> list[Effect]:
        """Rule T4: nothing to send is still a vote, and keeps the member alive.

        After the run's end votes are wanted for L rounds more: they settle its last record.
        """
        view = self.view
        if (
            self.announced_round >= view.round
            or has_ended(view.manifest, view.round - view.manifest.agreement.late_rounds)
            or self.training == view.round
            or now_ms < train_end_ms(view.manifest.schedule, view.round)
            or not self._is_due(view.round)
        ):
            return []
        return self._announce(
            TrainingDone(
                now_ms=now_ms,
                round=view.round,
                base=view.head,
                payload_hash=b"",
                payload_bytes=0,
                k=0,
                samples=0,
                loss_micronats=0,
            )
        )

    def _announce(self, done: TrainingDone) -> list[Effect]:
        view = self.view
        header = Header(
            round=done.round,
            peer=view.me,
            base=done.base,
            digest=view.digests[done.base],
            vote=view.head,
            payload_hash=done.payload_hash,
            payload_bytes=done.payload_bytes,
            k=done.k,
            samples=done.samples,
            loss_micronats=done.loss_micronats,
        )
        sealed = seal_header(header, view.run_id, view.sign)
        self.announced_round = view.signed_round = done.round
        if done.k:
            self.sent.add(done.round, sealed.hash)
        view.pool.add_header(sealed)
        view.votes.add(view.me, header.round, header.vote)
        return [
            Persist(Kind.HEADER, header.round, sealed.hash, sealed.raw),
            Announce(Kind.HEADER, sealed.raw),
        ]

    def _propose(self, now_ms: int) -> list[Effect]:
        """Rules 10, 12 and 13: at most one proposal a round, written down before it is sent."""
        view = self.view
        if self.proposed_round >= view.round or self.is_over():
            return []
        proposal = make_proposal(view, now_ms)
        if proposal is None:
            return []
        self.proposed_round = view.round
        view.pool.notices[view.round, view.me] = make_notice(proposal, view.run_id)
        view.pool.add_pending(proposal)
        return [
            Persist(Kind.PROPOSAL, view.round, proposal.hash, proposal.raw),
            Announce(Kind.PROPOSAL, encode_announcement(proposal, view.run_id)),
            *resolve_pending(view),
        ]
