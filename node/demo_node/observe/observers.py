"""What hears of every round: a log line's worth of it, and several observers as one."""

import math
from collections.abc import Iterable, Sequence

from demo_node.observe.events import DETAILS, EVENTS, WARNING
from demo_node.observe.log import NodeLog
from demo_node.observer import Figure, RoundObserver
from demo_node.views import NodeState, Outcome, RoundView, StatusView

KNOWN = {**EVENTS, **DETAILS}


class LogObserver:
    """Implements observer.RoundObserver: one line per round, per change of state, per event."""

    def __init__(self, log: NodeLog) -> None:
        self._log = log
        self._state: NodeState | None = None

    def on_round_begun(self, round_: int) -> None:
        """From now on lines are of this round."""
        self._log.round = round_

    def on_op(self, op: str, seconds: float) -> None:
        """A line for debugging."""
        self.on_event("op.ended", op=op, seconds=round(seconds, 4))

    def on_measured(self, name: str, value: float, *labels: str) -> None:
        """Nothing: it is in the metrics."""

    def on_figures(self, figures: Iterable[Figure]) -> None:
        """Nothing: they are in the metrics."""

    def on_round(self, view: RoundView) -> None:
        """One line per round; a warning where an operator may want to look."""
        self.on_event(
            "round.closed",
            round=view.round,
            outcome=view.outcome.value,
            record=view.record.hex()[:12],
            digest=view.digest.hex(),
            participants=view.participants,
            included=view.included,
            due=view.due,
            loss=None if math.isnan(view.loss) else round(view.loss, 4),  # JSON has no NaN
            samples=view.samples,
            latency_ms=view.latency_ms,
            payload_bytes=view.payload_bytes,
        )

    def on_status(self, view: StatusView) -> None:
        """A line where the state changed, and whose lines follow; all else is in the metrics."""
        self._log.round = view.round
        self._log.context["node"] = view.peer_id
        if any(view.run_id):
            self._log.context["run"] = view.run_id.hex()[:8]
        if view.state is not self._state:
            self._state = view.state
            self.on_event("state.changed", state=view.state.value, detail=view.detail)
        self._log.write_held()

    def on_message(self, topic: str, verdict: str) -> None:
        """A line for debugging."""
        self.on_event("message.judged", topic=topic, verdict=verdict)

    def on_event(self, name: str, **fields: object) -> None:
        """One line, of the level that was declared for it."""
        level = KNOWN[name].level if name in KNOWN else WARNING
        if name == "round.closed" and fields["outcome"] != Outcome.RECORDED:
            level = WARNING
        self._log.write(level, name, **fields)


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
