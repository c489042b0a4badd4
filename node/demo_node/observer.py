"""Who hears what a node does as it does it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from demo_node.views import RoundView, StatusView


@dataclass(frozen=True, slots=True)
class Figure:
    """One number for the metrics: a level, or a total that never falls.

    `name` and the values of its labels as `demo_node.observe.metrics` declares them.
    """

    name: str
    value: float
    labels: tuple[str, ...] = ()


class RoundObserver(Protocol):
    """Called as things happen, on the loop; metrics, logs and traces implement it."""

    def on_round_begun(self, round_: int) -> None:
        """The clock has come into this round."""
        ...

    def on_op(self, op: str, seconds: float) -> None:
        """A part of a phase has just ended: encode, pull, verify, decode, apply, snapshot, ..."""
        ...

    def on_measured(self, name: str, value: float, *labels: str) -> None:
        """One observation of the histogram `name`."""
        ...

    def on_figures(self, figures: Iterable[Figure]) -> None:
        """Levels and totals as they are now."""
        ...

    def on_round(self, view: RoundView) -> None:
        """A round has ended for this node."""
        ...

    def on_status(self, view: StatusView) -> None:
        """The node's status changed."""
        ...

    def on_message(self, topic: str, verdict: str) -> None:
        """A gossip message was judged: accepted, ignored or rejected."""
        ...

    def on_event(self, name: str, **fields: object) -> None:
        """Something worth a log line: `noun.past_participle` and its fields."""
        ...
