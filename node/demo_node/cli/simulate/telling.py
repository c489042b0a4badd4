"""What `simulate` prints of its runs: a report, a line for each of many, what was broken."""

import json
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from demo_node.cli.simulate.width import find_columns

if TYPE_CHECKING:
    from demo_node.sim.scenario import Scenario
    from demo_node.sim.simulation import Report

NEVER_SHOWN: Final = 10
"""Events that happened to nobody, a line each."""

REPORT_COLUMNS: Final = 100
"""Of a report in a file or a pipe."""

GLUE: Final = "\N{NO-BREAK SPACE}"
"""Stands for a blank at which no line may end."""


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


class Sum:
    """Of the runs of several seeds."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._seconds = 0.0
        self._never: set[int] = set()
        self.broken_seeds: list[int] = []

    def add(self, report: "Report") -> None:
        """One more run."""
        never = set(report.events_without_effect)
        self._never = self._never & never if self._counts["runs"] else never
        self._counts["runs"] += 1
        self._counts["faults"] += report.faults.total()
        self._counts["violations"] += len(report.violations)
        self._counts["rounds"] += report.rounds
        self._counts["records"] += report.records
        self._seconds += report.seconds
        if report.violations:
            self.broken_seeds.append(report.seed)

    def document(self) -> dict[str, object]:
        """For machines. An event is without effect where it happened to nobody in any run."""
        return {
            **self._counts,
            "seconds": round(self._seconds, 1),
            "broken_seeds": self.broken_seeds,
            "events_without_effect": sorted(self._never),
        }


def print_all(
    reports: "Iterator[Report]",
    scenario: "Scenario",
    path: Path | None,
    *,
    as_json: bool,
    many: bool,
) -> bool:
    """Print each as it comes, and their sum where there are many. Was anything broken?"""
    total = Sum()
    for report in reports:
        if as_json:
            click.echo(json.dumps(report.document()))
        elif not many:
            _print_report(report, path)
        if report.violations:
            _print_violations(report, path)
        total.add(report)
    if many:
        _print_sum(total.document(), scenario, path, as_json=as_json)
    return bool(total.broken_seeds)


def _print_sum(
    sums: dict[str, Any], scenario: "Scenario", path: Path | None, *, as_json: bool
) -> None:
    from demo_node.sim.simulation import SCHEMA

    if as_json:
        click.echo(json.dumps({"schema": SCHEMA, **sums}))
        return
    click.echo(
        f"{sums['runs']} runs, {sums['rounds']} rounds, {sums['records']} records,"
        f" {sums['faults']} faults, {sums['violations']} violations, {sums['seconds']} s"
    )
    _print_never(scenario, path, sums["events_without_effect"])


def _print_never(scenario: "Scenario", path: Path | None, never: Sequence[int]) -> None:
    """What was planned and happened to nobody. Only a file's: nobody wrote the full mix for this
    many rounds."""
    if path is None:
        return
    for number in never[:NEVER_SHOWN]:
        event = scenario.events[number - 1]
        again = f" and every {event.every} rounds" if event.every else ""
        click.echo(f"  never happened: event {number}, {event.do} in round {event.round}{again}")
    if more := len(never[NEVER_SHOWN:]):
        click.echo(f"  never happened: {more} more events")


def _print_report(report: "Report", path: Path | None) -> None:
    document: Any = report.document()
    name = report.scenario.name or "a scenario without a name"
    click.echo(f"{name}: {report.nodes} nodes, {report.rounds} rounds, seed {report.seed}")
    _print_line("faults", f"{report.faults.total()}: {_list_counts(document['faults_by_kind'])}")
    comings = _list_counts(document["comings"])
    _print_line("comings", f"{comings}; {report.nodes_at_end} at the end")
    _print_line("lies", f"of {report.liars} liars: {_list_counts(document['lies'])}")
    share = 100 * report.records / max(report.rounds, 1)
    _print_line(
        "records",
        f"{report.records} in {report.rounds} rounds ({share:.1f} %),"
        f" each of {report.contributors:.1f} contributions",
    )
    _print_line(
        "forks",
        f"{report.rollbacks} times a node changed branch, by {report.rollback_max} records at most",
    )
    has_final = report.final_lag >= 0
    _print_line("final", f"{report.final_lag} records below the head" if has_final else "no record")
    if report.losses is not None:
        first, last = report.losses
        _print_line("loss", f"{first:.2f} -> {last:.2f} nats per byte, held out")
    _print_line("bytes in", f"{report.bytes_in_per_node_per_round:,.0f} per node and round")
    _print_line("event log", f"{report.steps} steps, {report.event_log_digest[:16]}")
    _print_line("took", f"{report.seconds:.1f} s")
    _print_never(report.scenario, path, report.events_without_effect)
    click.echo(
        "  all held" if not report.violations else f"  BROKEN {len(report.violations)} times"
    )


def _list_counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name}{GLUE}{count}" for name, count in counts.items()) or "none"


def _print_line(label: str, text: str) -> None:
    """One line of a report, or several where it is wider than what it is written to."""
    lines = textwrap.wrap(
        text,
        find_columns(sys.stdout, REPORT_COLUMNS),
        initial_indent=f"  {label:<13}",
        subsequent_indent=" " * 15,
        break_long_words=False,
        break_on_hyphens=False,
    )
    click.echo("\n".join(lines).replace(GLUE, " "))


def _print_violations(report: "Report", path: Path | None) -> None:
    """To standard error: what was broken, what happened around it, and how to see it again."""
    scenario, lines = report.scenario, list(report.transcript)
    for violation in report.violations[:3]:
        click.echo(f"broken in round {violation.round}: {violation.invariant}", err=True)
        click.echo(f"  {violation.text}", err=True)
    if lines:  # what is asked at the end is nobody's doing
        click.echo("what these nodes did last:", err=True)
    for line in lines:
        click.echo(f"  {line}", err=True)
    words = ["demo-node simulate"]
    if path is not None:
        words.append(f"--scenario {path}")
    words.append(f"--nodes {scenario.nodes} --rounds {scenario.rounds} --seed {report.seed}")
    if scenario.contributors is not None:
        words.append(f"--contributors {scenario.contributors}")
    if scenario.learner != "modelled":
        words.append(f"--learner {scenario.learner}")
    click.echo(f"to see it again: {' '.join(words)}", err=True)
