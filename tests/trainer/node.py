"""A trainer, and what the daemon will have of it."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path

import uvloop

from demo_node.trainer.client import TrainerClient
from demo_node.trainer.settings import (
    TrainerSettings,
)
from demo_node.trainer.supervisor import Supervisor
from demo_protocol.manifest import Manifest, encode_manifest
from tests.builders import manifest
from tests.trainer.builders import GENESIS, write_corpus


class Node:
    """What the daemon will have of a trainer."""

    def __init__(self, folder: Path, run: Manifest) -> None:
        self.events: list[tuple[str, dict[str, object]]] = []
        settings = TrainerSettings(
            manifest=encode_manifest(run), corpus=write_corpus(folder, run), device="cpu", threads=1
        )
        self.ahead_ms = 0
        """How far the node's clock is ahead of this machine's."""
        self.supervisor = Supervisor(settings, self.on_event)
        self.client = TrainerClient(self.supervisor, self.now_ms)

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000 + self.ahead_ms

    def on_event(self, name: str, **fields: object) -> None:
        self.events.append((name, fields))

    def count(self, name: str) -> int:
        return sum(name == seen for seen, _ in self.events)


@asynccontextmanager
async def running(folder: Path, run: Manifest) -> AsyncIterator[Node]:
    """A node whose trainer has state 0."""
    node = Node(folder, run)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(node.supervisor.run())
        await node.client.load(GENESIS, None)
        yield node
        task.cancel()


def with_node(
    folder: Path, test: Callable[[Node], Coroutine[None, None, None]], run: Manifest | None = None
) -> None:
    async def main() -> None:
        async with running(folder, run or manifest()) as node:
            await test(node)

    uvloop.run(main())
