"""`demo-node swarm`: its options, and how it ends."""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from click.core import ParameterSource

from demo_node.cli.options import IntegerRange, NumberRange, naming
from demo_protocol.presets import PRESETS

if TYPE_CHECKING:
    from demo_node.cli.swarm.measure import SwarmReport
    from demo_node.cli.swarm.nodes import SwarmOptions
    from demo_node.sim.scenario import Event, Scenario

INTERRUPTED: Final = 128 + signal.SIGINT
TERMINATED: Final = 128 + signal.SIGTERM


@click.command()
@click.option(
    "--nodes", type=IntegerRange(1, 64), default=4, show_default=True, help="How many nodes."
)
@click.option(
    "--rounds",
    type=IntegerRange(1, 9_000),
    default=40,
    show_default=True,
    help="How many rounds of training, by the clock.",
)
@click.option(
    "--round-seconds",
    type=NumberRange(0.5, 3_600),
    default=3.0,
    show_default=True,
    help="Length of a round.",
)
@click.option(
    "--preset",
    type=click.Choice(tuple(PRESETS)),
    default="tiny",
    show_default=True,
    help="Size of the model.",
)
@click.option(
    "--seed",
    type=IntegerRange(0, 2**32 - 1),
    default=0,
    show_default=True,
    help="Seed of the parameters at genesis, and of whom --kill-every hurts how.",
)
@click.option(
    "--kill-every",
    type=NumberRange(1, 3_600),
    metavar="SECONDS",
    help="So often a random node is killed and started again, loses its trainer, or is stopped"
    " for up to 20 s.",
)
@click.option(
    "--scenario",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="What is to happen (docs/scenarios.md): nodes are killed, stopped, cut from each other, go"
    " and come. Nodes, rounds, seed and length of a round are its own unless named here.",
)
@click.option(
    "--overlap",
    type=IntegerRange(0, 1),
    default=0,
    show_default=True,
    help="1: a round is exchanged while the next one trains; see demo-node init.",
)
@click.option(
    "--device", default="cpu", show_default=True, help="What nodes train on; see demo-node start."
)
@click.option(
    "--train-percent",
    type=IntegerRange(1, 100),
    default=100,
    show_default=True,
    help="How much of the time for training they train; see demo-node start.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Last line of standard output: one JSON document."
)
@click.option(
    "--keep",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Put the nodes' data folders there, and leave them.",
)
@click.option(
    "--targets",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="While it lasts, list there for Prometheus where the nodes' metrics are.",
)
def swarm(
    nodes: int,
    rounds: int,
    round_seconds: float,
    preset: str,
    seed: int,
    kill_every: float | None,
    scenario: Path | None,
    overlap: int,
    device: str,
    train_percent: int,
    as_json: bool,
    keep: Path | None,
    targets: Path | None,
) -> None:
    """Run a whole swarm on this machine and show what came of it.

    Starts real nodes that find each other over the loopback, train together on the source text
    of Python's standard library, and stop after some rounds. Exits with 0 only if all nodes then
    hold the very same parameters, the held-out loss has fallen, and nothing is left running; with
    --kill-every also only if four rounds of five got a record and who was killed has replayed;
    with --scenario also only if all agreed within final_depth rounds of each heal.
    """
    from rich.console import Console

    from demo_node.cli.swarm.processes import GRPC_FORK

    os.environ[GRPC_FORK] = "false"  # before the first import of gRPC
    from demo_node.cli.swarm.node import SwarmFailed
    from demo_node.cli.swarm.nodes import SwarmOptions
    from demo_node.cli.swarm.possible import check_scenario
    from demo_node.cli.swarm.report import format_document, print_report

    if targets is not None:
        _check_targets(targets)
    if scenario is not None and kill_every:
        raise click.UsageError("--kill-every and --scenario: choose one; a scenario can kill, too")
    wanted = _choose_scenario(scenario)
    if kill_every:
        wanted = replace(wanted, events=_plan_faults(wanted, kill_every))
    if overlap:
        kept = (pair for pair in wanted.agreement if pair[0] != "overlap_rounds")
        wanted = replace(wanted, agreement=(*kept, ("overlap_rounds", overlap)))
    options = SwarmOptions(
        scenario=wanted,
        is_wired=scenario is not None,
        preset=preset,
        device=device,
        train_percent=train_percent,
        targets=targets,
    )
    if scenario is not None:
        with naming(scenario):
            impossible = check_scenario(options)
        for line in impossible:
            click.echo(f"{scenario}: {line}", err=True)
    try:
        with _folder(keep) as folder:
            report = _run(folder, options)
            print_report(report, Console(stderr=as_json))
            if as_json:
                click.echo(format_document(report))
            if reasons := report.find_faults():
                raise SwarmFailed("; ".join(reasons))
    except SwarmFailed as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        click.echo("interrupted; all nodes are stopped", err=True)
        sys.exit(INTERRUPTED)
    except asyncio.CancelledError:
        sys.exit(TERMINATED)


def _check_targets(path: Path) -> None:
    """It is removed at the end: nobody's file may be there. Raises BadParameter."""
    if not path.name:  # an empty value is the folder that we are in
        raise click.BadParameter("a file name is missing", param_hint="--targets")
    if path.exists():
        reason = "is there already; remove it if no swarm runs that wrote it"
    else:
        try:
            with tempfile.TemporaryFile(dir=path.parent):
                return
        except OSError as error:
            reason = f"cannot be written: {error.strerror}"
    raise click.BadParameter(f"{path} {reason}", param_hint="--targets")


def _choose_scenario(path: Path | None) -> "Scenario":
    """The file's, or one in which nothing happens; what the command line named overrides it."""
    from demo_node.sim.scenario import Scenario, read_scenario

    context = click.get_current_context()
    given = {
        key: context.params[key]
        for key in ("nodes", "rounds", "seed", "round_seconds")
        if path is None or context.get_parameter_source(key) is ParameterSource.COMMANDLINE
    }
    return replace(Scenario() if path is None else read_scenario(path), **given)


def _plan_faults(scenario: "Scenario", kill_every_s: float) -> "tuple[Event, ...]":
    from demo_node.cli.swarm.faults import plan_faults

    faults = plan_faults(
        seed=scenario.seed,
        nodes=scenario.nodes,
        every_ms=round(kill_every_s * 1000),
        rounds=scenario.rounds,
        round_ms=round(scenario.round_seconds * 1000),
    )
    if not faults:
        raise click.BadParameter(
            "the run is too short for that: its end is left in peace, for all to come back;"
            " more --rounds give time",
            param_hint="--kill-every",
        )
    return faults


def _run(folder: Path, options: "SwarmOptions") -> "SwarmReport":
    from demo_node.cli.swarm.drive import run_swarm
    from demo_node.cli.swarm.live import swarm_view

    async def run() -> "SwarmReport":
        task = asyncio.current_task()
        assert task is not None
        # asyncio cancels us on SIGINT; SIGTERM must end the nodes just as orderly.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        with swarm_view() as view:
            return await run_swarm(folder, options, view)

    return asyncio.run(run())


@contextlib.contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    """Where the data folders go. Unless they are to be kept, they stay only for a failed swarm."""
    from demo_node.cli.swarm.node import SwarmFailed

    if keep is None:
        folder = Path(tempfile.mkdtemp(prefix="demo-swarm-"))
        with contextlib.ExitStack() as stack:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            try:
                yield folder
            except SwarmFailed as error:
                stack.pop_all()
                kept = f"all logs are in {folder}; remove that when you have seen them"
                raise SwarmFailed(f"{error}; {kept}") from None
        return
    try:
        keep.mkdir(parents=True, exist_ok=True)
        is_empty = not any(keep.iterdir())
    except OSError as error:
        reason = f"{keep} cannot be made: {error.strerror}"
        raise click.BadParameter(reason, param_hint="--keep") from None
    if not is_empty:
        raise click.BadParameter(f"{keep} is not empty", param_hint="--keep")
    yield keep.absolute()
