"""What happened lately: when each event did, and how late the event loop woke. Of bounded size."""

import math
import statistics
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from typing import Final

from demo_node.observe.events import EVENTS
from demo_node.views import EventCount

TIMES_KEPT: Final = 3
"""Of each event, the newest: no alert waits for more."""

LAGS_KEPT: Final = 6_000
"""Ten minutes of ten looks a second."""

LAGS_TOGETHER: Final = 600
"""A minute."""

LAGS_MIN: Final = 1_000
"""Of fewer looks nothing is said: a node that comes up is busy."""


class Recent:
    """Fed by the Meter, so that it says what the metrics say."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        """`now_ms`: Unix ms by the node's clock."""
        self._now_ms = now_ms
        self._counts: Counter[str] = Counter()
        self._times: defaultdict[str, deque[int]] = defaultdict(lambda: deque(maxlen=TIMES_KEPT))
        self._lags: deque[float] = deque(maxlen=LAGS_KEPT)

    def add_event(self, name: str) -> None:
        """A declared event has just happened."""
        self._counts[name] += 1
        self._times[name].append(self._now_ms())

    def add_lag(self, seconds: float) -> None:
        """The event loop woke a sleeper this late."""
        self._lags.append(seconds)

    def events(self) -> tuple[EventCount, ...]:
        """Those that have happened since the start."""
        return tuple(
            EventCount(name, EVENTS[name].level, count, tuple(self._times[name]))
            for name, count in self._counts.items()
        )

    def loop_lag_p99_s(self) -> float:
        """What most of the last ten minutes had; NaN before there is enough to tell it from.

        A single pause is in one of them or two, and says nothing about the others.
        """
        if len(self._lags) < LAGS_MIN:
            return math.nan
        lags = list(self._lags)
        minutes = [lags[at : at + LAGS_TOGETHER] for at in range(0, len(lags), LAGS_TOGETHER)]
        return statistics.median_low(sorted(m)[len(m) * 99 // 100] for m in minutes)
