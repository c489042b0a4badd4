"""What each round came to, for status, metrics and the swarm's table.

A round is shown one round after it ended: only then is it known whether its record came late.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from demo_node.ports import MeshCounters, Trained
from demo_node.views import Outcome, Phase, RoundObserver, RoundView
from demo_protocol.events import HeadChanged
from demo_protocol.manifest import Manifest, has_ended
from demo_protocol.schedule import (
    contribute_end_ms,
    round_start_ms,
    settle_start_ms,
    train_end_ms,
)
from demo_protocol.view import View

ROUNDS_KEPT = 10_000
"""Rounds remembered: hours of them at any length, a few megabytes."""


@dataclass(slots=True)
class _Tally:
    trained: Trained | None = None
    announced_ms: int = 0
    proposed_ms: int = 0
    applied_ms: int = 0
    rolled_back: bool = False
    away: bool = False
    counters: MeshCounters | None = None


class History:
    """Collects what happens in each round and publishes it as a RoundView."""

    def __init__(self, manifest: Manifest, observer: RoundObserver) -> None:
        self._manifest = manifest
        self._observer = observer
        self._tallies: dict[int, _Tally] = {}
        self._views: deque[RoundView] = deque(maxlen=ROUNDS_KEPT)
        self._counters = MeshCounters(0, 0)
        self._seen_a_round_end = False
        self.train_ms_total = 0
        self.tokens_total = 0
        self.forks_total = 0
        self.replayed_total = 0
        self.loss = float("nan")

    def newest(self, limit: int) -> Sequence[RoundView]:
        """The newest rounds, oldest first."""
        return list(self._views)[-limit:]

    def on_trained(self, trained: Trained) -> None:
        """Local work of a round is done."""
        self._tally(trained.round).trained = trained
        self.train_ms_total += trained.train_ms
        self.tokens_total += trained.tokens
        if trained.samples:
            self.loss = trained.loss_micronats / 1e6
        self._observer.on_op("encode", trained.encode_ms / 1000)

    def on_announced(self, round_: int, now_ms: int) -> None:
        """Our header of a round went out."""
        self._tally(round_).announced_ms = now_ms

    def on_record(self, round_: int, now_ms: int) -> None:
        """A valid proposal of a round is here; the first one ends its propose phase."""
        tally = self._tally(round_)
        tally.proposed_ms = tally.proposed_ms or now_ms

    def on_head_changed(
        self, effect: HeadChanged, view: View, now_ms: int, *, syncing: bool
    ) -> None:
        """Rounds came onto our chain, or left it. A syncing node only replays them."""
        ancestor = view.chain.common_ancestor(effect.previous, effect.head)
        if syncing:
            self.replayed_total += view.head_state.height - ancestor.state.height
            return
        if effect.rolled_back:
            self.forks_total += 1
            for step in view.chain.path(ancestor.hash, effect.previous):
                self._tally(step.round).rolled_back = True
        for step in view.chain.path(ancestor.hash, effect.head):
            tally = self._tally(step.round)
            tally.applied_ms = tally.applied_ms or now_ms

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
        for old in sorted(r for r in self._tallies if r < round_):
            tally = self._tallies.pop(old)
            if tally.counters is None and not tally.applied_ms:
                continue  # the process stood still then; what it missed is shown once it is applied
            shown = self._show(old, tally, view)
            if shown is None:
                continue
            self._views.append(shown)
            self._observer.on_round(shown)
            self._show_phases(old, tally)

    def _tally(self, round_: int) -> _Tally:
        return self._tallies.setdefault(round_, _Tally())

    def _show_phases(self, round_: int, tally: _Tally) -> None:
        """How long each phase's work took, from the phase's first moment by the clock."""
        schedule = self._manifest.schedule
        if tally.trained is not None:
            self._observer.on_phase(Phase.TRAIN, tally.trained.train_ms / 1000)
        for phase, begin_ms, end_ms in (
            (Phase.CONTRIBUTE, train_end_ms(schedule, round_), tally.announced_ms),
            (Phase.PROPOSE, contribute_end_ms(schedule, round_), tally.proposed_ms),
            (Phase.SETTLE, settle_start_ms(schedule, round_), tally.applied_ms),
        ):
            if end_ms:
                self._observer.on_phase(phase, max(end_ms - begin_ms, 0) / 1000)

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
            late = tally.applied_ms >= round_start_ms(schedule, round_ + 1)
            outcome = Outcome.LATE if late else Outcome.RECORDED
        elif tally.rolled_back:
            outcome = Outcome.FORKED
        counted = [h.body for h in record.contributions if h.body.k] if record else []
        trained, traffic = tally.trained, tally.counters or MeshCounters(0, 0)
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
            loss=trained.loss_micronats / 1e6 if trained else float("nan"),
            payload_bytes=len(trained.payload) if trained else 0,
            bytes_in=traffic.bytes_in,
            bytes_out=traffic.bytes_out,
        )
