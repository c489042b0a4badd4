"""Virtual time: what is to happen, by millisecond. Nothing waits, nothing reads a clock."""

import heapq
from collections.abc import Callable

Action = Callable[[], object]


class Timeline:
    """Actions in order of time; those of one millisecond in the order in which they were added.

    `now_ms` is the true time, Unix milliseconds. Nodes have clocks of their own (`actor.py`).
    """

    def __init__(self, begin_ms: int) -> None:
        self.now_ms = begin_ms
        self.steps = 0
        self._due: dict[int, list[Action]] = {}
        self._moments: list[int] = []

    def at(self, ms: int, action: Action) -> None:
        """Let `action` happen at `ms`; what is late happens now, after everything else of now."""
        ms = max(ms, self.now_ms)
        due = self._due.get(ms)
        if due is None:
            due = self._due[ms] = []
            heapq.heappush(self._moments, ms)
        due.append(action)

    def after(self, delay_ms: int, action: Action) -> None:
        """Let `action` happen `delay_ms` from now."""
        self.at(self.now_ms + delay_ms, action)

    def run_until(self, end_ms: int) -> None:
        """Let happen whatever is due up to and with `end_ms`; then it is `end_ms`."""
        while self._moments and self._moments[0] <= end_ms:
            self.now_ms = self._moments[0]
            due = self._due[self.now_ms]
            for action in due:  # it may grow meanwhile
                self.steps += 1
                action()
            del self._due[self.now_ms]
            heapq.heappop(self._moments)
        self.now_ms = end_ms
