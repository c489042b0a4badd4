"""A swarm whose nodes' event loops are watched, and asked for everything once a second meanwhile.

    python -m tests.e2e.loop_run     # a minute and a half: 4 nodes, one that returns, one late
    python -m tests.e2e.loop_run --rounds 1     # less of it

prints what took longest. docs/benchmarks.md says what is to be read from it.
"""

import contextlib
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from demo_node.control.client import ControlClient
from tests.e2e.loop_probe import Report, read_report
from tests.e2e.nodes import RunningNode, make_run, started
from tests.e2e.swarm_run import find_metrics_url, read_metrics

LOOK_S = 1.0
SHARE = 0.999


@contextlib.contextmanager
def watched(datadir: Path, report: Path, *arguments: str) -> Iterator[RunningNode]:
    """A node whose loop is watched; `report` is there once it has left."""
    probe = (sys.executable, "-m", "tests.e2e.loop_probe", str(report))
    with started(datadir, *(arguments or ("start",)), command=probe) as node:
        yield node
        node.signal(signal.SIGTERM)
        assert node.wait() == 0, node.stderr[-2000:]


def read_node_metrics(node: RunningNode) -> dict[str, float]:
    """Every series of its /metrics."""
    log = node.datadir.with_name(f"{node.datadir.name}.stderr")
    return read_metrics(find_metrics_url(log))


def watch_for(nodes: Sequence[RunningNode], rounds: int) -> None:
    """Ask every node for everything, once a second, until so many more rounds have gone."""
    end = nodes[0].status().round + rounds
    while nodes[0].status().round < end:
        for node in nodes:
            read_node_metrics(node)
            node.ask(_ask_for_everything)
        time.sleep(LOOK_S)


async def _ask_for_everything(client: ControlClient) -> None:
    await client.status()
    await client.peers()
    await client.rounds(10_000)
    await client.contributors()
    await client.swarm()


def quantile(report: Report) -> float:
    """Callbacks of an active node that took longer than this are one in a thousand."""
    return sorted(report.cpu_ms)[int(len(report.cpu_ms) * SHARE)]


def run_life_of_a_swarm(folder: Path, rounds: int) -> dict[str, Report]:
    """Who starts, who goes and comes back, who comes late; the reports by what each was."""
    datadirs = [folder / f"node{index}" for index in range(5)]
    reports = {name: folder / f"{name}.json" for name in ("opened the run", "joined", "member")}
    reports |= {name: folder / f"{name}.json" for name in ("left", "returned", "came late")}
    make_run(datadirs[0], "--preset", "tiny")
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(watched(datadirs[0], reports["opened the run"]))
        invitation = first.invitation()
        nodes = [first]
        for datadir, name in zip(datadirs[1:3], ("joined", "member"), strict=True):
            nodes.append(stack.enter_context(watched(datadir, reports[name], *invitation)))
        with watched(datadirs[3], reports["left"], *invitation) as leaving:
            leaving.wait_until_active()
            watch_for([*nodes, leaving], rounds)
        for datadir, name in ((datadirs[3], "returned"), (datadirs[4], "came late")):
            nodes.append(stack.enter_context(watched(datadir, reports[name], *invitation)))
            nodes[-1].wait_until_active()
        watch_for(nodes, rounds)
    return {name: read_report(path) for name, path in reports.items()}


@click.command
@click.option("--rounds", default=11, help="Before one leaves, and after it has come back.")
def main(rounds: int) -> None:
    """Print the table, and where the longest callbacks were."""
    with tempfile.TemporaryDirectory() as name:
        reports = run_life_of_a_swarm(Path(name), rounds)
    click.echo(
        "| node | callbacks while active | 99.9 % within, ms | longest, ms | full collection, ms |"
    )
    click.echo("|---|---|---|---|---|")
    for name, report in reports.items():
        longest = max(report.cpu_ms)
        click.echo(
            f"| {name} | {len(report.cpu_ms):,} | {quantile(report):.1f} | {longest:.1f}"
            f" | {report.full_collection_ms:.1f} |"
        )
    for name, report in reports.items():
        click.echo(f"\n{name}; fixed work {statistics.median(report.yardstick_ms):.2f} ms")
        for slow in sorted(report.slow, key=lambda slow: -slow.cpu_ms)[:6]:
            click.echo(slow.describe())
    click.echo(f"\nload {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
