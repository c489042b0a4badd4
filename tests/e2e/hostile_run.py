"""A swarm that is attacked, compared with itself before.

    python -m tests.e2e.hostile_run     # two minutes each: quiet, then attacked
    python -m tests.e2e.hostile_run --rounds 8     # less of it

docs/decisions/hostile-input.md says what is to be read from it.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from demo_node.views import RoundView
from tests.e2e.nodes import ROUND_S, RunningNode, make_run, started
from tests.e2e.swarm_run import read_metrics

NODES: Final = 3
SAMPLE_S: Final = 0.5
SETTLED_ROUNDS: Final = 2
"""At the seams: rounds that are partly quiet count as neither."""


@dataclass(frozen=True)
class Part:
    """Rounds of one kind, over all nodes. `rss_mb`: the most that any node's process had."""

    recorded: float
    participants: float
    rss_mb: float


@dataclass(frozen=True)
class Report:
    """Before and meanwhile, and who was banned where."""

    quiet: Part
    attacked: Part
    attacker: dict[str, Any]
    banned: dict[str, int]
    """Sort of harm -> nodes that had its key banned at the end."""
    offences: dict[str, float]
    refusals: dict[str, float]
    honest_banned: int

    def lines(self) -> Iterator[str]:
        """For people."""
        yield f"{'':12} recorded  participants  memory"
        for name, part in (("quiet", self.quiet), ("attacked", self.attacked)):
            yield (
                f"{name:12} {part.recorded:8.1%}  {part.participants:12.1f}  {part.rss_mb:.0f} MB"
            )
        yield f"done to them: {self.attacker['done']}"
        yield f"nodes that banned its keys: {self.banned}"
        yield f"offences: {self.offences}; refused: {self.refusals}"


class Memory:
    """The largest resident set among processes, looked at twice a second."""

    def __init__(self, nodes: Sequence[RunningNode]) -> None:
        self._pids = [node.process.pid for node in nodes]
        self._ends = threading.Event()
        self.peak_mb = 0.0

    @contextmanager
    def watched(self) -> Iterator["Memory"]:
        """While the block runs."""
        thread = threading.Thread(target=self._look)
        thread.start()
        try:
            yield self
        finally:
            self._ends.set()
            thread.join()

    def _look(self) -> None:
        while not self._ends.wait(SAMPLE_S):
            self.peak_mb = max(self.peak_mb, *map(_read_rss_mb, self._pids))


def _read_rss_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def run_rounds(nodes: Sequence[RunningNode], rounds: int) -> tuple[int, int, float]:
    """(first, end, peak MB) of so many whole rounds from now on."""
    with Memory(nodes).watched() as memory:
        first = nodes[0].status().round + 1
        while nodes[0].status().round < first + rounds:
            time.sleep(SAMPLE_S)
    return first, first + rounds, memory.peak_mb


def summarise(seen: Sequence[Sequence[RoundView]], first: int, end: int, rss_mb: float) -> Part:
    """Over all nodes."""
    views = [[view for view in of_node if first <= view.round < end] for of_node in seen]
    recorded = [sum(bool(v.record) for v in of_node) / (end - first) for of_node in views]
    participants = [v.participants if v.record else 0 for of_node in views for v in of_node]
    return Part(statistics.mean(recorded), statistics.median(participants), rss_mb)


def attack(folder: Path, rounds: int) -> Report:
    """Start a swarm, let it be for so many rounds, then have it attacked for as many."""
    with ExitStack() as stack:
        make_run(folder / "0")
        nodes = [stack.enter_context(started(folder / "0"))]
        line = nodes[0].invitation()
        nodes += [stack.enter_context(started(folder / str(n), *line)) for n in range(1, NODES)]
        for node in nodes:
            node.wait_for_status(lambda status: status.members == NODES)
        quiet = run_rounds(nodes, rounds)
        seconds = (rounds + 2 * SETTLED_ROUNDS) * ROUND_S
        addresses = [node.status().addresses[0] for node in nodes]
        manifest = folder / "0" / "manifest.json"
        with subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.attacker", str(manifest), str(seconds), *addresses],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as evil:
            try:
                time.sleep(SETTLED_ROUNDS * ROUND_S)
                attacked = run_rounds(nodes, rounds)
                bans = [node.ask(lambda client: client.bans()) for node in nodes]
                told, errors = evil.communicate(timeout=seconds + 60)
            finally:
                evil.kill()
        assert told, errors.decode()[-2000:]
        found = json.loads(told)
        time.sleep(2 * ROUND_S)  # what is late counts, too
        seen = [node.rounds() for node in nodes]
        metrics = [read_metrics(node.metrics_url()) for node in nodes]
        honest = {node.status().peer for node in nodes}
        names = [{_peer_id(b.peer) for b in of_node if b.peer} for of_node in bans]
        return Report(
            quiet=summarise(seen, *quiet),
            attacked=summarise(seen, *attacked),
            attacker=found,
            banned={s: sum(key in of for of in names) for s, key in found["keys"].items()},
            offences=_sum(metrics, "demo_offences_total"),
            refusals=_sum(metrics, "demo_refusals_total"),
            honest_banned=sum(b.peer in honest for of_node in bans for b in of_node),
        )


def _peer_id(peer: bytes) -> str:
    from demo_node.mesh.peer_id import encode_peer_id

    return encode_peer_id(peer)


def _sum(metrics: Sequence[dict[str, float]], name: str) -> dict[str, float]:
    """Label -> total over all nodes, of those above zero."""
    totals: dict[str, float] = {}
    for of_node in metrics:
        for series, value in of_node.items():
            if series.startswith(name + "{") and value:
                label = series.split('"')[1]
                totals[label] = totals.get(label, 0) + value
    return totals


@click.command()
@click.option("--rounds", default=60, show_default=True, help="Of each kind.")
def main(rounds: int) -> None:
    """See above."""
    with tempfile.TemporaryDirectory(prefix="demo-hostile-") as folder:
        report = attack(Path(folder), rounds)
    click.echo("\n".join(report.lines()))
    click.echo(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
