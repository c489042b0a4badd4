"""A swarm that is attacked, compared with itself before.

    python -m tests.e2e.hostile_run     # as root; two minutes each: quiet, then attacked
    python -m tests.e2e.hostile_run --nice 0     # the attacker takes the nodes' processors, too
    python -m tests.e2e.hostile_run --sort crowd     # one sort of harm, to see what it costs

docs/decisions/hostile-input.md says what is to be read from it. The nodes are on one machine with
one address, who attacks on another with seven: two network namespaces with a cable between them,
since a node bans no private address, and this machine's own are that. Processors they share, and
the attacker takes only what is left (`attacker.lower`); each process is a session of its own, for
where Linux shares out processors among sessions, the nodes would have one part for all.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from demo_node.mesh.peer_id import encode_peer_id
from demo_node.ports import BanView
from demo_node.views import RoundView
from tests.cli.command import COMMAND, ROOT
from tests.e2e.harms import SORTS
from tests.e2e.nodes import RunningNode, make_run, started
from tests.e2e.processes import measure_cpu_seconds
from tests.needs import needs, needs_root

NODES: Final = 4
HOST: Final = "45.10.0.1"
SOURCES: Final = {name: f"45.66.{number}.1" for number, name in enumerate(SORTS)}
"""Public ones, each of a network of its own; nothing leads from here to whose they are."""

ROUND_S: Final = 3
"""With room in it for what a busy machine does to it anyway."""

SAMPLE_S: Final = 0.5
ENOUGH_S: Final = 60.0
"""For all that was to be done to be done: who attacks has to make do with what is left."""

READY_S: Final = 60.0

Enough = Callable[[dict[str, Any], Sequence[Sequence[BanView]]], bool]
"""(what the attacker told, each node's bans)"""


@dataclass(frozen=True)
class Part:
    """Rounds of one kind, over all nodes. `rss_mb`: the most that each node's process had."""

    recorded: float
    participants: float
    rss_mb: tuple[float, ...]
    processor: float
    """Share of one that a node's process took."""


@dataclass(frozen=True)
class Report:
    """Before and meanwhile, and who was banned where."""

    quiet: Part
    attacked: Part
    rounds: int
    """So many of the attack."""
    done: dict[str, int]
    banned: dict[str, int]
    """Sort of harm -> nodes that had a key of it banned, or its address."""
    strangers: set[str]
    """Other keys and addresses that were."""

    def lines(self) -> Iterator[str]:
        """For people."""
        yield f"{'':12} recorded  participants  memory  processor"
        for name, part in (("quiet", self.quiet), ("attacked", self.attacked)):
            yield (
                f"{name:12} {part.recorded:8.1%}  {part.participants:12.1f}"
                f"  {max(part.rss_mb):.0f} MB  {part.processor:.3f}"
            )
        yield f"done to them in {self.rounds} rounds: {self.done}"
        yield f"nodes that banned: {self.banned}; banned besides: {self.strangers or 'nobody'}"


@dataclass(frozen=True)
class Stretch:
    """Rounds from `first` to before `end`, and what each node's process took meanwhile."""

    first: int
    end: int
    rss_mb: tuple[float, ...]
    processor: float


class Memory:
    """The largest resident set of each process, looked at twice a second."""

    def __init__(self, nodes: Sequence[RunningNode]) -> None:
        self._pids = [node.process.pid for node in nodes]
        self._ends = threading.Event()
        self.peaks_mb = [0.0 for _ in nodes]

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
            self.peaks_mb = list(map(max, self.peaks_mb, map(_read_rss_mb, self._pids)))


def _read_rss_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


class Attacker:
    """The other machine's only process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._lines: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def told(self) -> dict[str, Any]:
        """What it did by now."""
        if len(self._lines) < 2:
            return {"keys": {}, "done": {}}
        found: dict[str, Any] = json.loads(self._lines[-1])
        return found

    def wait_until_ready(self) -> None:
        """It is connected with everybody."""
        end_s = time.monotonic() + READY_S
        while not self._lines:
            assert self._process.poll() is None
            assert time.monotonic() < end_s
            time.sleep(0.1)

    def go(self) -> None:
        """Let it begin; a second time, let it end."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.append(line)


@contextmanager
def two_machines() -> Iterator[tuple[str, str]]:
    """Namespaces: that of the nodes, and that of who attacks them."""
    needs("ip")
    needs_root()
    nodes, evil = f"demo{os.getpid()}n", f"demo{os.getpid()}e"
    addresses = {nodes: [HOST], evil: list(SOURCES.values())}
    try:
        for name in addresses:
            _ip("netns", "add", name)
        _ip("link", "add", "wan0", "netns", nodes, "type", "veth", "peer", "wan0", "netns", evil)
        for name, hosts in addresses.items():
            for host in hosts:
                _ip("-n", name, "addr", "add", f"{host}/8", "dev", "wan0")
            for interface in ("lo", "wan0"):
                _ip("-n", name, "link", "set", interface, "up")
        yield nodes, evil
    finally:
        for name in addresses:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def _inside(namespace: str) -> tuple[str, ...]:
    return ("setsid", "ip", "netns", "exec", namespace)


@contextmanager
def started_swarm(folder: Path, namespace: str) -> Iterator[list[RunningNode]]:
    """Nodes that know each other, all of them members."""
    make_run(folder / "0", "--preset", "tiny", "--round-seconds", str(ROUND_S))
    command = (*_inside(namespace), *COMMAND)
    places = ("--listen", f"/ip4/{HOST}/tcp/0", "--metrics-address", "127.0.0.1:0", "--no-mdns")
    with ExitStack() as stack:
        line = ["start"]
        nodes: list[RunningNode] = []
        for number in range(NODES):
            starting = started(folder / str(number), *line, command=command, places=places)
            nodes.append(stack.enter_context(starting))
            line = nodes[0].invitation()
        for node in nodes:
            node.wait_for_status(lambda status: status.members == NODES)
        yield nodes


@contextmanager
def started_attacker(
    folder: Path,
    namespace: str,
    nodes: Sequence[RunningNode],
    sorts: Collection[str],
    nice: int,
) -> Iterator[Attacker]:
    """One that is ready."""
    arguments = [
        folder / "0" / "manifest.json",
        nice,
        json.dumps({sort: SOURCES[sort] for sort in sorts}),
    ]
    addresses = [node.status().addresses[0] for node in nodes]
    line = [sys.executable, "-m", "tests.e2e.attacker", *map(str, arguments), *addresses]
    with subprocess.Popen(
        [*_inside(namespace), *line],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            attacker = Attacker(process)
            attacker.wait_until_ready()
            yield attacker
        finally:
            process.kill()


def run_rounds(
    nodes: Sequence[RunningNode], rounds: int, has_enough: Callable[[], bool] = lambda: True
) -> Stretch:
    """So many whole rounds from now on, or more until `has_enough`."""
    begin_s, spent_s = time.monotonic(), _measure_cpu_s(nodes)
    with Memory(nodes).watched() as memory:
        first = nodes[0].status().round + 1
        end_s = time.monotonic() + rounds * ROUND_S + ENOUGH_S
        while (now := nodes[0].status().round) < first + rounds or not (
            has_enough() or time.monotonic() > end_s
        ):
            time.sleep(SAMPLE_S)
    share = (_measure_cpu_s(nodes) - spent_s) / (time.monotonic() - begin_s) / len(nodes)
    return Stretch(first, max(now, first + rounds), tuple(memory.peaks_mb), share)


def _measure_cpu_s(nodes: Sequence[RunningNode]) -> float:
    return sum(measure_cpu_seconds(node.process.pid) for node in nodes)


def summarise(seen: Sequence[Sequence[RoundView]], part: Stretch) -> Part:
    """Over all nodes."""
    rounds = range(part.first, part.end)
    views = [[view for view in of_node if view.round in rounds] for of_node in seen]
    recorded = [sum(bool(v.record) for v in of_node) / len(rounds) for of_node in views]
    participants = [v.participants if v.record else 0 for of_node in views for v in of_node]
    return Part(
        statistics.mean(recorded), statistics.median(participants), part.rss_mb, part.processor
    )


def attack(
    folder: Path,
    rounds: int,
    has_enough: Enough = lambda told, bans: True,
    sorts: Collection[str] = SORTS,
    nice: int = 19,
) -> Report:
    """Start a swarm, let it be for so many rounds, then have it attacked for as many.

    Or for more, until it `has_enough`. An address is banned for a minute: what was banned at any
    time counts.
    """
    with (
        two_machines() as (here, there),
        started_swarm(folder, here) as nodes,
        started_attacker(folder, there, nodes, sorts, nice) as attacker,
    ):
        bans: list[list[BanView]] = [[] for _ in nodes]

        def look() -> bool:
            for of_node, node in zip(bans, nodes, strict=True):
                of_node += node.ask(lambda client: client.bans())
            return has_enough(attacker.told, bans)

        quiet = run_rounds(nodes, rounds)
        attacker.go()
        attacked = run_rounds(nodes, rounds, look)
        look()
        attacker.go()
        time.sleep(2 * ROUND_S)  # what is late counts, too
        seen = [node.rounds() for node in nodes]
        told = attacker.told
    sorts = find_sorts(told)
    banned = [{name_ban(ban) for ban in of_node} for of_node in bans]
    return Report(
        quiet=summarise(seen, quiet),
        attacked=summarise(seen, attacked),
        rounds=attacked.end - attacked.first,
        done=told["done"],
        banned={
            sort: sum(any(sorts.get(name) == sort for name in of_node) for of_node in banned)
            for sort in SORTS
        },
        strangers=set[str]().union(*banned) - sorts.keys(),
    )


def find_sorts(told: dict[str, Any]) -> dict[str, str]:
    """Key or household of who attacks -> sort of harm."""
    keys = {key: sort for sort, keys in told["keys"].items() for key in keys}
    return keys | {f"{host}/32": sort for sort, host in SOURCES.items()}


def name_ban(ban: BanView) -> str:
    """As `demo-node peers` has it."""
    return encode_peer_id(ban.peer) if ban.peer else ban.address


@click.command()
@click.option("--rounds", default=60, show_default=True, help="Of each kind.")
@click.option("--nice", default=19, show_default=True, help="0: it takes the nodes' processors.")
@click.option("--sort", "sorts", multiple=True, type=click.Choice(SORTS), help="These only.")
def main(rounds: int, nice: int, sorts: tuple[str, ...]) -> None:
    """See above."""
    with tempfile.TemporaryDirectory(prefix="demo-hostile-") as folder:
        report = attack(Path(folder), rounds, sorts=sorts or SORTS, nice=nice)
    click.echo("\n".join(report.lines()))
    click.echo(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
