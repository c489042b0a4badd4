"""What each round came to, for status, metrics and the swarm's table.

A round is shown one round after it ended: only then is it known whether its record came late.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from demo_node.observer import Figure, RoundObserver
from demo_node.ports import MeshCounters, Norms, Topic, Trained
from demo_node.views import Outcome, Phase, PhaseView, RoundView
from demo_protocol.chain import Record
from demo_protocol.effects import HeadChanged
from demo_protocol.manifest import Manifest, has_ended
from demo_protocol.roster import (
    ChainState,
    Member,
    get_contributors,
    get_member_names,
)
from demo_protocol.schedule import (
    contribute_end_ms,
    round_start_ms,
    settle_start_ms,
    train_end_ms,
)
from demo_protocol.view import View

NAN = float("nan")

ROUNDS_KEPT = 10_000
"""Rounds remembered: hours of them at any length, some 12 MB with their phases."""

ROUNDS_COUNTED = 1_000
"""So many rounds that were shown may still change: their record came late, or was replaced."""


@dataclass(slots=True)
class _Tally:
    """Moments are 0 until they come."""

    trained: Trained | None = None  # without its payload
    payload_bytes: int = 0
    trained_ms: int = 0
    announced_ms: int = 0
    proposed_ms: int = 0
    applied_ms: int = 0
    rolled_back: bool = False
    away: bool = False
    counters: MeshCounters | None = None
    is_shown: bool = False


class History:
    """Collects what happens in each round and publishes it as a RoundView."""

    def __init__(self, manifest: Manifest, observer: RoundObserver) -> None:
        self._manifest = manifest
        self._observer = observer
        self._tallies: dict[int, _Tally] = {}
        self._shown: dict[int, _Tally] = {}
        self._views: dict[int, RoundView] = {}
        self._counters = MeshCounters(0, 0)
        self._seen_a_round_end = False
        self.train_ms_total = 0
        self.tokens_total = 0
        self.samples_total = 0
        self.steps_total = 0
        self._nonfinite: Counter[str] = Counter()
        self.forks_total = 0
        self.replayed_total = 0
        self._records: Counter[str] = Counter()
        self._membership: Counter[str] = Counter()
        self._totals: Counter[str] = Counter()
        self._counted: dict[int, Counter[str]] = {}
        self.loss = NAN
        self._norms = Norms(gradient=NAN, delta=NAN, residual=0.0, residual_ratio=NAN)
        self.arrivals: dict[tuple[int, bytes], int] = {}
        """When the header of a round and peer came, Unix ms; of rounds that still count."""

    def newest(self, limit: int) -> Sequence[RoundView]:
        """The newest rounds, oldest first, each once."""
        return [self._views[round_] for round_ in sorted(self._views)[-limit:]]

    def figures(self) -> Iterator[Figure]:
        """Totals. Local work that ended after its round was shown is in no round's view."""
        yield Figure("demo_train_tokens_total", self.tokens_total)
        yield Figure("demo_train_samples_total", self.samples_total)
        yield Figure("demo_train_steps_total", self.steps_total)
        yield Figure("demo_train_seconds_total", self.train_ms_total / 1000)
        for kind in ("gradient", "delta"):
            yield Figure("demo_train_nonfinite_total", self._nonfinite[kind], (kind,))
        yield Figure("demo_records_total", self.replayed_total, ("replayed",))
        for change, total in self._records.items():
            yield Figure("demo_records_total", total, (change,))
        for change, total in self._membership.items():
            yield Figure("demo_membership_changes_total", total, (change,))
        for verdict in ("equal", "different"):
            yield Figure("demo_digests_total", self._totals[verdict], (verdict,))
        yield Figure("demo_rounds_included_total", self._totals["included"])
        yield Figure("demo_gradient_norm", self._norms.gradient)
        yield Figure("demo_delta_norm", self._norms.delta)
        yield Figure("demo_residual_norm", self._norms.residual)
        yield Figure("demo_residual_norm_ratio", self._norms.residual_ratio)

    def on_trained(self, trained: Trained, now_ms: int) -> None:
        """Local work of a round is done."""
        tally = self._tally(trained.round)
        tally.trained, tally.trained_ms = replace(trained, payload=b""), now_ms
        tally.payload_bytes = len(trained.payload)
        self.train_ms_total += trained.train_ms
        self.tokens_total += trained.tokens
        self.samples_total += trained.samples
        self.steps_total += trained.steps
        self._nonfinite["gradient"] += trained.nonfinite_gradients
        self._nonfinite["delta"] += trained.nonfinite_deltas
        self._norms = trained.norms or self._norms
        if trained.samples:
            self.loss = trained.loss_micronats / 1e6
        self._observer.on_op("encode", trained.encode_ms / 1000)

    def on_announced(self, round_: int, now_ms: int) -> None:
        """Our header of a round went out."""
        self._tally(round_).announced_ms = now_ms

    def on_header(self, round_: int, peer: bytes, now_ms: int) -> None:
        """A header is here, by gossip or because it is ours."""
        self.arrivals.setdefault((round_, peer), now_ms)

    def on_arrival(self, topic: Topic, round_: int, now_ms: int) -> None:
        """A header or proposal of a round has come by gossip. Early is as good as in time."""
        schedule = self._manifest.schedule
        ends = train_end_ms if topic is Topic.HEADERS else contribute_end_ms
        late_s = max(0, now_ms - ends(schedule, round_)) / 1000
        self._observer.on_measured("demo_gossip_arrival_seconds", late_s, topic)

    def on_record(self, round_: int, now_ms: int) -> None:
        """A valid proposal of a round is here; the first one ends its propose phase."""
        tally = self._tally(round_)
        tally.proposed_ms = tally.proposed_ms or now_ms

    def on_head_changed(
        self, effect: HeadChanged, view: View, now_ms: int, *, syncing: bool
    ) -> None:
        """Rounds came onto our chain, or left it. A syncing node only replays them."""
        ancestor = view.chain.common_ancestor(effect.previous, effect.head)
        applied = view.head_state.height - ancestor.state.height
        if syncing:
            self.replayed_total += applied
            return
        self._records["applied"] += applied
        self._records["rolled_back"] += effect.rolled_back
        self._count_members(view.chain[effect.previous].state, view.head_state)
        if effect.rolled_back:
            self.forks_total += 1
            for step in view.chain.path(ancestor.hash, effect.previous):
                tally = self._tally(step.round)
                tally.rolled_back, tally.applied_ms = True, 0
        for step in view.chain.path(ancestor.hash, effect.head):
            self._tally(step.round).applied_ms = now_ms
            self._tell_removals(step, view.me)

    def _tell_removals(self, step: Record, me: bytes) -> None:
        """Rule 26: whom a record that came onto our chain removes."""
        for offence in step.offences:
            if offence.peer == me:
                until = step.state.known[me].removed_until
                self._observer.on_event("key.removed", round=offence.round, until=until)
                continue
            self._observer.on_event(
                "member.removed",
                author=offence.peer.hex(),
                round=offence.round,
                evidence=str(offence.first.kind),
            )

    def on_round_ended(
        self, round_: int, view: View, counters: MeshCounters, *, syncing: bool
    ) -> None:
        """The clock has left `round_`: the one before it can be shown now."""
        tally = self._tally(round_)
        tally.counters = MeshCounters(
            counters.bytes_in - self._counters.bytes_in,
            counters.bytes_out - self._counters.bytes_out,
        )
        self._counters = counters
        tally.away = syncing or not self._seen_a_round_end
        self._seen_a_round_end = True
        oldest = round_ - self._manifest.agreement.late_rounds
        self.arrivals = {key: ms for key, ms in self.arrivals.items() if key[0] >= oldest}
        for old in sorted(r for r in self._tallies if r < round_):
            tally = self._tallies.pop(old)
            if tally.counters is None and not tally.applied_ms:
                continue  # the process stood still then; what it missed is shown once it is applied
            shown = self._show(old, tally, view)
            if shown is None:
                continue
            before = self._views.get(old)
            if before is not None and before.heard > shown.heard:  # its headers are forgotten
                heard = (before.heard, before.agreeing, before.differing)
                shown = replace(shown, heard=heard[0], agreeing=heard[1], differing=heard[2])
            self._keep(shown, tally)
            self._count_once(shown)
            if before is None or shown.record != before.record:
                self._observer.on_round(shown)
        self._observer.on_figures(self.figures())  # else they lag behind what was shown

    def _tally(self, round_: int) -> _Tally:
        """Of a round that is still to be shown, or again."""
        return self._tallies.setdefault(round_, self._shown.get(round_) or _Tally())

    def _keep(self, shown: RoundView, tally: _Tally) -> None:
        tally.is_shown = True
        self._shown[shown.round] = tally
        self._views[shown.round] = shown
        if len(self._shown) > ROUNDS_COUNTED:
            del self._shown[min(self._shown)]
        if len(self._views) > ROUNDS_KEPT:
            del self._views[min(self._views)]

    def _count_once(self, shown: RoundView) -> None:
        """Headers and inclusion: a round that is shown again counts what it did not have before."""
        now = Counter(equal=shown.agreeing, different=shown.differing, included=shown.included)
        before = self._counted.get(shown.round, Counter())
        self._totals += now - before  # no less than 0 of each
        self._counted[shown.round] = now | before
        if len(self._counted) > ROUNDS_COUNTED:
            del self._counted[min(self._counted)]

    def _count_members(self, before: ChainState, after: ChainState) -> None:
        agreement = self._manifest.agreement
        old, new = get_member_names(before, agreement), get_member_names(after, agreement)
        self._membership["joined"] += len(new - old)
        for peer in old - new:
            member = after.known.get(peer)
            self._membership[_tell_end(member)] += 1

    def _list_phases(self, round_: int, tally: _Tally) -> Iterator[PhaseView]:
        """How far the round came, and when: milestones in order, one phase behind each.

        What was reached only after the update was applied ends with that: they add up to it. Where
        nothing was trained, the train phase ends by the clock, or with what came before that.
        """
        schedule = self._manifest.schedule
        begin_ms, trained_ms = round_start_ms(schedule, round_), tally.trained_ms
        if tally.trained is None or not tally.trained.samples:
            later = (tally.announced_ms, tally.proposed_ms, tally.applied_ms)
            trained_ms = min(train_end_ms(schedule, round_), next(filter(None, later), 0))
        for phase, reached_ms, due_ms in (
            (Phase.TRAIN, trained_ms, train_end_ms(schedule, round_)),
            (Phase.CONTRIBUTE, tally.announced_ms, contribute_end_ms(schedule, round_)),
            (Phase.PROPOSE, tally.proposed_ms, settle_start_ms(schedule, round_)),
            (Phase.SETTLE, tally.applied_ms, self._find_settle_end_ms(round_)),
        ):
            if reached_ms:
                end_ms = max(min(reached_ms, tally.applied_ms or reached_ms), begin_ms)
                yield PhaseView(phase, begin_ms, end_ms, due_ms)
                begin_ms = end_ms

    def _show(self, round_: int, tally: _Tally, view: View) -> RoundView | None:
        """The round as it went; None where its record was replayed: we took no part in it.

        Nor in one without a record that had begun before we were there, or ended before we were
        level: that it was skipped is not for us to say. After the run's end there are no rounds.
        """
        schedule = self._manifest.schedule
        record = next((s for s in view.chain.ancestors(view.head) if s.round == round_), None)
        if record is not None and not tally.applied_ms:
            return None
        is_over = has_ended(self._manifest, round_)
        if record is None and (is_over or (tally.away and tally.trained is None)):
            return None
        outcome = Outcome.SKIPPED
        if record is not None:
            late = tally.applied_ms >= self._find_settle_end_ms(round_)
            outcome = Outcome.LATE if late else Outcome.RECORDED
        elif tally.rolled_back:
            outcome = Outcome.FORKED
        counted = [h.body for h in record.contributions if h.body.k] if record else []
        trained, traffic = tally.trained, tally.counters or MeshCounters(0, 0)
        heard = [header.body for header in view.pool.of_round(round_)]
        others = [h for h in heard if h.peer != view.me and h.base in view.digests]
        differing = sum(view.is_accused(header) for header in others)
        is_due, drawn = self._draw(round_, view)
        return RoundView(
            round=round_,
            outcome=outcome,
            record=record.hash if record else b"",
            digest=view.digests.get(record.hash, b"") if record else b"",
            participants=len(counted),
            included=any(header.peer == view.me for header in counted),
            latency_ms=tally.applied_ms - round_start_ms(schedule, round_) if record else 0,
            exchange_ms=tally.applied_ms - train_end_ms(schedule, round_) if record else 0,
            train_ms=trained.train_ms if trained else 0,
            samples=trained.samples if trained else 0,
            tokens=trained.tokens if trained else 0,
            steps=trained.steps if trained else 0,
            loss=trained.loss_micronats / 1e6 if trained else NAN,
            payload_bytes=tally.payload_bytes,
            bytes_in=traffic.bytes_in,
            bytes_out=traffic.bytes_out,
            phases=tuple(self._list_phases(round_, tally)),
            heard=len(heard),
            agreeing=len(others) - differing,
            differing=differing,
            again=tally.is_shown,
            due=is_due,
            drawn=drawn,
        )

    def _find_settle_end_ms(self, round_: int) -> int:
        """When the round's update is wanted: with overlap, nothing trains from it before that."""
        if self._manifest.agreement.overlap_rounds:
            return train_end_ms(self._manifest.schedule, round_ + 1)
        return round_start_ms(self._manifest.schedule, round_ + 1)

    def _draw(self, round_: int, view: View) -> tuple[bool, int]:
        """Was it our turn, and how many members' was it? By the record before the round."""
        agreement = self._manifest.agreement
        before = view.chain.ancestor_before(view.head, round_).state
        members = get_member_names(before, agreement)
        due = get_contributors(before, round_, agreement)
        return due is None or view.me in due, len(members if due is None else members & due)


def _tell_end(member: Member | None) -> str:
    """How a membership ended."""
    if member is None or not member.left:
        return "expired"
    return "removed" if member.since_round < member.removed_until else "left"
