"""What `simulate` prints of its runs: a report, a line for each of many, what was broken."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from demo_node.sim.simulation import Report


def announce(reports: "Iterator[Report]", count: int) -> "Iterator[Report]":
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


def print_all(reports: "Iterator[Report]", path: Path | None, *, as_json: bool, many: bool) -> bool:
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
