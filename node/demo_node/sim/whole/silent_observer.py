"""Remembers what a node showed, for tests to look at."""

from collections.abc import Iterable

from demo_node.observer import Figure
from demo_node.views import RoundView, StatusView


class SilentObserver:
    """Implements observer.RoundObserver."""

    def __init__(self) -> None:
        self.rounds: list[RoundView] = []
        self.events: list[tuple[str, dict[str, object]]] = []
        self.messages: dict[tuple[str, str], int] = {}
        self.ops: dict[str, list[float]] = {}
        self.measured: dict[tuple[str, ...], list[float]] = {}

    def on_round_begun(self, round_: int) -> None:
        """Not of interest."""

    def on_op(self, op: str, seconds: float) -> None:
        """Keep it."""
        self.ops.setdefault(op, []).append(seconds)

    def on_measured(self, name: str, value: float, *labels: str) -> None:
        """Keep it."""
        self.measured.setdefault((name, *labels), []).append(value)

    def on_figures(self, figures: Iterable[Figure]) -> None:
        """Not of interest."""

    def on_round(self, view: RoundView) -> None:
        """Keep it."""
        self.rounds.append(view)

    def on_status(self, view: StatusView) -> None:
        """Not of interest."""

    def on_message(self, topic: str, verdict: str) -> None:
        """Count it."""
        self.messages[topic, verdict] = self.messages.get((topic, verdict), 0) + 1

    def on_event(self, name: str, **fields: object) -> None:
        """Keep it."""
        self.events.append((name, fields))
