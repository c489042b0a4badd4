"""`demo-node status | peers | rounds`: ask the running node over its socket."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from demo_node.cli.options import datadir_option, json_option, resolve_datadir
from demo_node.cli.show import (
    describe_peers,
    describe_rounds,
    describe_status,
    format_peers,
    format_rounds,
    format_status,
)

if TYPE_CHECKING:
    from demo_node.control.client import ControlClient

Answer = TypeVar("Answer")


@click.command()
@datadir_option
@json_option
def status(datadir: str | None, as_json: bool) -> None:
    """Show what the node is doing."""
    view = ask_node(resolve_datadir(datadir), lambda client: client.status())
    click.echo(json.dumps(describe_status(view)) if as_json else format_status(view))


@click.command()
@datadir_option
@json_option
def peers(datadir: str | None, as_json: bool) -> None:
    """Show who is connected."""
    views = ask_node(resolve_datadir(datadir), lambda client: client.peers())
    click.echo(json.dumps(describe_peers(views)) if as_json else format_peers(views))


@click.command()
@datadir_option
@json_option
@click.option(
    "--limit",
    type=click.IntRange(1, 10_000),
    default=20,
    show_default=True,
    help="How many of the newest rounds.",
)
def rounds(datadir: str | None, as_json: bool, limit: int) -> None:
    """Show how the newest rounds went, oldest first."""
    views = ask_node(resolve_datadir(datadir), lambda client: client.rounds(limit))
    click.echo(json.dumps(describe_rounds(views)) if as_json else format_rounds(views))


def ask_node(datadir: Path, question: Callable[["ControlClient"], Awaitable[Answer]]) -> Answer:
    """The node's answer. Exits with 69 where none runs, with 1 where it refuses."""
    from demo_node.control.client import Refused, control_client  # grpc: not for --help

    async def ask() -> Answer:
        async with control_client(datadir) as client:
            return await question(client)

    try:
        return asyncio.run(ask())
    except Refused as error:
        raise click.ClickException(str(error)) from None
