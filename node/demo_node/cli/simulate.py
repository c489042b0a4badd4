"""`demo-node simulate`: many nodes in virtual time, everything that can go wrong, one process."""

import concurrent.futures
import json
import multiprocessing
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from demo_node.sim.scenario import Scenario
    from demo_node.sim.simulation import Report

NODES_MAX: Final = 100_000
ROUNDS_MAX: Final = 1_000_000
SEED_MAX: Final = 2**32 - 1
SEEDS_MAX: Final = 100_000

INTERRUPTED: Final = 128 + signal.SIGINT
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
@click.option("--nodes", type=click.IntRange(1, NODES_MAX), help="Nodes at the start.")
@click.option("--rounds", type=click.IntRange(1, ROUNDS_MAX), help="How many rounds.")
@click.option("--seed", type=click.IntRange(0, SEED_MAX), help="Of all that is drawn.")
@click.option(
    "--contributors",
    type=click.IntRange(0, NODES_MAX),
    metavar="C",
    help="So many contribute in a round; 0 is every member. Without it the manifest's default.",
)
@click.option(
    "--seeds",
    type=SeedRange(),
    metavar="A..B",
    help="One run for each of these seeds, and a sum at the end.",
)
@click.option(
    "--jobs",
    type=click.IntRange(1, 256),
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
    seeds: range | None,
    jobs: int | None,
    as_json: bool,
) -> None:
    """Simulate a swarm and check that nothing is ever broken that must hold.

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
    given = {"nodes": nodes, "rounds": rounds, "seed": seed, "contributors": contributors}
    wanted = _choose_scenario(scenario, {k: v for k, v in given.items() if v is not None})
    try:
        if seeds is None:
            reports = _announce(_run_all(wanted, range(wanted.seed, wanted.seed + 1), 1), 1)
        else:
            reports = _announce(_run_all(wanted, seeds, jobs or 1), len(seeds))
        is_broken = _print_all(reports, scenario, as_json=as_json, many=seeds is not None)
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        sys.exit(INTERRUPTED)
    if is_broken:
        sys.exit(BROKEN)


def _choose_scenario(path: Path | None, given: dict[str, int]) -> "Scenario":
    """The file's, or the full mix; what the command line names overrides it."""
    from demo_node.sim.scenario import read_scenario, standard_mix
    from demo_node.sim.simulation import plan_run

    scenario = standard_mix() if path is None else read_scenario(path)
    changed: dict[str, Any] = dict(given)
    scenario = replace(scenario, **changed)
    plan_run(scenario, scenario.seed)  # what cannot be is said before anything runs
    return scenario


def _run(scenario: "Scenario", seed: int) -> "Report":
    from demo_node.sim.simulation import simulate as run

    return run(scenario, seed)


def _ignore_interrupts() -> None:
    """Ctrl-C goes to the whole group: the parent decides what follows."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _run_all(scenario: "Scenario", seeds: range, jobs: int) -> "Iterator[Report]":
    """In the order of the seeds."""
    if jobs == 1:
        for seed in seeds:
            yield _run(scenario, seed)
        return
    pool = concurrent.futures.ProcessPoolExecutor(
        min(jobs, len(seeds)),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_ignore_interrupts,
    )
    try:
        for future in [pool.submit(_run, scenario, seed) for seed in seeds]:
            yield future.result()
    except BaseException:
        for process in list((pool._processes or {}).values()):
            process.terminate()
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def _announce(reports: "Iterator[Report]", count: int) -> "Iterator[Report]":
    """One line a run on standard error, where there are several."""
    for number, report in enumerate(reports, 1):
        if count > 1:
            verdict = f"{len(report.violations)} violations" if report.violations else "all held"
            click.echo(
                f"{number}/{count}  seed {report.seed}: {report.faults.total()} faults,"
                f" {report.records} records in {report.rounds} rounds, {verdict},"
                f" {report.seconds:.1f} s",
                err=True,
            )
        yield report


def _print_all(
    reports: "Iterator[Report]", path: Path | None, *, as_json: bool, many: bool
) -> bool:
    """Print each as it comes, and their sum where there are many. Was anything broken?"""
    sums = {"runs": 0, "faults": 0, "violations": 0, "rounds": 0, "records": 0}
    seconds, broken = 0.0, []
    for report in reports:
        document = report.document()
        if as_json:
            click.echo(json.dumps(document))
        elif not many:
            _print_report(report)
        if report.violations:
            broken.append(report.seed)
            _print_violations(report, path)
        sums["runs"] += 1
        sums["faults"] += report.faults.total()
        sums["violations"] += len(report.violations)
        sums["rounds"] += report.rounds
        sums["records"] += report.records
        seconds += report.seconds
    if many:
        _print_sum({**sums, "seconds": round(seconds, 1), "broken_seeds": broken}, as_json=as_json)
    return bool(broken)


def _print_sum(sums: dict[str, object], *, as_json: bool) -> None:
    from demo_node.sim.simulation import SCHEMA

    if as_json:
        click.echo(json.dumps({"schema": SCHEMA, **sums}))
    else:
        click.echo(
            f"{sums['runs']} runs, {sums['rounds']} rounds, {sums['records']} records,"
            f" {sums['faults']} faults, {sums['violations']} violations, {sums['seconds']} s"
        )


def _print_report(report: "Report") -> None:
    def list_counts(counts: dict[str, int]) -> str:
        return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"

    document: Any = report.document()
    name = report.scenario.name or "a scenario without a name"
    click.echo(f"{name}: {report.nodes} nodes, {report.rounds} rounds, seed {report.seed}")
    click.echo(f"  faults       {report.faults.total()}: {list_counts(document['faults_by_kind'])}")
    click.echo(
        f"  comings      {list_counts(document['comings'])}; {report.nodes_at_end} at the end"
    )
    click.echo(f"  lies         of {report.liars} liars: {list_counts(document['lies'])}")
    share = 100 * report.records / max(report.rounds, 1)
    click.echo(
        f"  records      {report.records} in {report.rounds} rounds ({share:.1f} %),"
        f" each of {report.contributors:.1f} contributions"
    )
    click.echo(
        f"  forks        {report.rollbacks} times a node changed branch,"
        f" by {report.rollback_max} records at most"
    )
    click.echo(
        f"  final        {report.final_lag} records below the head"
        if report.final_lag >= 0
        else "  final        no record"
    )
    click.echo(f"  bytes in     {report.bytes_in_per_node_per_round:,.0f} per node and round")
    click.echo(f"  event log    {report.steps} steps, {report.event_log_digest[:16]}")
    click.echo(f"  took         {report.seconds:.1f} s")
    click.echo(
        "  all held" if not report.violations else f"  BROKEN {len(report.violations)} times"
    )


def _print_violations(report: "Report", path: Path | None) -> None:
    """To standard error: what was broken, what happened around it, and how to see it again."""
    scenario, lines = report.scenario, list(report.transcript)
    for violation in report.violations[:3]:
        click.echo(f"broken in round {violation.round}: {violation.invariant}", err=True)
        click.echo(f"  {violation.text}", err=True)
    click.echo("what these nodes did last:", err=True)
    for line in lines:
        click.echo(f"  {line}", err=True)
    words = ["demo-node simulate"]
    if path is not None:
        words.append(f"--scenario {path}")
    words.append(f"--nodes {scenario.nodes} --rounds {scenario.rounds} --seed {report.seed}")
    if scenario.contributors is not None:
        words.append(f"--contributors {scenario.contributors}")
    click.echo(f"to see it again: {' '.join(words)}", err=True)
