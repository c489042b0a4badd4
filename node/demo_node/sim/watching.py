"""What the simulation shows of itself: every step of every machine, in order."""

import hashlib
from collections import deque
from typing import TYPE_CHECKING

from demo_protocol.errors import Ignore, LocalFault, Reject
from demo_protocol.events import Effect, Event, HeadChanged, Persist

if TYPE_CHECKING:
    from demo_node.sim.actor import Actor

SHOWN = 400
"""Newest lines kept for a transcript."""


class Watcher:
    """Keeps the event log: a digest over all of it, and its newest lines."""

    def __init__(self) -> None:
        self.newest: deque[str] = deque(maxlen=SHOWN)
        self.events = 0
        self._digest = hashlib.sha256()

    @property
    def event_log_digest(self) -> str:
        """SHA-256 over every line so far."""
        return self._digest.hexdigest()

    def note(self, actor: "Actor | None", line: str) -> None:
        """One more line."""
        self.events += 1
        self._digest.update(line.encode())

    def on_up(self, actor: "Actor") -> None:
        """A node's life has begun."""

    def on_down(self, actor: "Actor") -> None:
        """A node's life has ended."""

    def on_step(self, actor: "Actor", event: Event, effects: list[Effect]) -> None:
        """A machine took one step."""

    def on_signed(self, actor: "Actor", effect: Persist) -> None:
        """A node has signed something."""

    def on_head_changed(self, actor: "Actor", effect: HeadChanged) -> None:
        """A node follows another record."""

    def on_effect(self, actor: "Actor", effect: Effect) -> None:
        """Whatever else a machine asked for."""

    def on_rejected(self, actor: "Actor", error: Ignore | Reject) -> None:
        """A node refused a message."""

    def on_fault(self, actor: "Actor", fault: LocalFault) -> None:
        """A node ends by its own fault: that is a bug of ours."""
