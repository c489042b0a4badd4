"""Which snapshots are kept: the newest, and some older ones for the day the chain rolls back.

A rollback (rule 18) begins again at the newest snapshot below the fork and replays payloads from
there, so snapshots are of use as far back as payloads are kept.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

NEWEST: Final = 2
"""Always kept: the newest, and the one before it should the newest be damaged."""

SPACES: Final = 4
"""The payload window is divided into so many; of each, its oldest snapshot is kept."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A snapshot file: its name, the round of its record and its length in bytes."""

    name: str
    round: int
    size: int


def choose_spare(
    older: Sequence[Kept], newest_round: int, window: int | None, budget: int
) -> set[str]:
    """Names of the `older` snapshots to keep besides the newest two.

    With a `window` of None all of them, the newest first, as many as the budget has room for.

    Spaces begin at fixed rounds and of each its oldest is kept, so that what was chosen once is
    chosen until it leaves the window (rounds). Where all that is over `budget` bytes (0: none),
    spaces are made twice as wide until it fits.
    """
    if window is None:
        ordered = sorted(older, key=lambda kept: -kept.round)
        sizes = itertools.accumulate(kept.size for kept in ordered)
        return {
            k.name for k, size in zip(ordered, sizes, strict=True) if size <= budget or not budget
        }
    within = sorted(
        (kept for kept in older if kept.round >= newest_round - window), key=lambda k: -k.round
    )
    space = max(window // SPACES, 1)
    while True:
        oldest = {max(kept.round, 0) // space: kept for kept in within}
        if not budget or sum(kept.size for kept in oldest.values()) <= budget:
            return {kept.name for kept in oldest.values()}
        if len(oldest) == 1:
            return set()
        space *= 2
