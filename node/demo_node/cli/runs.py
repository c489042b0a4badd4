"""`demo-node runs`: the data folders of this machine and what becomes of them."""

import asyncio
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from demo_node.cli.options import json_option
from demo_node.cli.show import format_table
from demo_node.config import find_datadir, find_registry
from demo_node.store.registry import find_folders
from demo_protocol.errors import ConfigError
from demo_protocol.manifest import compute_run_id
from demo_protocol.schedule import round_at

STOPPED, UNREADABLE, HUNG = "stopped", "unreadable", "hung"
"""States of a folder whose node says nothing; any other is what its node says (NodeState)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One data folder. `round` is the clock's; `records` None where nobody runs to be asked.

    `fault`: why its manifest cannot be read, and what to do; empty where it can.
    """

    run_name: str
    run_id: str
    state: str
    round: int
    records: int | None
    datadir: str
    fault: str


@click.command()
@json_option
def runs(as_json: bool) -> None:
    """Show the runs that this user's nodes here take part in.

    One data folder holds one node in one run. It knows the folders that demo-node init and
    demo-node start were used on; one that is gone is not shown. The round is that of the clock.
    """
    usual = find_datadir(None, os.environ)
    folders = find_folders(find_registry(os.environ), usual)
    found = asyncio.run(_look_at_all(folders))
    if as_json:
        click.echo(json.dumps({"schema": 1, "runs": [asdict(run) for run in found]}))
        return
    if not found:
        click.echo("no run yet: open one with demo-node init, or paste somebody's start line")
        return
    header = ("run", "id", "state", "round", "records", "folder")
    click.echo(format_table(header, [_format(run) for run in found]))
    for fault in dict.fromkeys(run.fault for run in found if run.fault):
        click.echo(f"{UNREADABLE}: {fault}")


async def _look_at_all(folders: Sequence[Path]) -> list[Run]:
    return list(await asyncio.gather(*map(_look_at, folders)))


async def _look_at(folder: Path) -> Run:
    """Ask the folder's node, else read its manifest. Nothing that is wrong there is an error."""
    from demo_node.control.client import (  # grpc: not for --help
        NotAnswering,
        Refused,
        control_client,
    )
    from demo_node.store.disk import FileDisk
    from demo_node.store.manifest_file import load_manifest

    name, run_id, state, round_, records, fault = "?", "", UNREADABLE, -1, None, ""
    path = folder / "manifest.json"
    try:
        manifest = load_manifest(FileDisk(), path)
        if manifest is not None:
            name, run_id = manifest.name, compute_run_id(manifest).hex()
            round_ = round_at(manifest.schedule, time.time_ns() // 1_000_000)
            round_ = min(round_, manifest.rounds_total or round_)
            state = STOPPED
    except OSError as error:
        fault = error.strerror or str(error)
    except ConfigError as error:
        fault = str(error).removeprefix(f"{path}: ")
    try:
        async with control_client(folder) as client:
            status = await client.status()
            state, records = status.state.value, status.height
    except NotAnswering:
        state = HUNG
    except (ConfigError, Refused, OSError):
        pass  # no node runs there, or it cannot answer
    return Run(
        run_name=name,
        run_id=run_id,
        state=state,
        round=round_,
        records=records,
        datadir=str(folder),
        fault=fault,
    )


def _format(run: Run) -> tuple[str, ...]:
    return (
        run.run_name,
        run.run_id[:8] or "?",
        run.state,
        "-" if run.round < 0 else str(run.round),
        "-" if run.records is None else str(run.records),
        run.datadir,
    )
