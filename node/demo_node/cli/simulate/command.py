"""`demo-node simulate`: many nodes in virtual time, everything that can go wrong, one process."""

import contextlib
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from demo_node.cli.options import IntegerRange, naming
from demo_node.cli.simulate.running import Terminated, run_all, terminable
from demo_node.cli.simulate.telling import announce, print_all
from demo_protocol.limits import CONTRIBUTORS_MAX

if TYPE_CHECKING:
    from demo_node.sim.scenario import Scenario

NODES_MAX: Final = 100_000
ROUNDS_MAX: Final = 1_000_000
SEED_MAX: Final = 2**32 - 1
SEEDS_MAX: Final = 100_000

INTERRUPTED: Final = 128 + signal.SIGINT
TERMINATED: Final = 128 + signal.SIGTERM
BROKEN: Final = 1


class SeedRange(click.ParamType[range]):
    """A..B: every seed from A to B."""

    name = "seeds"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> range:
        """The range. Raises BadParameter."""
        if isinstance(value, range):
            return value
        first, dots, last = str(value).partition("..")
        if not dots or not (first.isdecimal() and last.isdecimal()):
            self.fail(f"{value!r} is not like 1..200", param, ctx)
        seeds = range(int(first), int(last) + 1)
        if not 0 < len(seeds) <= SEEDS_MAX or seeds[-1] > SEED_MAX:
            self.fail(
                f"{value!r} is not a range of at most {SEEDS_MAX} seeds up to {SEED_MAX}",
                param,
                ctx,
            )
        return seeds


@click.command()
@click.option(
    "--scenario",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="What is to happen (docs/scenarios.md). Without it: everything at once.",
)
@click.option("--nodes", type=IntegerRange(1, NODES_MAX), help="Nodes at the start.")
@click.option("--rounds", type=IntegerRange(1, ROUNDS_MAX), help="How many rounds.")
@click.option("--seed", type=IntegerRange(0, SEED_MAX), help="Of all that is drawn.")
@click.option(
    "--contributors",
    type=IntegerRange(0, CONTRIBUTORS_MAX),
    metavar="C",
    help="So many contribute in a round; 0 is every member. Without it the manifest's default.",
)
@click.option(
    "--learner",
    type=click.Choice(["modelled", "real"]),
    help="What trainers compute: digests alone, or a tiny model, with the daemon's own code. "
    " [default: modelled]",
)
@click.option(
    "--seeds",
    type=SeedRange(),
    metavar="A..B",
    help="One run for each of these seeds, and a sum at the end.",
)
@click.option(
    "--jobs",
    type=IntegerRange(1, 256),
    help="With --seeds: so many processes.  [default: 1]",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="One JSON document on standard output; with --seeds one a line, and their sum.",
)
def simulate(
    scenario: Path | None,
    nodes: int | None,
    rounds: int | None,
    seed: int | None,
    contributors: int | None,
    learner: str | None,
    seeds: range | None,
    jobs: int | None,
    as_json: bool,
) -> None:
    """Simulate a swarm and check that what must hold does.

    The real round machine, chain and logs of every node run in virtual time, over modelled links,
    disks and clocks; nodes crash, lose power, are cut off, come, go and lie. What must hold is
    checked all the time. The same seed gives the same run, to the last event, on any machine.

    Exits with 0 if all held, with 1 if not; then it prints what happened, and the command that
    makes it happen again.
    """
    if seed is not None and seeds is not None:
        raise click.UsageError("--seed and --seeds: choose one")
    if jobs is not None and seeds is None:
        raise click.UsageError("--jobs shares out several runs; say which by --seeds A..B")
    given: dict[str, Any] = {
        "nodes": nodes,
        "rounds": rounds,
        "seed": seed,
        "contributors": contributors,
        "learner": learner,
    }
    wanted = _choose_scenario(scenario, {k: v for k, v in given.items() if v is not None})
    chosen = range(wanted.seed, wanted.seed + 1) if seeds is None else seeds
    try:
        with terminable(), contextlib.closing(run_all(wanted, chosen, jobs or 1)) as runs:
            reports = announce(runs, len(chosen))
            is_broken = print_all(
                reports, wanted, scenario, as_json=as_json, many=seeds is not None
            )
    except KeyboardInterrupt as stopped:
        click.echo("interrupted", err=True)
        sys.exit(TERMINATED if isinstance(stopped, Terminated) else INTERRUPTED)
    if is_broken:
        sys.exit(BROKEN)


def _choose_scenario(path: Path | None, given: dict[str, Any]) -> "Scenario":
    """The file's, or the full mix; what the command line names overrides it.

    Says what of a file can never happen.
    """
    from demo_node.sim.impossible import list_impossible
    from demo_node.sim.scenario import read_scenario, standard_mix
    from demo_node.sim.simulation import plan_run

    scenario = standard_mix() if path is None else read_scenario(path)
    scenario = replace(scenario, **given)
    with naming(path):
        plan_run(scenario, scenario.seed)  # what cannot be is said before anything runs
    if path is not None:
        for line in list_impossible(scenario):
            click.echo(f"{path}: {line}", err=True)
    return scenario
