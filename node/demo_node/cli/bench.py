"""`demo-node bench`: measure what learning together is worth, and what it costs."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import click

from demo_node.cli.options import IntegerRange, NumberRange, json_option
from demo_protocol.errors import ConfigError
from demo_protocol.presets import PRESETS

if TYPE_CHECKING:
    from demo_node.store.corpus import Corpus

T = TypeVar("T")

WHATS: Final = ("swarm", "plain", "accumulate", "averaged")
"""bench.trial.What, whose import would take torch's second."""

COMPARISONS: Final = ("exact", "accumulate")
"""bench.semantics.Comparison, likewise."""

QUICK_ROUNDS: Final = 40

SIZES: Final = ("1M", "10M", "50M", "124M")
"""bench.codec.MODELS, whose import would take torch's second."""

PATHS: Final = ("fast", "torch")

ENGINES: Final = ("daemon", "hivemind", "bare")
"""bench.mesh.Engine, whose import would take a while, too."""

seeds_option: Final = click.option(
    "--seeds", type=IntegerRange(1, 100), default=3, show_default=True
)

micro_batches_option: Final = click.option(
    "--micro-batches",
    type=IntegerRange(1, 100_000),
    default=8,
    show_default=True,
    help="Of each node in each round.",
)

quick_option: Final = click.option(
    "--quick", is_flag=True, help=f"One seed and {QUICK_ROUNDS} rounds."
)


@click.group()
def bench() -> None:
    """Measure what learning together is worth, and what it costs."""


@bench.command()
@json_option
@seeds_option
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
@micro_batches_option
@click.option("--preset", type=click.Choice(tuple(PRESETS)), default="tiny", show_default=True)
@click.option(
    "--learning",
    metavar="KEY=INTEGER",
    multiple=True,
    help="Change a key of the manifest's learning in every row; for trials.",
)
@quick_option
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

    from demo_node.bench.report import Row, build_table, compute_ratios, format_document
    from demo_node.bench.train import train
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
    corpus = _begin()
    rows = [
        Row(trial, _run_seeds(trial.name, seeds, partial(train, trial, corpus), lambda o: o.loss))
        for trial in trials
    ]
    if as_json:
        click.echo(format_document(rows))
        return
    console = Console()
    console.print(build_table(rows))
    for name, ratio in compute_ratios(rows).items():
        console.print(f"{name}: {(ratio - 1) * 100:+.1f} %", highlight=False)


@bench.command()
@json_option
@seeds_option
@click.option("--nodes", type=IntegerRange(1, 64), default=4, show_default=True)
@click.option(
    "--only",
    type=click.Choice(COMPARISONS),
    multiple=True,
    default=COMPARISONS,
    help="Comparisons; name it once for each. [default: both]",
)
@click.option("--rounds", type=IntegerRange(1, 100_000), default=60, show_default=True)
@micro_batches_option
@quick_option
def semantics(
    as_json: bool,
    seeds: int,
    nodes: int,
    only: tuple[str, ...],
    rounds: int,
    micro_batches: int,
    quick: bool,
) -> None:
    """Compare what nodes exchange with what it stands for.

    "exact": integer votes against the same algorithm in float64. "accumulate": DeMo as published,
    with one bit a value against with the reference's payloads. Every side is tried with the same
    learning rates, and the best of each compared. Everything trains in this process, without a
    network; nothing but the exchange differs.
    """
    from rich.console import Console

    from demo_node.bench.semantics import Comparison, Row, plan_settings, train
    from demo_node.bench.semantics_report import (
        build_table,
        compute_ratios,
        find_edges,
        format_document,
    )
    from demo_node.bench.trial import Length

    if quick:
        seeds, rounds = 1, QUICK_ROUNDS
    settings = plan_settings(
        [Comparison(name) for name in dict.fromkeys(only)],
        nodes,
        Length(rounds=rounds, micro_batches=micro_batches),
    )
    corpus = _begin()
    rows = [
        Row(setting, _run_seeds(setting.name, seeds, partial(train, setting, corpus), float))
        for setting in settings
    ]
    for name in find_edges(rows):
        click.echo(f"{name}: best, but at the edge of what was tried", err=True)
    if as_json:
        click.echo(format_document(rows))
        return
    console = Console()
    console.print(build_table(rows))
    for comparison, ratio in compute_ratios(rows).items():
        console.print(f"{comparison}: {(ratio - 1) * 100:+.2f} %", highlight=False)


@bench.command()
@json_option
@click.option(
    "--params",
    type=click.Choice(SIZES),
    multiple=True,
    default=("1M", "10M", "50M"),
    show_default=True,
    help="Sizes of models; name it once for each.",
)
@click.option(
    "--peers",
    type=IntegerRange(1, 1_000),
    multiple=True,
    default=(4, 16, 64),
    show_default=True,
    help="Payloads that an update is made of; name it once for each.",
)
@click.option("--k", type=IntegerRange(1, 4_096), default=32, show_default=True)
@click.option(
    "--path",
    type=click.Choice(PATHS),
    multiple=True,
    default=PATHS,
    help="fast: compiled; torch: what runs everywhere. [default: both]",
)
@click.option("--turns", type=IntegerRange(1, 100), default=5, show_default=True)
@click.option("--threads", type=IntegerRange(1, 1_024), default=1, show_default=True)
@click.option("--quick", is_flag=True, help="The smallest model, two turns.")
def codec(
    as_json: bool,
    params: tuple[str, ...],
    peers: tuple[int, ...],
    k: int,
    path: tuple[str, ...],
    turns: int,
    threads: int,
    quick: bool,
) -> None:
    """Compare the codec with published DeMo's way of doing the same.

    That is: each tensor by itself, three transforms, 12 bytes a coefficient. Both sides get the
    same gradients and take turns in this process; what counts is the ratio of their times.
    """
    from demo_node.huge_pages import ask_for_huge_pages

    ask_for_huge_pages()
    import torch
    from rich.console import Console

    from demo_node.bench.codec import measure, measure_bytes
    from demo_node.bench.codec_report import build_codec_table, format_codec_document
    from demo_node.native import find_codec

    if quick:
        params, turns = params[:1], 2
    if find_codec() is None and "fast" in path:
        path = tuple(name for name in path if name != "fast")
        click.echo("fast: not run, the codec is not compiled here; see `make setup`", err=True)
    torch.set_num_threads(threads)
    rows = []
    for name in params:
        rows += measure(name, k, peers, path, turns)
        click.echo(f"{name} parameters: done", err=True)
    if not torch.cuda.is_available():
        click.echo("cuda: not run, there is no such device", err=True)
    sizes = {each: measure_bytes("10M" if not quick else "1M", each) for each in (32, 8, 4)}
    if as_json:
        click.echo(format_codec_document(rows, sizes))
        return
    console = Console()
    console.print(build_codec_table(rows))
    for each, size in sizes.items():
        console.print(f"k {each}: {size:.5f} bytes a parameter", highlight=False)


@bench.command()
@json_option
@click.option("--nodes", type=IntegerRange(2, 32), default=8, show_default=True)
@click.option(
    "--bytes",
    "size",
    type=IntegerRange(1, 64 << 20),
    default=1_000_000,
    show_default=True,
    help="What each node pulls from each other.",
)
@click.option("--turns", type=IntegerRange(1, 100), default=7, show_default=True)
@click.option(
    "--engine",
    type=click.Choice(ENGINES),
    multiple=True,
    default=ENGINES,
    help="daemon: the mesh of a node; hivemind: its other mesh; bare: streams of py-libp2p as it"
    " comes. [default: all]",
)
@click.option(
    "--delay-ms",
    type=NumberRange(0, 2_000),
    multiple=True,
    default=(0, 50, 150),
    show_default=True,
    help="Of a link, one way, for headers; name it once for each.",
)
@click.option("--quick", is_flag=True, help="Two turns and no delay.")
def mesh(
    as_json: bool,
    nodes: int,
    size: int,
    turns: int,
    engine: tuple[str, ...],
    delay_ms: tuple[float, ...],
    quick: bool,
) -> None:
    """Measure what the mesh moves, and how soon headers come.

    Every node is a process of its own on this machine, connected with every other. All pull from
    all at once; engines take turns, and what counts is the ratio of their bytes a second.
    """
    import asyncio

    from rich.console import Console

    from demo_node.bench.mesh import Engine, measure_propagation, measure_transfers
    from demo_node.bench.mesh_report import (
        build_propagation_table,
        build_transfer_table,
        format_mesh_document,
    )
    from demo_node.mesh.hivemind.installed import check_installed

    if quick:
        turns, delay_ms = min(turns, 2), (0,)
    engines = [Engine(name) for name in dict.fromkeys(engine)]
    if Engine.HIVEMIND in engines:
        try:
            check_installed()
        except ConfigError as error:
            engines.remove(Engine.HIVEMIND)
            if not engines:
                raise
            click.echo(f"hivemind: not run: {error}", err=True)

    def tell(line: str) -> None:
        click.echo(line, err=True)

    transfers = asyncio.run(measure_transfers(engines, nodes, size, turns, tell))
    propagations = [
        asyncio.run(measure_propagation(each, nodes, delay))
        for each in engines
        if each is not Engine.BARE
        for delay in dict.fromkeys(delay_ms)
    ]
    if as_json:
        click.echo(format_mesh_document(transfers, propagations))
        return
    console = Console()
    console.print(build_transfer_table(transfers))
    if propagations:
        console.print(build_propagation_table(propagations))


def _begin() -> "Corpus":
    """The text to train on; this process is set up for it."""
    import torch

    from demo_node.store.stdlib import build_stdlib_corpus

    torch.set_num_threads(1)  # tiny matrices: a second thread waits more than it works
    return build_stdlib_corpus()


def _run_seeds(
    name: str, seeds: int, run: Callable[[int], T], loss_of: Callable[[T], float]
) -> list[T]:
    """What each seed came to; told on stderr as it comes."""
    import time

    outcomes = []
    for seed in range(seeds):
        begin_s = time.monotonic()
        outcomes.append(run(seed))
        took_s = time.monotonic() - begin_s
        loss = loss_of(outcomes[-1])
        click.echo(f"{name}, seed {seed}: {loss:.4f} in {took_s:.0f} s", err=True)
    return outcomes


def _parse_change(text: str) -> tuple[str, int]:
    key, _, value = text.partition("=")
    try:
        return key, int(value)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not KEY=INTEGER", param_hint="--learning") from None
