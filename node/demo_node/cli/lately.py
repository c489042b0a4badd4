"""Which warnings a node had lately, for its status and its screen."""

import re
from collections.abc import Iterable
from typing import Final

from demo_node.cli.show import count, format_duration
from demo_node.observe.events import ERROR, EVENTS, WARNING
from demo_node.views import EventCount, HealthView

LATELY_MS: Final = 3_600_000

TOLD: Final = 2
"""Kinds of warnings in one line."""

LINK: Final = re.compile(r"\[([^]]*)\]\([^)]*\)")
"""Of Markdown."""

CAUSE: Final = re.compile(r"as for `([a-z_.]+)`")
"""A remedy that refers to that of another event, of which this one comes."""


def find_warnings(events: Iterable[EventCount], now_ms: int) -> list[EventCount]:
    """Kinds of warnings and errors of the last hour, newest first, a cause before its effect."""
    found = {
        event.name: event
        for event in events
        if event.level in (WARNING, ERROR) and now_ms - event.newest_ms[-1] < LATELY_MS
    }
    newest_ms = {name: event.newest_ms[-1] for name, event in found.items()}
    for name in found:
        cause = _find_cause(name)
        if cause in found:
            newest_ms[cause] = max(newest_ms[cause], newest_ms[name])
    return sorted(found.values(), key=lambda e: (-newest_ms[e.name], bool(_find_cause(e.name))))


def find_remedy(name: str) -> str:
    """As docs/operating.md has it, without its marks; empty where nothing is to be done."""
    event = EVENTS.get(_find_cause(name) or name)  # a node of another version may have others
    if event is None or event.remedy == "nothing":
        return ""
    return LINK.sub(r"\1 in docs/operating.md", event.remedy).replace("`", "")


def _find_cause(name: str) -> str:
    event = EVENTS.get(name)
    cause = CAUSE.fullmatch(event.remedy) if event else None
    return cause[1] if cause else ""


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
