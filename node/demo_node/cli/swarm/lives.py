"""A node may be killed and started again: what each of its processes told before it went.

Whatever a node counts begins at zero with its process, and its rounds go with it. So all of it is
looked at again and again, and what the last look saw of a process that died is kept.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from demo_node.views import NodeState, RoundView, StatusView

TAKES_PART = (NodeState.ACTIVE, NodeState.PAUSED, NodeState.FINISHED)
"""States of a node that has caught up."""


ROUNDS_LOOKED_AT: Final = 64
"""At most: more than a node can show at once after it was stopped."""

ROUNDS_AGAIN: Final = 8
"""Looked at again, as headers and records of theirs may still come."""


@dataclass(slots=True)
class Life:
    """One process of a node, by what it said of itself so far."""

    pid: int
    status: StatusView | None = None
    took_part: bool = False
    rounds: dict[int, RoundView] = field(default_factory=dict)

    def count_asked(self, status: StatusView) -> int:
        """Of how many rounds a look is worth the node's work, now that it says this of itself.

        All of them while it catches up, and when it has left records: older ones change then.
        """
        before = self.status
        is_steady = (
            before is not None
            and before.state in TAKES_PART
            and status.state in TAKES_PART
            and before.forks_total == status.forks_total
        )
        if before is None or not is_steady:
            return ROUNDS_LOOKED_AT
        return min(ROUNDS_AGAIN + max(0, status.round - before.round), ROUNDS_LOOKED_AT)

    def look(self, status: StatusView, rounds: Iterable[RoundView]) -> None:
        """Keep what it just answered."""
        self.status = status
        self.took_part = self.took_part or status.state in TAKES_PART
        self.rounds.update((view.round, view) for view in rounds)


def merge_rounds(lives: Sequence[Life]) -> list[RoundView]:
    """A node's rounds over all its lives, oldest first; what one saw end is not overruled later.

    The last one or two rounds of a life that was killed are nobody's: it had not shown them yet.
    """
    merged: dict[int, RoundView] = {}
    for life in lives:
        merged = life.rounds | merged
    return [merged[round_] for round_ in sorted(merged)]


def count_replayed(lives: Sequence[Life]) -> int:
    """Records that a node applied to catch up, over all its lives."""
    return sum(life.status.replayed_total for life in lives if life.status)


def count_sent(lives: Sequence[Life]) -> int:
    """Bytes that left a node's mesh sockets, over all its lives."""
    return sum(life.status.bytes_out for life in lives if life.status)


def count_joins(lives: Sequence[Life]) -> int:
    """How often a node that was gone came back and took part again."""
    return sum(life.took_part for life in lives[1:])


def count_forks(lives: Sequence[Life]) -> int:
    """How often a node rolled records back, over all its lives."""
    return sum(life.status.forks_total for life in lives if life.status)
