"""One run of `demo-node swarm`, watched from outside while it lasts."""

import asyncio
import contextlib
import json
import re
import subprocess
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from demo_node.cli.swarm.links import parse_port
from demo_node.control.client import NotRunning, Refused, control_client
from demo_node.views import RoundView, StatusView
from tests.cli.command import COMMAND
from tests.e2e.audit import Books, read_books, replay
from tests.e2e.processes import marked_environment, measure_cpu_seconds, nothing_left

NODES, ROUNDS = 4, 14
LOOK_S = 1.0
DEADLINE_S = 280.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One node at one moment, as it and the kernel described it."""

    status: StatusView
    rounds: Sequence[RoundView]
    metrics: dict[str, float]
    cpu_s: float
    remote_ports: frozenset[int]


@dataclass(slots=True)
class SwarmRun:
    """What is known of a swarm that has ended."""

    folder: Path
    looks: list[list[Look]] = field(default_factory=lambda: [[] for _ in range(NODES)])
    exit_code: int | None = None
    stdout: str = ""
    stderr: str = ""

    @property
    def document(self) -> dict[str, Any]:
        """The last line of standard output."""
        found: dict[str, Any] = json.loads(self.stdout.splitlines()[-1])
        return found

    def datadir(self, index: int) -> Path:
        """Data folder of one node."""
        return self.folder / "nodes" / f"node{index}"

    @property
    def last_looks(self) -> list[Look]:
        """Each node as it was last seen."""
        return [looks[-1] for looks in self.looks]


@dataclass(frozen=True)
class Audit:
    """The run replayed from what one node kept."""

    books: Books
    head: bytes

    @cached_property
    def digests(self) -> dict[bytes, bytes]:
        """The fingerprint of the parameters after every record up to the head, genesis first."""
        learner, path = self.books.make_learner(), self.books.path_to(self.head)
        genesis = learner.load(self.books.run_id, None)
        after = replay(learner, [self.books.order(record) for record in path])
        names = [self.books.run_id, *(record.hash for record in path)]
        return dict(zip(names, [genesis, *after], strict=True))


def audit(run: SwarmRun, index: int) -> Audit:
    """Read one node's folder; the head is what it last showed."""
    return Audit(read_books(run.datadir(index)), run.last_looks[index].status.head)


def run_swarm(folder: Path, *flags: str) -> SwarmRun:
    """Run a swarm to its end, looking at its nodes all the while. `flags` come last, and win."""
    run = SwarmRun(folder)
    shape = ("--nodes", str(NODES), "--rounds", str(ROUNDS))
    with nothing_left(folder):
        run.exit_code = watch_swarm(folder, (*shape, *flags), lambda: _look_at_all(run))
    run.stdout = (folder / "stdout").read_text()
    run.stderr = (folder / "stderr").read_text()
    return run


def watch_swarm(folder: Path, flags: Sequence[str], look: Callable[[], object]) -> int | None:
    """Run a swarm to its end, calling `look` all the while; its exit code, None where it hung.

    The nodes' folders are kept in `folder` / nodes; beside it is what the command printed. All its
    processes have the mark `folder`; those that it leaves are the caller's to find and to end.
    """
    command = [*COMMAND, "swarm", "--json", "--keep", str(folder / "nodes"), *flags]
    with (
        (folder / "stdout").open("w") as stdout,
        (folder / "stderr").open("w") as stderr,
        subprocess.Popen(
            command, stdout=stdout, stderr=stderr, env=marked_environment(folder)
        ) as swarm,
    ):
        try:
            for _ in range(int(DEADLINE_S / LOOK_S)):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return swarm.wait(timeout=LOOK_S)
                look()
        finally:
            swarm.kill()
    return None


def _look_at_all(run: SwarmRun) -> None:
    async def look_at_all() -> None:
        await asyncio.gather(*(_look(run, index) for index in range(NODES)))

    asyncio.run(look_at_all())


async def _look(run: SwarmRun, index: int) -> None:
    """One more look at a node; none where it is not up, or a round ended meanwhile."""
    datadir = run.datadir(index)
    with contextlib.suppress(NotRunning, Refused, OSError, psutil.Error):
        async with control_client(datadir) as client:
            before = await client.rounds(ROUNDS + 10)
            metrics = await asyncio.to_thread(read_metrics, find_metrics_url(datadir / "node.log"))
            after = await client.rounds(ROUNDS + 10)
            status = await client.status()
        if [view.round for view in before] != [view.round for view in after]:
            return
        look = Look(
            status=status,
            rounds=after,
            metrics=metrics,
            cpu_s=measure_cpu_seconds(status.pid),
            remote_ports=find_remote_ports(status.pid),
        )
        run.looks[index].append(look)


def find_metrics_url(log: Path) -> str:
    """Where a node says in its log that its metrics are. Raises OSError while it has not."""
    match = re.search(r'"url": ?"([^"]+)"', log.read_text())
    if match is None:
        raise FileNotFoundError(log)
    return match[1]


def read_metrics(url: str) -> dict[str, float]:
    """Every series of /metrics with its value."""
    with urllib.request.urlopen(url, timeout=10) as reply:
        lines = reply.read().decode().splitlines()
    pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {series: float(value) for series, _, value in pairs}


def find_remote_ports(pid: int) -> frozenset[int]:
    """Ports to which a process holds established TCP connections."""
    connections = psutil.Process(pid).net_connections(kind="tcp")
    return frozenset(c.raddr.port for c in connections if c.status == "ESTABLISHED" and c.raddr)


def mesh_port(status: StatusView) -> int:
    """Where a node listens for peers."""
    return parse_port(status.addresses[0])
