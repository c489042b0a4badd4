"""`demo-node ban | unban`: keep a peer out, or let one in again, by the operator's word."""

import click

from demo_node.cli.ask import ask_node
from demo_node.cli.options import IntegerRange, datadir_option, resolve_datadir
from demo_node.mesh.peer_id import decode_peer_id

HOURS_MAX = 24 * 365


def _check_peer(context: click.Context, parameter: click.Parameter, value: str) -> bytes:
    try:
        return decode_peer_id(value)
    except ValueError:
        raise click.BadParameter("give a peer id, as demo-node peers shows it") from None


@click.command()
@click.argument("peer", callback=_check_peer)
@click.option(
    "--hours", type=IntegerRange(1, HOURS_MAX), default=24, show_default=True, help="How long."
)
@datadir_option
def ban(peer: bytes, hours: int, datadir: str | None) -> None:
    """Keep PEER out for some hours.

    Its connections are closed, its dials refused, and it is dialled no more.

    PEER is a peer id. A key can be had for nothing, so this is for who does no harm on purpose.
    What it contributes still comes by way of others, and counts. A restart of this node ends all
    bans.
    """
    ask_node(resolve_datadir(datadir), lambda client: client.ban(peer, hours * 3600))
    click.echo(f"banned for {hours} h")


@click.command()
@click.argument("who")
@datadir_option
def unban(who: str, datadir: str | None) -> None:
    """Let WHO in again, and forget what was held against it.

    WHO is a peer id or an address, as demo-node peers shows it.
    """
    ask_node(resolve_datadir(datadir), lambda client: client.unban(who))
    click.echo("nothing is held against it any more")
