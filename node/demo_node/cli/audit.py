"""`demo-node verify | replay`: check a data folder by its own evidence. Both only read."""

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import click

from demo_node.cli.options import IntegerRange, datadir_option, json_option, resolve_datadir
from demo_node.cli.show import SCHEMA
from demo_node.mesh.peer_id import encode_peer_id

if TYPE_CHECKING:
    from demo_node.audit.findings import Finding, Report

SHOWN_MAX: Final = 50
"""Findings shown to a person."""


@click.command()
@datadir_option
@json_option
def verify(datadir: str | None, as_json: bool) -> None:
    """Check every signature, hash and link in the data folder.

    Works on a running node's folder too, and changes nothing. Exits with 0 when nothing is wrong,
    with 1 when something is.
    """
    from demo_node.audit.verify import verify_folder  # numpy and cryptography: not for --help
    from demo_node.store.disk import FileDisk

    report = verify_folder(FileDisk(), resolve_datadir(datadir), _say)
    _tell(report, as_json=as_json)


@click.command()
@datadir_option
@json_option
@click.option(
    "--from",
    "first",
    type=IntegerRange(min=0),
    metavar="ROUND",
    help="First round to do again. [default: the first that all payloads are here for]",
)
@click.option(
    "--to",
    "last",
    type=IntegerRange(min=0),
    metavar="ROUND",
    help="Last round to do again. [default: the newest]",
)
@click.option("--device", metavar="NAME", default="auto", help="As for demo-node start.")
def replay(
    datadir: str | None, as_json: bool, first: int | None, last: int | None, device: str
) -> None:
    """Do rounds again and compare with what peers and snapshots say.

    Begins with the newest snapshot before the first round, or with the run's state 0. Works on a
    running node's folder too, and changes nothing. Exits with 0 when all agree, else with 1.
    """
    if first is not None and last is not None and first > last:
        raise click.UsageError(f"--from {first} is after --to {last}")
    from demo_node.audit.replay import replay_folder  # torch: seconds of imports
    from demo_node.store.disk import FileDisk

    report = replay_folder(
        FileDisk(),
        resolve_datadir(datadir),
        first=first,
        last=last,
        device=device,
        say=_say,
    )
    _tell(report, as_json=as_json)


def _say(line: str) -> None:
    click.echo(line, err=True)


def _tell(report: "Report", *, as_json: bool) -> None:
    """Print a report and exit with its code."""
    if as_json:
        click.echo(json.dumps(_describe(report)))
    else:
        for kind, text in report.looked:
            click.echo(f"{kind:<11} {text}")
        for note in report.notes:
            click.echo(f"note        {note}")
        for finding in report.findings[:SHOWN_MAX]:
            click.echo(f"WRONG       {finding.format()}")
        if len(report.findings) > SHOWN_MAX:
            click.echo(f"and {len(report.findings) - SHOWN_MAX} more; --json has them all")
        if not report.findings:
            click.echo("nothing is wrong")
    sys.exit(1 if report.findings else 0)


def _describe(report: "Report") -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "looked": dict(report.looked),
        "notes": report.notes,
        "findings": [_describe_finding(finding) for finding in report.findings],
    }


def _describe_finding(finding: "Finding") -> dict[str, Any]:
    document = asdict(finding)
    peer = document.pop("peer")
    return {
        **document,
        "about": finding.about.value,
        "peer_id": encode_peer_id(peer) if peer else "",
    }
