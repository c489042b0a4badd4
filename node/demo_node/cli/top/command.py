"""`demo-node top`: the node and its swarm on one screen, live or once."""

import json
import shutil
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from demo_node.cli.ask import ask_node
from demo_node.cli.options import NumberRange, datadir_option, json_option, resolve_datadir

if TYPE_CHECKING:
    from rich.console import Console

    from demo_node.cli.top.reading import Reading
    from demo_node.control.client import ControlClient

PIPE_SIZE: Final = (120, 40)
"""Of what is no terminal, unless COLUMNS says otherwise."""


@click.command()
@datadir_option
@json_option
@click.option("--once", is_flag=True, help="Print it once and end; so it is without a terminal.")
@click.option(
    "--interval",
    type=NumberRange(0.1, 60),
    metavar="SECONDS",
    default=1.0,
    show_default=True,
    help="Pause between two questions to the node.",
)
def top(datadir: str | None, as_json: bool, once: bool, interval: float) -> None:
    """Watch the node and the swarm as it sees it. Key q ends it, ? explains words.

    \b
    round    by the clock, and where in its phases it is now
    latency  from a round's start by the clock until its update was applied here,
             round by round; below it, how each round ended: ▪ recorded, L late,
             S skipped, F forked
    came     how long after the start of its round a peer's header came
    digest   what a peer's header says of the parameters, against this node's own
    """
    folder = resolve_datadir(datadir)
    if as_json:
        from demo_node.cli.top.describe import describe_top

        click.echo(json.dumps(describe_top(ask_node(folder, _ask_once))))
        return
    console = _make_console()
    if once or not console.is_terminal or console.is_dumb_terminal:
        _print_once(folder, console)
        return
    from demo_node.cli.top.watch import watch

    ask_node(folder, lambda client: watch(client, folder, console, interval))


async def _ask_once(client: "ControlClient") -> "Reading":
    from demo_node.cli.top.watch import Asker

    return await Asker().ask(client)


def _print_once(datadir: Path, console: "Console") -> None:
    from demo_node.cli.top.draw import Look, draw

    color = console.color_system is not None and not console.no_color
    reading = ask_node(datadir, _ask_once)
    console.print(draw(reading, Look(console.width, None, color)))


def _make_console() -> "Console":
    from rich.console import Console

    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # not every terminal has bars and dots
    width = None if sys.stdout.isatty() else shutil.get_terminal_size(PIPE_SIZE).columns
    return Console(highlight=False, width=width)
