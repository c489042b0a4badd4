"""`demo-node status | peers | rounds`: ask the running node over its socket."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from demo_node.cli.lately import format_warnings
from demo_node.cli.options import IntegerRange, datadir_option, json_option, resolve_datadir
from demo_node.cli.show import (
    describe_peers,
    describe_rounds,
    describe_status,
    format_peers,
    format_rounds,
    format_status,
)
from demo_node.cli.show_contributors import (
    Contributors,
    describe_contributors,
    format_contributors,
    format_contributors_csv,
)
from demo_node.ports import BanView, PeerView
from demo_node.views import HealthView, StatusView
from demo_protocol.errors import ConfigError

if TYPE_CHECKING:
    from demo_node.control.client import ControlClient

Answer = TypeVar("Answer")


@click.command()
@datadir_option
@json_option
def status(datadir: str | None, as_json: bool) -> None:
    """Show what the node is doing."""

    async def question(client: "ControlClient") -> tuple[StatusView, HealthView]:
        return await client.status(), await client.health()

    view, health = ask_node(resolve_datadir(datadir), question)
    if as_json:
        click.echo(json.dumps(describe_status(view, health)))
        return
    click.echo(format_status(view, format_warnings(health)))


@click.command()
@datadir_option
@json_option
def peers(datadir: str | None, as_json: bool) -> None:
    """Show who is connected, and who is kept out.

    
    score    what is held against a peer: 0 is nothing, it fades, at 100 it is banned
    because  what it did last; docs/operating.md says more. demo-node unban lets it in
    """

    async def question(client: "ControlClient") -> tuple[Sequence[PeerView], Sequence[BanView]]:
        return await client.peers(), await client.bans()

    views, bans = ask_node(resolve_datadir(datadir), question)
    click.echo(json.dumps(describe_peers(views, bans)) if as_json else format_peers(views, bans))


@click.command()
@datadir_option
@json_option
@click.option(
    "--limit",
    type=IntegerRange(1, 10_000),
    default=20,
    show_default=True,
    help="How many of the newest rounds.",
)
@click.option("--by-peer", is_flag=True, help="What each peer has contributed since the start.")
@click.option("--csv", "as_csv", is_flag=True, help="With --by-peer: comma-separated values.")
def rounds(datadir: str | None, as_json: bool, limit: int, by_peer: bool, as_csv: bool) -> None:
    """Show how the newest rounds went, oldest first.

    \b
    outcome  recorded: its record was applied before the round ended; late: after
             it; skipped: nobody's record; forked: applied and later rolled back
    from     contributions that the record lists
    ours     whether this node's is among them
    loss     of this node's training, in nats per byte
    latency  from the round's start by the clock until its update was applied here
    trained  time inside forward, backward and the local optimizer's step
    payload  what this node sent of its training
    """
    if as_csv and (as_json or not by_peer):
        raise click.UsageError("--csv goes with --by-peer, and without --json")
    if by_peer:
        _show_contributors(resolve_datadir(datadir), as_json=as_json, as_csv=as_csv)
        return
    views = ask_node(resolve_datadir(datadir), lambda client: client.rounds(limit))
    click.echo(json.dumps(describe_rounds(views)) if as_json else format_rounds(views))


def _show_contributors(datadir: Path, *, as_json: bool, as_csv: bool) -> None:
    async def question(client: "ControlClient") -> Contributors:
        return Contributors(await client.status(), await client.contributors())

    contributors = ask_node(datadir, question)
    if as_json:
        click.echo(json.dumps(describe_contributors(contributors)))
    elif as_csv:
        click.echo(format_contributors_csv(contributors))
    else:
        click.echo(format_contributors(contributors))


def ask_node(datadir: Path, question: Callable[["ControlClient"], Awaitable[Answer]]) -> Answer:
    """The node's answer. Exits with 69 where none runs, with 1 where it refuses."""
    from demo_node.control.client import (  # grpc: not for --help
        NotRunning,
        Refused,
        control_client,
    )

    async def ask() -> Answer:
        async with control_client(datadir) as client:
            return await question(client)

    try:
        return asyncio.run(ask())
    except NotRunning:
        _check_protocol(datadir)
        raise
    except Refused as error:
        raise click.ClickException(str(error)) from None


def _check_protocol(datadir: Path) -> None:
    """Raises OtherProtocol: `start`, which we would name else, could only say the same."""
    from demo_node.store.disk import FileDisk
    from demo_node.store.manifest_file import OtherProtocol, load_manifest

    try:
        load_manifest(FileDisk(), datadir / "manifest.json")
    except OtherProtocol:
        raise
    except (ConfigError, OSError):
        pass  # `start` says what is wrong with it
