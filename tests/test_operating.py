"""docs/operating.md names every state, exit code and command that there is, and no other."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click

from demo_node.views import NodeState
from tests.pages import COMMANDS

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs/operating.md").read_text()

SYSEXITS = range(64, 79)
"""What sysexits.h has codes for."""

SHELLS = {0, 1, 2, 130, 143}
"""Success, click's two failures, and death by a signal: nothing in our source spells them."""


def section(title: str) -> str:
    return TEXT.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def first_cells(title: str) -> list[str]:
    """The first column of the table in a section."""
    rows = [line for line in section(title).splitlines() if line.startswith("| ")]
    return [row.split(" | ")[0].removeprefix("| ") for row in rows[1:]]


def find_codes(source: str) -> Iterator[int]:
    """Exit codes in a module: given by keyword, defaults of that name, and named constants."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.keyword(arg="exit_code", value=ast.Constant(value=int() as code)):
                yield code
            case ast.FunctionDef(args=ast.arguments(kwonlyargs=names, kw_defaults=defaults)):
                for name, default in zip(names, defaults, strict=True):
                    if name.arg == "exit_code" and isinstance(default, ast.Constant):
                        assert isinstance(default.value, int)
                        yield default.value
            case ast.AnnAssign(
                target=ast.Name(id=name),
                annotation=ast.Name(id="Final"),
                value=ast.Constant(value=int() as code),
            ) if code in SYSEXITS and re.search(rf"(exit_code=|exit\(){name}\b", source):
                yield code


def test_every_state_is_documented_in_the_order_of_a_nodes_life() -> None:
    assert first_cells("States") == [f"`{state.value}`" for state in NodeState]


def test_every_exit_code_is_documented() -> None:
    documented = {int(code) for cell in first_cells("Exit codes") for code in cell.split(", ")}
    sources = [*ROOT.glob("node/**/*.py"), *ROOT.glob("protocol/**/*.py")]
    used = {code for path in sources for code in find_codes(path.read_text())}
    assert used == documented - SHELLS
    assert documented >= SHELLS


def test_every_command_is_documented() -> None:
    documented = set()
    for cell in first_cells("Commands"):
        first, *others = re.findall(r"`([^`]+)`", cell)
        documented.add(first)
        documented.update(f"{first.rpartition(' ')[0]} {other}" for other in others)
    # `demo-node rounds --by-peer` is a row of its own.
    assert {name.partition(" --")[0] for name in documented} == {
        name for name, command in COMMANDS.items() if not isinstance(command, click.Group)
    }
