"""What gossip messages cost a node: python -m tests.mesh.gossip_costs [--quick] [HOLD_MS]

The node runs alone in this process, so that its processor time is the process's; its peers share
a process of their own. Sizes take turns, so that whatever else the machine does meets all alike:
compare the rows of one run, not the times of two. With HOLD_MS single headers are sent, on links
that send at most one frame in so long (tests/mesh/holding.py).
"""

import asyncio
import contextlib
import statistics
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import click
import uvloop

from demo_node.mesh.bounds import GOSSIP_DEGREE
from demo_node.mesh.libp2p import Libp2pMesh
from demo_node.ports import Direction, Topic, Use
from tests.mesh.holding import HoldingQueue, make_queues
from tests.mesh.hosts import Host, hosts, seed
from tests.waiting import wait_until

HEADER_BYTES: Final = 230
"""227, and tag and length in a list."""

BUNDLES: Final = (1, 4, 16, 64)
"""Headers in a message."""

MESSAGES: Final = 48
GAP_S: Final = 0.016
"""One at a time, 62 a second: 32 headers in half a second."""

AFTER_S: Final = 0.5
"""For what is still on its way after the last message."""

REPEATS: Final = 5


@dataclass(frozen=True)
class Scene:
    """How many peers the node has, how many others repeat what one of them says, who speaks."""

    name: str
    peers: int
    repeats: int = 0
    is_ours: bool = False


SCENES: Final = (
    Scene("received", 1),
    Scene(f"received, forwarded to {GOSSIP_DEGREE - 1}", GOSSIP_DEGREE),
    Scene("the same, and 4 duplicates", GOSSIP_DEGREE, repeats=GOSSIP_DEGREE - 2),
    Scene(f"published to {GOSSIP_DEGREE}", GOSSIP_DEGREE, is_ours=True),
)


@dataclass(frozen=True)
class Cost:
    """What a message cost the node: milliseconds of processor time, and bytes."""

    cpu_ms: float
    bytes_in: float


async def say(speakers: list[Host], size: int, repeats: int = 0) -> None:
    """Publish MESSAGES messages of `size` bytes, the speakers in turns; `repeats` others repeat."""
    for number in range(MESSAGES):
        first, *others = speakers[number % len(speakers) :] + speakers[: number % len(speakers)]
        await first.mesh.publish(Topic.PROPOSALS, number.to_bytes(2) + bytes(size - 2))
        *_, message = first.mesh._gossip.router.mcache.msgs.values()
        for other in others[:repeats]:
            await asyncio.sleep(GAP_S / (repeats + 1))
            router, me = other.mesh._gossip.router, other.mesh._host.get_id()
            await other.mesh._guest.call(router.publish, me, message)
        await asyncio.sleep(GAP_S / (repeats + 1))


async def be_peers(address: str, count: int, repeats: int) -> None:
    """The other process: connect to the node, then say what each line of input asks for."""
    async with hosts(count) as made:
        await asyncio.gather(*(host.mesh.connect(address) for host in made))
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            await say(made, int(line), repeats)


@contextlib.asynccontextmanager
async def peers_of(node: Host, scene: Scene) -> AsyncIterator[Callable[[int], None]]:
    """The peers, in a process of their own; what is given makes them speak."""
    held, told = HoldingQueue.hold_s * 1e3, (node.address, scene.peers, scene.repeats)
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.mesh.gossip_costs", str(held)),
        *("--speak-to", *map(str, told)),
        stdin=PIPE,
    )
    assert child.stdin is not None
    speak = child.stdin

    def ask(size: int) -> None:
        speak.write(b"%d\n" % size)

    try:
        await wait_until(lambda: node.mesh.mesh_peers(Topic.PROPOSALS) == scene.peers)
        yield ask
    finally:
        speak.close()
        await child.wait()


async def measure(scene: Scene, bundles: Sequence[int], repeats: int) -> dict[int, Cost]:
    """By headers in a message: medians of what it cost, less what as long a silence did."""
    node = Host(Libp2pMesh(seed(200)))
    await node.mesh.start()
    await node.join()
    async with peers_of(node, scene) as ask:

        async def take(headers: int) -> Cost:
            """All the messages of a turn; none for 0 headers."""
            node.heard.clear()
            begin_s, cpu_s, came = time.monotonic(), time.process_time(), _came(node)
            if headers and scene.is_ours:
                await say([node], headers * HEADER_BYTES)
            elif headers:
                ask(headers * HEADER_BYTES)
            await asyncio.sleep(begin_s + MESSAGES * GAP_S + AFTER_S - time.monotonic())
            if headers and not scene.is_ours:  # not sooner: to look is work, too
                await wait_until(lambda: len(node.heard) == MESSAGES)
            spent_ms = (time.process_time() - cpu_s) * 1e3
            return Cost(spent_ms / MESSAGES, (_came(node) - came) / MESSAGES)

        await take(1)  # the first messages are dearer
        turns = [{n: await take(n) for n in (0, *bundles)} for _ in range(repeats)]
    await node.mesh.stop()
    return {
        headers: Cost(
            statistics.median(turn[headers].cpu_ms - turn[0].cpu_ms for turn in turns),
            statistics.median(turn[headers].bytes_in - turn[0].bytes_in for turn in turns),
        )
        for headers in bundles
    }


def _came(node: Host) -> int:
    return node.mesh.counters().traffic.get((Direction.IN, Use.GOSSIP), 0)


def hold(hold_ms: float) -> None:
    """Let links send at most one frame in so long. 0: as they do in the node."""
    if hold_ms:
        HoldingQueue.hold_s = hold_ms / 1e3
        make_queues(HoldingQueue)


async def measure_all(scenes: Sequence[Scene], bundles: Sequence[int], repeats: int) -> None:
    """The table."""
    click.echo("| a message | headers | CPU, ms | beside a single | a header, ms | bytes in |")
    for scene in scenes:
        costs = await measure(scene, bundles, repeats)
        for headers, cost in costs.items():
            ratio = cost.cpu_ms / costs[1].cpu_ms
            click.echo(
                f"| {scene.name} | {headers} | {cost.cpu_ms:.2f} | {ratio:.2f} |"
                f" {cost.cpu_ms / headers:.2f} | {cost.bytes_in:,.0f} |"
            )


@click.command
@click.argument("hold_ms", default=0.0)
@click.option("--quick", is_flag=True)
@click.option("--speak-to", nargs=3, type=(str, int, int), hidden=True)
def main(hold_ms: float, quick: bool, speak_to: tuple[str, int, int] | None) -> None:
    """Measure; or be the peers, and how many of them repeat."""
    hold(hold_ms)
    if speak_to:
        uvloop.run(be_peers(*speak_to))
        return
    bundles = (1,) if hold_ms else BUNDLES
    scenes, repeats = (SCENES[:1], 1) if quick else (SCENES, REPEATS)
    uvloop.run(measure_all(scenes, bundles, repeats))


if __name__ == "__main__":
    main()
