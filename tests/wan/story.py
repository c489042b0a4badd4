"""Nodes on all continents, through what happens to nodes: for longer than CI has time for.

    python -m tests.wan.story     # as root: eight nodes, ten minutes of two cores

Every frame is lost with a probability of 1 %, one node has an uplink of 10 Mbit/s. Rounds go by,
the nodes are cut in two halves and joined again, one is killed and returns while the last joins.
It fails unless all end with equal parameters, and prints a line for each of these times.
docs/benchmarks.md says what is to be read from it; test_swarm.py plays a shorter one.
"""

import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from demo_node.views import RoundView
from tests.e2e.nodes import RunningNode, make_run
from tests.wan.network import Network, made_network
from tests.wan.nodes import place, started_on, wait_agreed

SLOW: Final = 1
SLOW_MBIT_S: Final = 10.0
LOSS: Final = 0.01

JOIN_S: Final = 300.0


@dataclass(frozen=True, kw_only=True)
class Size:
    """Of a story: `nodes` with the one that joins last; `rounds` of each time that is quiet.

    `start_s`: until the first round; all but the last node should be up by then.
    """

    nodes: int = 8
    round_s: float = 10.0
    rounds: int = 12
    cut_s: float = 60.0
    start_s: int = 60


@dataclass(frozen=True)
class Stage:
    """What happened in some rounds, the last one excluded."""

    name: str
    first: int
    end: int
    nodes: int


class Story:
    """Stages as they come, by the round numbers of the first node."""

    def __init__(self, node: RunningNode) -> None:
        self._node = node
        self.stages: list[Stage] = []

    def tell(self, name: str, nodes: int, happen: Callable[[], object]) -> None:
        """Let something happen; its rounds are those that begin and end meanwhile, or the next."""
        first = self._node.status().round + 1
        begin_s = time.monotonic()
        happen()
        self.stages.append(Stage(name, first, max(self._node.status().round, first + 1), nodes))
        click.echo(f"{name}: {time.monotonic() - begin_s:.0f} s", err=True)


def play(network: Network, folder: Path, size: Size) -> list[str]:
    """The lines of the table. Raises AssertionError where nodes do not agree in the end."""
    place(network, LOSS)
    network.change([SLOW], [], rate_mbit_s=SLOW_MBIT_S)
    schedule = ("--round-seconds", f"{size.round_s:g}", "--genesis", f"+{size.start_s}")
    make_run(folder / "0", "--preset", "tiny", *schedule)
    late = size.nodes - 1
    halves = range(size.nodes // 2), range(size.nodes // 2, size.nodes)
    with ExitStack() as stack:

        def start(index: int, *arguments: str) -> RunningNode:
            node = started_on(network, index, folder / str(index), *arguments)
            return stack.enter_context(node)

        nodes = [start(0)]
        line = nodes[0].invitation()
        nodes += [start(index, *line) for index in range(1, late)]
        nodes[0].wait_for_status(lambda status: status.members == late, JOIN_S)
        wait_agreed(nodes, 1, JOIN_S)
        story = Story(nodes[0])

        def pass_rounds() -> None:
            end = nodes[0].status().round + 1 + size.rounds
            nodes[0].wait_for_status(lambda status: status.round >= end, JOIN_S)

        def cut() -> None:
            network.change(*halves, is_cut=True)
            time.sleep(size.cut_s)

        def heal() -> None:
            network.change(*halves, is_cut=False)
            wait_agreed(nodes, nodes[0].status().height + 2, JOIN_S)
            pass_rounds()

        def kill_and_join() -> None:
            killed = late - 1
            nodes[killed].signal(signal.SIGKILL)
            assert nodes[killed].wait() == 128 + signal.SIGKILL
            nodes.append(start(late, *line))
            nodes[killed] = start(killed)
            nodes[0].wait_for_status(lambda status: status.members == size.nodes, JOIN_S)
            wait_agreed(nodes, nodes[0].status().height + 2, JOIN_S)

        story.tell("all is well", late, pass_rounds)
        story.tell(f"cut in halves for {size.cut_s:g} s", late, cut)
        story.tell("healed", late, heal)
        story.tell("one killed and back, one joins", size.nodes, kill_and_join)
        story.tell("all of them", size.nodes, pass_rounds)
        wait_agreed(nodes, nodes[0].status().height, JOIN_S)
        digest = nodes[0].status().digest.hex()[:16]
        views = [node.rounds() for node in nodes]
    rows = [format_stage(stage, views) for stage in story.stages]
    return [*HEAD, *rows, "", f"digest of all {len(nodes)}: {digest}"]


HEAD: Final = (
    "| | rounds | with a record | contributions in a record | kB out per node and round"
    " | participants, median | exchange p50, s | p95, s |",
    "|---|---|---|---|---|---|---|---|",
)


def format_stage(stage: Stage, views: Sequence[Sequence[RoundView]]) -> str:
    """Its line: records and participants as the first node has them, times and bytes of all."""
    of_first = [v for v in views[0] if stage.first <= v.round < stage.end]
    of_all = [v for each in views for v in each if stage.first <= v.round < stage.end]
    recorded = [v for v in of_first if v.record]
    exchange_s = [v.exchange_ms / 1e3 for v in of_all if v.record and v.included]
    due = [v for v in of_all if v.due]
    cells = [
        stage.name,
        str(stage.end - stage.first),
        f"{len(recorded) / max(len(of_first), 1):.0%}",
        f"{sum(v.included for v in due) / max(len(due), 1):.0%}",
        f"{statistics.fmean(v.bytes_out for v in of_all) / 1e3:.1f}" if of_all else "–",
    ]
    if len(exchange_s) > 1:
        cells += [
            f"{statistics.median(v.participants for v in recorded):g} of {stage.nodes}",
            f"{statistics.median(exchange_s):.2f}",
            f"{statistics.quantiles(exchange_s, n=20)[-1]:.2f}",
        ]
    else:
        cells += ["–"] * 3
    return f"| {' | '.join(cells)} |"


@click.command
@click.option("--round-seconds", "round_s", default=Size.round_s, show_default=True)
@click.option("--rounds", default=Size.rounds, show_default=True, help="Of each quiet time.")
@click.option("--cut-seconds", "cut_s", default=Size.cut_s, show_default=True)
@click.option("--seed", default=1, show_default=True, help="Of the switch's dice.")
def main(round_s: float, rounds: int, cut_s: float, seed: int) -> None:
    """Play it once."""
    size = Size(round_s=round_s, rounds=rounds, cut_s=cut_s)
    with (
        tempfile.TemporaryDirectory() as name,
        made_network(Path(name), size.nodes, seed) as network,
    ):
        lines = play(network, Path(name), size)
        told = network.change()
    click.echo("\n".join(lines))
    click.echo(f"frames: {told}; load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    sys.exit(main())
