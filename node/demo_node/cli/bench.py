"""`demo-node bench`: measure what learning together is worth."""

from typing import TYPE_CHECKING, Final

import click

from demo_node.cli.options import IntegerRange, json_option
from demo_protocol.presets import PRESETS

if TYPE_CHECKING:
    from demo_node.bench.report import Row
    from demo_node.bench.trial import Trial

WHATS: Final = ("swarm", "plain", "accumulate", "averaged")
"""bench.trial.What, whose import would take torch's second."""

QUICK_ROUNDS: Final = 40


@click.group()
def bench() -> None:
    """Measure what learning together is worth."""


@bench.command()
@json_option
@click.option("--seeds", type=IntegerRange(1, 100), default=3, show_default=True)
@click.option(
    "--nodes",
    type=IntegerRange(1, 64),
    multiple=True,
    default=(1, 4, 8),
    show_default=True,
    help="Sizes of swarms; name it once for each.",
)
@click.option(
    "--only",
    type=click.Choice(WHATS),
    multiple=True,
    default=WHATS,
    help="Kinds of rows; name it once for each. [default: all]",
)
@click.option("--rounds", type=IntegerRange(1, 100_000), default=120, show_default=True)
@click.option(
    "--micro-batches",
    type=IntegerRange(1, 100_000),
    default=8,
    show_default=True,
    help="Of each node in each round.",
)
@click.option("--preset", type=click.Choice(tuple(PRESETS)), default="tiny", show_default=True)
@click.option(
    "--learning",
    metavar="KEY=INTEGER",
    multiple=True,
    help="Change a key of the manifest's learning in every row; for trials.",
)
@click.option("--quick", is_flag=True, help="One seed and a third of the rounds.")
def swarm(
    as_json: bool,
    seeds: int,
    nodes: tuple[int, ...],
    only: tuple[str, ...],
    rounds: int,
    micro_batches: int,
    preset: str,
    learning: tuple[str, ...],
    quick: bool,
) -> None:
    """Compare swarms with one machine and with other methods.

    These are published DeMo and averaged gradients. Everything trains in this process, with the
    code of real nodes over a simulated network and simulated time. Every node does the same number
    of micro-batches in every row.
    """
    from rich.console import Console

    from demo_node.bench.report import build_table, compute_ratios, format_document
    from demo_node.bench.trial import Length, What, plan_trials

    if quick:
        seeds, rounds = 1, QUICK_ROUNDS
    trials = plan_trials(
        whats=[What(what) for what in only],
        nodes=nodes,
        length=Length(rounds=rounds, micro_batches=micro_batches),
        preset=preset,
        changes=dict(_parse_change(change) for change in learning),
    )
    rows = _run(trials, seeds)
    if as_json:
        click.echo(format_document(rows))
        return
    console = Console()
    console.print(build_table(rows))
    for name, ratio in compute_ratios(rows).items():
        console.print(f"{name}: {(ratio - 1) * 100:+.1f} %", highlight=False)


def _run(trials: "list[Trial]", seeds: int) -> "list[Row]":
    import time

    import torch

    from demo_node.bench.report import Row
    from demo_node.bench.train import train
    from demo_node.store.stdlib import build_stdlib_corpus

    torch.set_num_threads(1)  # tiny matrices: a second thread waits more than it works
    corpus = build_stdlib_corpus()
    rows: list[Row] = []
    for trial in trials:
        outcomes = []
        for seed in range(seeds):
            begin_s = time.monotonic()
            outcomes.append(train(trial, seed, corpus))
            took_s = time.monotonic() - begin_s
            line = f"{trial.name}, seed {seed}: {outcomes[-1].loss:.4f} in {took_s:.0f} s"
            click.echo(line, err=True)
        rows.append(Row(trial, outcomes))
    return rows


def _parse_change(text: str) -> tuple[str, int]:
    key, _, value = text.partition("=")
    try:
        return key, int(value)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not KEY=INTEGER", param_hint="--learning") from None
