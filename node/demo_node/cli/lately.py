"""Which warnings a node had lately, for its status and its screen."""

from collections.abc import Iterable
from typing import Final

from demo_node.cli.show import count, format_duration
from demo_node.observe.events import ERROR, WARNING
from demo_node.views import EventCount, HealthView

LATELY_MS: Final = 3_600_000

TOLD: Final = 2
"""Kinds of warnings in one line."""


def find_warnings(events: Iterable[EventCount], now_ms: int) -> list[EventCount]:
    """Kinds of warnings and errors of the last hour, newest first."""
    found = [
        event
        for event in events
        if event.level in (WARNING, ERROR) and now_ms - event.newest_ms[-1] < LATELY_MS
    ]
    return sorted(found, key=lambda event: -event.newest_ms[-1])


def format_warning(event: EventCount, now_ms: int) -> str:
    """trainer.died 2 times, last 40 s ago."""
    ago = f"{format_duration((now_ms - event.newest_ms[-1]) / 1000)} ago"
    if event.count == 1:
        return f"{event.name} once, {ago}"
    return f"{event.name} {event.count:,} times, last {ago}"


def format_warnings(health: HealthView) -> str:
    """The newest kinds in one line; empty where there are none."""
    found = find_warnings(health.events, health.now_ms)
    parts = [format_warning(event, health.now_ms) for event in found[:TOLD]]
    if len(found) > TOLD:
        parts.append(count(len(found) - TOLD, "more kind"))
    return "; ".join(parts)
