"""`demo-node pause | resume`: the machine is wanted for something else for a while."""

import click

from demo_node.cli.ask import ask_node
from demo_node.cli.options import datadir_option, resolve_datadir


@click.command()
@datadir_option
def pause(datadir: str | None) -> None:
    """Have the running node train no more until demo-node resume.

    What it trains in this round ends with the round's train phase; then processor and graphics
    card are free. The node stays in the run: it votes, applies updates and serves others. A
    pause lasts until demo-node resume or until the node ends; to start without training, see
    demo-node start --no-train.
    """
    ask_node(resolve_datadir(datadir), lambda client: client.pause())
    click.echo("paused: no training until demo-node resume; the node stays in the run")


@click.command()
@datadir_option
def resume(datadir: str | None) -> None:
    """Have the running node train again, from the next round on."""
    ask_node(resolve_datadir(datadir), lambda client: client.resume())
    click.echo("training again, from the next round on")
