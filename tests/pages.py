"""What the pages of this repository quote: code in backticks, and what a shell is given."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

from demo_node.cli.root import commands

ROOT: Final = Path(__file__).parents[1]

PAGES: Final = (
    *(ROOT / name for name in ("README.md", "SECURITY.md", "CONTRIBUTING.md")),
    *sorted(ROOT.glob("docs/**/*.md")),
)

_BLOCK: Final = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def find_commands(group: click.Group, before: str) -> Iterator[tuple[str, click.Command]]:
    """Every command and every group of commands, by what is typed."""
    for name, command in group.commands.items():
        yield f"{before} {name}", command
        if isinstance(command, click.Group):
            yield from find_commands(command, f"{before} {name}")


COMMANDS: Final = dict(find_commands(commands, "demo-node"))


def list_options(command: click.Command) -> set[str]:
    """`--on` and `--off`, where an option has both."""
    return {name for given in command.params for name in (*given.opts, *given.secondary_opts)}


def find_quoted(text: str) -> list[str]:
    """What stands in backticks, each in one line; fenced blocks left out."""
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", _BLOCK.sub("", text))]


def find_shell_lines(text: str) -> list[str]:
    """Lines of fenced `sh` blocks, without their comments."""
    blocks = [block for language, block in _BLOCK.findall(text) if language == "sh"]
    lines = re.sub(r" *\\\n *", " ", "".join(blocks)).splitlines()
    return [line for line in (line.split("#")[0].strip() for line in lines) if line]


def find_lines(shown: list[str], beginning: str) -> list[str]:
    """Those that are just that, else those that begin so."""
    return [line for line in shown if line == beginning] or [
        line for line in shown if line.startswith(beginning)
    ]


def take_line(page: str, beginning: str) -> str:
    """The command that a page shows: a test that runs it takes it from there."""
    (line,) = find_lines(find_shell_lines((ROOT / page).read_text()), beginning)
    return line


def list_anchors(text: str) -> set[str]:
    """What links to a heading of this page may say behind the `#`, as GitHub makes it."""
    headings = re.findall(r"^#+ (.+)$", _BLOCK.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in headings}
