"""What the mesh moves, and how soon a header is heard: `demo-node bench mesh`.

Every node is a process of its own, as in life. All pull from all: as daemons do it (request by
hash, count, pace, check, hold for others), and over bare streams of the same library. Both sides
stay connected and take turns, so whatever else the machine does meets both: what counts is their
ratio, and the processor's seconds.
"""

import asyncio
import contextlib
import itertools
import json
import os
import statistics
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from demo_node.bench.slow_link import HOST, slow_link

HEADERS: Final = 20
"""Headers that are timed, for each delay."""

HEADER_BYTES: Final = 230

HEADER_GAP_S: Final = 0.25

HEARD_S: Final = 10.0
"""The last header gets so long to come to everybody."""

LINKS_S: Final = 20.0
"""So long the gossip mesh may take until everybody has a link."""

_TICKS: Final = os.sysconf("SC_CLK_TCK")


class Engine(StrEnum):
    """What carries the bytes."""

    DAEMON = "daemon"
    HIVEMIND = "hivemind"  # a daemon whose mesh is that
    BARE = "bare"


@dataclass(frozen=True, slots=True)
class Turn:
    """One engine's all-to-all."""

    bytes: int
    seconds: float
    cpu_s: float | None
    """Of all nodes and what they started; None where the system does not say."""

    @property
    def mb_per_s(self) -> float:
        """Of all nodes together, in millions of bytes."""
        return self.bytes / self.seconds / 1e6

    @property
    def cpu_s_per_gb(self) -> float | None:
        """Both ends together."""
        return None if self.cpu_s is None else self.cpu_s / self.bytes * 1e9


@dataclass(frozen=True, slots=True)
class Transfer:
    """An engine's turns; figures are their medians."""

    engine: Engine
    nodes: int
    size: int
    turns: Sequence[Turn]

    @property
    def mb_per_s(self) -> float:
        """Of all nodes together."""
        return statistics.median(turn.mb_per_s for turn in self.turns)

    @property
    def cpu_s_per_gb(self) -> float | None:
        """Of all nodes together; None where the system does not say."""
        told = [turn.cpu_s_per_gb for turn in self.turns if turn.cpu_s_per_gb is not None]
        return statistics.median(told) if told else None


@dataclass(frozen=True, slots=True)
class Propagation:
    """How long headers took to come to all other nodes, where a link takes `delay_ms` one way."""

    engine: Engine
    nodes: int
    delay_ms: float
    times_ms: Sequence[float]
    """Of each header at each node that heard it."""
    awaited: int
    """How many there would be if all heard all."""

    @property
    def p50_ms(self) -> float:
        """Half of them came sooner."""
        return statistics.median(self.times_ms)

    @property
    def p95_ms(self) -> float:
        """One in twenty came later."""
        return statistics.quantiles(self.times_ms, n=20)[-1]


class Node:
    """A process of `bench.mesh_child`."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def ask(self, what: str, **order: Any) -> Any:
        """Have it do something; what it answers."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": what, **order}).encode() + b"\n")
        line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a node of the benchmark ended: {await self._process.wait()}")
        return json.loads(line)

    def measure_cpu_s(self) -> float:
        """Of it and all that it started. Raises OSError where the system does not say."""
        return sum(_list_cpu_s(self._process.pid))

    async def stop(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(HEARD_S):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


@contextlib.asynccontextmanager
async def connected_nodes(
    engine: Engine, count: int, delay_s: float = 0.0
) -> AsyncIterator[list[Node]]:
    """So many nodes, each connected with every other, by links that take `delay_s` one way."""
    async with contextlib.AsyncExitStack() as stack:
        nodes = []
        for _ in range(count):
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "demo_node.bench.mesh_child", engine),
                stdin=PIPE,
                stdout=PIPE,
                start_new_session=True,  # what it starts is found by its session
            )
            node = Node(process)
            stack.push_async_callback(node.stop)
            nodes.append(node)
        addresses = await asyncio.gather(*(node.ask("start") for node in nodes))
        if delay_s:
            addresses = [await _lengthen(stack, address, delay_s) for address in addresses]
        for number, node in enumerate(nodes):
            await node.ask("connect", addresses=addresses[:number])
        yield nodes


async def _lengthen(stack: contextlib.AsyncExitStack, address: str, delay_s: float) -> str:
    """The same address, further away."""
    parts = address.split("/")
    port = await stack.enter_async_context(slow_link(int(parts[4]), delay_s))
    return "/".join(["", "ip4", HOST, "tcp", str(port), *parts[5:]])


async def measure_transfers(
    engines: Sequence[Engine], nodes: int, size: int, turns: int, tell: Callable[[str], None]
) -> list[Transfer]:
    """All pull `size` bytes from all, engine by engine, again and again."""
    async with contextlib.AsyncExitStack() as stack:
        sides = {
            engine: await stack.enter_async_context(connected_nodes(engine, nodes))
            for engine in engines
        }
        found: dict[Engine, list[Turn]] = {engine: [] for engine in engines}
        for number in range(turns + 1):
            for engine, side in sides.items():
                turn = await take_turn(side, size)
                if number:  # the first fills caches and windows
                    found[engine].append(turn)
                    tell(f"{engine}, turn {number}: {turn.mb_per_s:.1f} MB/s")
    return [Transfer(engine, nodes, size, found[engine]) for engine in engines]


async def take_turn(nodes: Sequence[Node], size: int) -> Turn:
    """Everybody pulls from everybody else, at once."""
    names = await asyncio.gather(*(node.ask("hold", size=size) for node in nodes))
    before_s = _measure_cpu_s(nodes)
    spans = await asyncio.gather(
        *(
            node.ask("pull", names=[*names[:number], *names[number + 1 :]], size=size)
            for number, node in enumerate(nodes)
        )
    )
    after_s = _measure_cpu_s(nodes)
    return Turn(
        bytes=len(nodes) * (len(nodes) - 1) * size,
        seconds=max(end_s for _, end_s in spans) - min(begin_s for begin_s, _ in spans),
        cpu_s=None if before_s is None or after_s is None else after_s - before_s,
    )


async def measure_propagation(engine: Engine, count: int, delay_ms: float) -> Propagation:
    """Headers by one node after the other, and when each of the others heard them."""
    async with connected_nodes(engine, count, delay_ms / 1e3) as nodes:
        await _wait_for_links(nodes)
        said = {}
        for number, node in zip(range(HEADERS), itertools.cycle(nodes), strict=False):
            said[str(number)] = await node.ask("publish", message=f"{number:<{HEADER_BYTES}}")
            await asyncio.sleep(HEADER_GAP_S)
        awaited = HEADERS * (count - 1)
        heard: list[tuple[str, float]] = []
        for _ in range(int(HEARD_S / HEADER_GAP_S)):
            heard = [each for node in nodes for each in await node.ask("heard")]
            if len(heard) >= awaited:
                break
            await asyncio.sleep(HEADER_GAP_S)
        times_ms = [(at_s - said[number]) * 1e3 for number, at_s in heard]
        return Propagation(engine, count, delay_ms, times_ms, awaited)


async def _wait_for_links(nodes: Sequence[Node]) -> None:
    """Until the gossip mesh reaches everybody by as many links as it wants."""
    wanted = min(4, len(nodes) - 1)
    for _ in range(int(LINKS_S / HEADER_GAP_S)):
        if min([await node.ask("links") for node in nodes]) >= wanted:
            return
        await asyncio.sleep(HEADER_GAP_S)
    raise RuntimeError(f"no gossip mesh of {wanted} links each within {LINKS_S:.0f} s")


def _measure_cpu_s(nodes: Sequence[Node]) -> float | None:
    try:
        return sum(node.measure_cpu_s() for node in nodes)
    except OSError:  # no /proc here
        return None


def _list_cpu_s(session: int) -> list[float]:
    """Processor time of each process of a session. Raises OSError where there is no /proc."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            # After the name, which may hold anything: state, parent, group, session, ...
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session:
                found.append((int(fields[11]) + int(fields[12])) / _TICKS)
    return found
