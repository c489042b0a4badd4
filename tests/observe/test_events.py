"""Events are declared where they are documented, and nothing else is ever emitted."""

import ast
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import generate_latest

from demo_node.observe.events import (
    DEBUG,
    DETAILS,
    DISK,
    EVENTS,
    LIFE,
    format_events_table,
)
from demo_node.observe.log import LEVELS
from demo_node.observe.meter import Meter
from demo_node.views import Outcome
from tests.control.fake_node import round_view, status_view

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "node" / "demo_node"

FORWARDERS = {
    "observe/observers.py: on_event",  # Observers: to each of several
    "trainer/supervisor.py: tell",  # what the trainer process sent as a Happening
}
"""Functions that pass on a name which somebody else chose."""


class Calls(ast.NodeVisitor):
    """Calls of something named on_event: their first argument, and the function they stand in."""

    def __init__(self) -> None:
        self.found: list[tuple[str, ast.expr]] = []
        self._function = ""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._visit_function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._visit_function(node)

    def _visit_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        outer, self._function = self._function, node.name
        self.generic_visit(node)
        self._function = outer

    def visit_Call(self, node: ast.Call) -> None:
        called = node.func
        name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
        if name.lstrip("_") == "on_event":
            assert node.args, f"on_event without a name in {self._function}"
            self.found.append((self._function, node.args[0]))
        self.generic_visit(node)


def find_emitted() -> Iterator[tuple[str, str | None]]:
    """(where, name) of every event in the source; None for a name that is no constant."""
    for path in SOURCE.rglob("*.py"):
        calls = Calls()
        calls.visit(ast.parse(path.read_text()))
        for function, name in calls.found:
            where = f"{path.relative_to(SOURCE).as_posix()}: {function}"
            yield where, name.value if isinstance(name, ast.Constant) else None  # type: ignore[misc]


def test_every_event_that_is_emitted_is_declared_and_every_declared_one_is_emitted() -> None:
    emitted = list(find_emitted())
    assert {name for _, name in emitted if name} == {*EVENTS, *DETAILS}
    # Meter asks for no name of its own: it counts what on_round and on_status are told.
    assert {where for where, name in emitted if name is None} == FORWARDERS


def test_every_declared_event_has_a_level_and_says_what_to_do() -> None:
    for name, event in {**EVENTS, **DETAILS}.items():
        assert event.level in LEVELS, name
        assert (event.level == DEBUG) == (name in DETAILS)
        assert event.meaning, name
        assert event.remedy, name
    assert not EVENTS.keys() & DETAILS.keys()


def test_the_operating_manual_has_the_tables() -> None:
    text = (ROOT / "docs" / "operating.md").read_text()
    sections = {part.split("\n", 1)[0]: part for part in text.split("\n## ")}
    assert format_events_table(LIFE) in sections["Log"]
    assert format_events_table(DETAILS) in sections["Log"]
    assert format_events_table(DISK) in sections["Disk"]


def count(meter: Meter) -> dict[str, float]:
    lines = generate_latest(meter.registry).decode().splitlines()
    pairs = [line.rsplit(" ", 1) for line in lines if line.startswith("demo_events_total{")]
    return {name.split('"')[1]: float(value) for name, value in pairs}


def test_every_event_has_a_series_and_every_series_can_move() -> None:
    meter = Meter()
    assert count(meter) == dict.fromkeys(EVENTS, 0.0)
    meter.on_round(round_view(5))
    meter.on_round(round_view(6, outcome=Outcome.SKIPPED))
    meter.on_status(status_view())
    meter.on_status(status_view())
    for name in EVENTS.keys() - {"round.closed", "state.changed"}:
        meter.on_event(name)
    expected = dict.fromkeys(EVENTS, 1.0)
    assert count(meter) == expected | {"round.closed": 2.0}
