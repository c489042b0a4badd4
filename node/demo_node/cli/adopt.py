"""`demo-node adopt`: leave what is final here, by the operator's decision alone (rule 19)."""

import re

import click

from demo_node.cli.ask import ask_node
from demo_node.cli.options import datadir_option, resolve_datadir
from demo_protocol.limits import PREFIX_DIGITS_MIN


def _check_record(context: click.Context, parameter: click.Parameter, value: str) -> str:
    if not re.fullmatch(rf"[0-9a-fA-F]{{{PREFIX_DIGITS_MIN},64}}", value):
        raise click.BadParameter(f"give {PREFIX_DIGITS_MIN} to 64 hexadecimal digits of a record")
    return value.lower()


@click.command()
@click.argument("record", callback=_check_record)
@datadir_option
def adopt(record: str, datadir: str | None) -> None:
    """Go over to the other chain that holds RECORD. It lacks what is final here.

    RECORD is what demo-node status shows under "conflict", or the first digits of it: as many
    peers as on this node's chain stand on one that was apart from it for too long. No node goes
    there by itself. What this node's chain has had since they parted is dropped here, once a peer
    has given a snapshot of the other. Without such a conflict nothing is done.
    """
    begins = ask_node(resolve_datadir(datadir), lambda client: client.adopt(record))
    click.echo(f"adopted: this node's chain begins at record {begins.hex()[:16]} now")
