"""What repeats is held back and counted, so that a log stays readable when things go wrong."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from structlog import DropEvent
from structlog.typing import EventDict, WrappedLogger

BURST: Final = 5
"""Lines of one kind that come out before the rest of their window is held back."""

WINDOW_S: Final = 60.0

LIMITED: Final = frozenset({"warning", "error", "critical"})
"""Levels that are limited. What is less keeps a pace of its own, or was asked for."""


@dataclass(slots=True)
class _Window:
    begin_s: float
    shown: int = 0
    held: int = 0
    """Lines that were held back."""
    newest: EventDict | None = None
    """The last of them."""


class RepeatLimit:
    """A structlog processor: lets BURST warnings of a kind pass in WINDOW_S, and counts the rest.

    The next line of that kind says how many before it never came out: `suppressed`. Where none
    comes, the last that was held back is told in their place: `take_due`. A kind is an event's
    name; of a library, whose texts vary, it is the library's.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._windows: dict[str, _Window] = {}
        self._lock = threading.Lock()  # libraries log from threads of their own

    def __call__(self, logger: WrappedLogger, method: str, line: EventDict) -> EventDict:
        """The line, if it may come out. Raises DropEvent."""
        if line["level"] not in LIMITED:
            return line
        kind = str(line.get("logger", line["event"]))
        with self._lock:
            return self._pass_or_hold(kind, line)

    def _pass_or_hold(self, kind: str, line: EventDict) -> EventDict:
        now_s = self._monotonic()
        window = self._windows.get(kind)
        if window is None or _is_over(window, now_s):
            suppressed = window.held if window else 0
            self._windows[kind] = _Window(now_s, shown=1)
            return _tell(line, suppressed)
        if window.shown < BURST:
            window.shown += 1
            return line
        window.held += 1
        window.newest = line
        raise DropEvent

    def take_due(self, *, at_end: bool = False) -> list[EventDict]:
        """The last line of each window that is over and held some back; at the end, of all."""
        due = []
        with self._lock:
            now_s = self._monotonic()
            for kind, window in list(self._windows.items()):
                if not (at_end or _is_over(window, now_s)):
                    continue
                del self._windows[kind]
                if window.newest is not None:
                    due.append(_tell(window.newest, window.held - 1))
        return due


def _is_over(window: _Window, now_s: float) -> bool:
    return now_s >= window.begin_s + WINDOW_S


def _tell(line: EventDict, suppressed: int) -> EventDict:
    return {**line, "suppressed": suppressed} if suppressed else line
