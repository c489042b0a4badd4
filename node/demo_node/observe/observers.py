"""What hears of every round: a log line's worth of it, and several observers as one."""

import math
from collections.abc import Iterable, Sequence
from typing import Final

import structlog

from demo_node.views import Figure, NodeState, Outcome, RoundObserver, RoundView, StatusView

WARNING_ENDINGS: Final = (
    ".rejected",
    ".lost",
    ".missed",
    ".skipped",
    ".unsaved",
    ".shortened",
    ".repaired",
    ".differed",
    ".in_use",
    ".failed",
    ".refused",
    ".died",
    ".diverged",
    ".keeps_diverging",
    ".out_of_memory",
    "_halved",
    "_failed",
)
"""Events that an operator should look at end like this."""


class LogObserver:
    """Implements views.RoundObserver: one line per round, per change of state, per event."""

    def __init__(self, log: structlog.typing.FilteringBoundLogger) -> None:
        self._log = log
        self._state: NodeState | None = None

    def on_round_begun(self, round_: int) -> None:
        """Nothing: a round is told when it is over."""

    def on_op(self, op: str, seconds: float) -> None:
        """A line for debugging."""
        self._log.debug("op.ended", op=op, seconds=round(seconds, 4))

    def on_measured(self, name: str, value: float, *labels: str) -> None:
        """Nothing: it is in the metrics."""

    def on_figures(self, figures: Iterable[Figure]) -> None:
        """Nothing: they are in the metrics."""

    def on_round(self, view: RoundView) -> None:
        """One line per round; a warning where an operator may want to look."""
        usual = view.outcome is Outcome.RECORDED
        (self._log.info if usual else self._log.warning)(
            "round.closed",
            round=view.round,
            outcome=view.outcome.value,
            record=view.record.hex()[:12],
            digest=view.digest.hex(),
            participants=view.participants,
            included=view.included,
            loss=None if math.isnan(view.loss) else round(view.loss, 4),  # JSON has no NaN
            samples=view.samples,
            latency_ms=view.latency_ms,
            payload_bytes=view.payload_bytes,
        )

    def on_status(self, view: StatusView) -> None:
        """A line where the state changed; everything else of a status is in the metrics."""
        if view.state is not self._state:
            self._state = view.state
            self._log.info(
                "state.changed", state=view.state.value, detail=view.detail, round=view.round
            )

    def on_message(self, topic: str, verdict: str) -> None:
        """A line for debugging."""
        self._log.debug("message.judged", topic=topic, verdict=verdict)

    def on_event(self, name: str, **fields: object) -> None:
        """One line; a warning for what does not happen in a healthy swarm."""
        report = self._log.warning if name.endswith(WARNING_ENDINGS) else self._log.info
        report(name, **fields)


class Observers:
    """Several observers as one; each hears everything, in order."""

    def __init__(self, observers: Sequence[RoundObserver]) -> None:
        self._observers = tuple(observers)

    def on_round_begun(self, round_: int) -> None:
        """Pass it on."""
        for observer in self._observers:
            observer.on_round_begun(round_)

    def on_op(self, op: str, seconds: float) -> None:
        """Pass it on."""
        for observer in self._observers:
            observer.on_op(op, seconds)

    def on_measured(self, name: str, value: float, *labels: str) -> None:
        """Pass it on."""
        for observer in self._observers:
            observer.on_measured(name, value, *labels)

    def on_figures(self, figures: Iterable[Figure]) -> None:
        """Pass it on."""
        kept = tuple(figures)
        for observer in self._observers:
            observer.on_figures(kept)

    def on_round(self, view: RoundView) -> None:
        """Pass it on."""
        for observer in self._observers:
            observer.on_round(view)

    def on_status(self, view: StatusView) -> None:
        """Pass it on."""
        for observer in self._observers:
            observer.on_status(view)

    def on_message(self, topic: str, verdict: str) -> None:
        """Pass it on."""
        for observer in self._observers:
            observer.on_message(topic, verdict)

    def on_event(self, name: str, **fields: object) -> None:
        """Pass it on."""
        for observer in self._observers:
            observer.on_event(name, **fields)
