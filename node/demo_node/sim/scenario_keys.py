"""Keys of a scenario file: what a value must look like, and what it means for whom.

Each key is a dataclass field that carries its `Key`; reading, errors and the documentation's table
come from that one description.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final

NODES_MAX: Final = 100_000
"""In a scenario; real swarms take fewer."""

ROUNDS_MAX: Final = 1_000_000

SEED_MAX: Final = 2**32 - 1

SHOWN_MAX: Final = 60
"""Characters of a wrong value that an error repeats."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key: `wanted` completes "... is not".

    `real`: what a real swarm makes of it, "" where that is the same as the simulator does.
    """

    read: Callable[[object], Any]
    wanted: str
    meaning: str
    real: str = ""


IGNORED: Final = "ignored"
"""What a real swarm makes of a key."""


def key(default: Any, read: Callable[[object], Any], wanted: str, meaning: str, real: str) -> Any:
    """A dataclass field that is a key of the file. `read` raises ValueError or TypeError."""
    return dataclasses.field(default=default, metadata={"key": Key(read, wanted, meaning, real)})


def number(default: float, least: float, most: float, meaning: str, real: str = "") -> Any:
    """A number; whole ones may be written without a point."""

    def read(raw: object) -> float:
        if isinstance(raw, bool) or not isinstance(raw, int | float):
            raise TypeError
        if not least <= raw <= most:  # nan is not either
            raise ValueError
        return float(raw)

    return key(
        float(default), read, f"a number from {_show(least)} to {_show(most)}", meaning, real
    )


def share(default: float, meaning: str, real: str = "") -> Any:
    """A probability or a part of a whole."""
    return number(default, 0, 1, meaning, real)


def whole(default: int | None, least: int, most: int, meaning: str, real: str = "") -> Any:
    """A whole number."""

    def read(raw: object) -> int:
        return _read_int(raw, least, most)

    return key(default, read, f"a whole number from {least} to {most}", meaning, real)


def text(default: str, meaning: str) -> Any:
    """One line of text."""

    def read(raw: object) -> str:
        if not isinstance(raw, str):
            raise TypeError
        if not raw.isprintable() or len(raw) > SHOWN_MAX:
            raise ValueError
        return raw

    return key(default, read, f"one line of at most {SHOWN_MAX} characters", meaning, "")


def switch(meaning: str, real: str = "") -> Any:
    """False unless set."""

    def read(raw: object) -> bool:
        if not isinstance(raw, bool):
            raise TypeError
        return raw

    return key(False, read, "true or false", meaning, real)


def choice(default: str, choices: Sequence[str], meaning: str, real: str = "") -> Any:
    """One of some words."""

    def read(raw: object) -> str:
        if raw not in choices or not isinstance(raw, str):
            raise ValueError
        return raw

    return key(default, read, f"one of {', '.join(choices)}", meaning, real)


def choices_of(default: Sequence[str], choices: Sequence[str], meaning: str, real: str = "") -> Any:
    """Some of some words, each once."""

    def read(raw: object) -> tuple[str, ...]:
        if not isinstance(raw, list):
            raise TypeError
        if len(set(map(str, raw))) != len(raw) or any(item not in choices for item in raw):
            raise ValueError
        if not raw:
            raise ValueError
        return tuple(raw)

    wanted = f"a list of some of {', '.join(choices)}, each once"
    return key(tuple(default), read, wanted, meaning, real)


def span(default: tuple[int, int], least: int, most: int, meaning: str, real: str = "") -> Any:
    """Two whole numbers, the smaller first; one is drawn from there."""

    def read(raw: object) -> tuple[int, int]:
        if not isinstance(raw, list) or len(raw) != 2:
            raise TypeError
        low, high = (_read_int(item, least, most) for item in raw)
        if low > high:
            raise ValueError
        return low, high

    wanted = f"two whole numbers from {least} to {most}, the smaller first"
    return key(default, read, wanted, meaning, real)


def nodes_of(meaning: str, real: str = "") -> Any:
    """Numbers of nodes, each once."""
    return key((), _read_nodes, "a list of node numbers, each once", meaning, real)


def sides_of(meaning: str, real: str = "") -> Any:
    """Two lists of nodes: no node twice."""

    def read(raw: object) -> tuple[tuple[int, ...], ...]:
        if not isinstance(raw, list) or len(raw) != 2:
            raise TypeError
        sides = tuple(_read_nodes(side) for side in raw)
        everybody = [node for side in sides for node in side]
        if not all(sides) or len(set(everybody)) != len(everybody):
            raise ValueError
        return sides

    return key((), read, "two lists of node numbers, no node twice", meaning, real)


def _read_int(raw: object, least: int, most: int) -> int:
    if isinstance(raw, bool) or not isinstance(raw, int):
        raise TypeError
    if not least <= raw <= most:
        raise ValueError
    return raw


def _read_nodes(raw: object) -> tuple[int, ...]:
    if not isinstance(raw, list):
        raise TypeError
    nodes = tuple(_read_int(item, 0, NODES_MAX - 1) for item in raw)
    if len(set(nodes)) != len(nodes):
        raise ValueError
    return nodes


def get_keys(table: type) -> dict[str, Key]:
    """By name, in the order of the fields; a table's own name for a key that Python reserves."""
    return {
        field.name: field.metadata["key"]
        for field in dataclasses.fields(table)
        if "key" in field.metadata
    }


def read_table(table: type, tree: Mapping[str, object], where: str) -> dict[str, Any]:
    """The values that are given. Raises ValueError with one line: where, key, what is wanted."""
    keys = get_keys(table)
    values = {}
    for name, raw in tree.items():
        if name not in keys:
            raise ValueError(f"unknown key {where}{name}{suggest(name, keys)}")
        try:
            values[name] = keys[name].read(raw)
        except (TypeError, ValueError):
            raise ValueError(f"{where}{name}: {show(raw)} is not {keys[name].wanted}") from None
    return values


def format_keys_table(table: type, required: Sequence[str] = ()) -> str:
    """Markdown for docs/scenarios.md; a test compares."""
    lines = ["| key | value | default | meaning |", "|---|---|---|---|"]
    for field in dataclasses.fields(table):
        if "key" in field.metadata:
            found: Key = field.metadata["key"]
            meaning = f"{found.meaning} ({found.real} by `swarm`)" if found.real else found.meaning
            is_required = field.name in required
            default = "required" if is_required else _format_default(field.default)
            lines.append(f"| `{field.name}` | {found.wanted} | {default} | {meaning} |")
    return "\n".join(lines)


def _format_default(value: Any) -> str:
    match value:
        case None:
            return "–"
        case bool():
            return f"`{str(value).lower()}`"
        case str():
            return f'`"{value}"`' if value else "–"
        case tuple() if value and all(isinstance(item, str) for item in value):
            return "all"
        case tuple():
            return f"`{list(value)}`" if value else "–"
        case _:
            return f"`{_show(value)}`"


def _show(value: float) -> str:
    return f"{value:.12g}"


def suggest(name: str, known: Mapping[str, object] | Sequence[str]) -> str:
    """What may have been meant, as the end of a line."""
    close = get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else f"; there are {', '.join(known)}"


def show(raw: object) -> str:
    """A wrong value, cut where it is long."""
    shown = repr(raw)
    return shown if len(shown) <= SHOWN_MAX else shown[:SHOWN_MAX] + "..."
