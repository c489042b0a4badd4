"""Meshes for tests: several in one process, on loopback, sharing one trio run."""

import asyncio
import contextlib
import functools
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, ParamSpec

import uvloop

from demo_node.mesh.guest import Guest
from demo_node.mesh.libp2p import Libp2pMesh
from demo_node.ports import BlobRequest, Topic
from tests.waiting import wait_until

P = ParamSpec("P")
RUN = bytes(range(32))
TEST_S = 60


def on_uvloop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run an async test on a uvloop of its own, within TEST_S."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(TEST_S):
                await test(*args, **kwargs)

        uvloop.run(bounded())

    return run


@dataclass
class Host:
    """A mesh, what it heard, what it holds, and how it judges."""

    mesh: Libp2pMesh
    heard: list[tuple[Topic, bytes, bytes]] = field(default_factory=list)
    held: dict[bytes, bytes] = field(default_factory=dict)
    asked: list[tuple[bytes, BlobRequest]] = field(default_factory=list)
    verdict: Callable[[bytes], bool] = lambda message: True
    on_blob: Callable[[bytes, BlobRequest], Awaitable[bytes | None]] | None = None

    @property
    def address(self) -> str:
        return self.mesh.addresses()[0]

    def messages(self) -> list[bytes]:
        return [message for _, _, message in self.heard]

    async def join(self) -> None:
        await self.mesh.join(RUN, self._on_gossip, self.on_blob or self._on_blob)

    def _on_gossip(self, topic: Topic, peer: bytes, message: bytes) -> bool:
        self.heard.append((topic, peer, message))
        return self.verdict(message)

    async def _on_blob(self, peer: bytes, request: BlobRequest) -> bytes | None:
        self.asked.append((peer, request))
        return self.held.get(request.key)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def seed(number: int) -> bytes:
    return bytes([number]) * 32


@contextlib.asynccontextmanager
async def guests() -> AsyncIterator[Guest]:
    guest = Guest()
    await guest.start()
    try:
        yield guest
    finally:
        await guest.stop()


@contextlib.asynccontextmanager
async def hosts(
    count: int, *, join: bool = True, relays: int = 0, swarm_key: bytes = b""
) -> AsyncIterator[list[Host]]:
    """`count` meshes on free ports, joined to RUN, connected to nobody.

    The first `relays` of them carry everybody.
    """
    async with guests() as guest:
        made = [
            Host(Libp2pMesh(seed(i + 1), guest=guest, is_relay=i < relays, swarm_key=swarm_key))
            for i in range(count)
        ]
        for host in made[:relays]:
            host.mesh.carries = lambda peer: True
        await asyncio.gather(*(h.mesh.start() for h in made))
        try:
            if join:
                await asyncio.gather(*(h.join() for h in made))
            yield made
        finally:
            await asyncio.gather(*(h.mesh.stop() for h in made))


async def link(*pairs: tuple[Host, Host]) -> None:
    """Connect each pair and wait until gossip flows over it in both directions."""
    await asyncio.gather(*(a.mesh.connect(b.address) for a, b in pairs))
    hosts_ = {id(h): h for pair in pairs for h in pair}.values()
    degree = {id(h): sum(h in pair for pair in pairs) for h in hosts_}
    await wait_until(
        lambda: all(h.mesh.mesh_peers(t) >= degree[id(h)] for h in hosts_ for t in Topic)
    )


async def link_all(made: list[Host]) -> None:
    """Connect everybody with everybody."""
    await link(*((a, b) for i, a in enumerate(made) for b in made[:i]))
