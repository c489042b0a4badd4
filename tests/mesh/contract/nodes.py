"""The meshes that the contract is held against, each made and ended in its own way."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from demo_node.mesh.guest import Guest
from demo_node.mesh.hivemind.backend import HivemindMesh
from demo_node.mesh.libp2p import Libp2pMesh
from demo_node.mesh.memory import MemoryNetwork
from demo_node.ports import Blob, BlobRequest, Mesh, Topic
from tests.mesh.hosts import RUN, seed
from tests.needs import needs_hivemind
from tests.waiting import wait_until

UP_S = 60.0
"""For what takes a second on a quiet machine."""


@dataclass
class Node:
    """A mesh, what it heard, what it holds, and how it judges."""

    mesh: Mesh
    stop: Callable[[], Awaitable[None]]
    heard: list[tuple[Topic, bytes, bytes]] = field(default_factory=list)
    held: dict[bytes, bytes] = field(default_factory=dict)
    verdict: bool = True
    answered: list[tuple[bytes, BlobRequest, int]] = field(default_factory=list)
    stuck: asyncio.Event | None = None
    """Set it, and no payload is given until it is."""

    @property
    def address(self) -> str:
        return self.mesh.addresses()[0]

    async def join(self) -> None:
        await self.mesh.join(RUN, self.on_gossip, self.on_blob, self.on_answered)

    def on_gossip(self, topic: Topic, peer: bytes, message: bytes) -> bool:
        self.heard.append((topic, peer, message))
        return self.verdict

    async def on_blob(self, peer: bytes, request: BlobRequest) -> bytes | None:
        if self.stuck is not None and request.kind is Blob.PAYLOAD:
            await self.stuck.wait()
        return self.held.get(request.key)

    def on_answered(self, peer: bytes, request: BlobRequest, size: int) -> None:
        self.answered.append((peer, request, size))


@contextlib.asynccontextmanager
async def made(backend: str, count: int) -> AsyncIterator[list[Node]]:
    """`count` meshes of a kind that know nobody; stopped when the block ends."""
    async with contextlib.AsyncExitStack() as stack:
        makers = {"memory": _make_memory, "libp2p": _make_libp2p, "hivemind": _make_hivemind}
        nodes = await makers[backend](count, stack)
        try:
            yield nodes
        finally:
            await asyncio.gather(*(node.stop() for node in nodes))


async def link(*pairs: tuple[Node, Node]) -> None:
    """Connect each pair, of nodes that have joined, until messages go both ways."""
    await asyncio.gather(*(a.mesh.connect(b.address) for a, b in pairs))

    def has_links(node: Node) -> bool:
        degree = sum(node in pair for pair in pairs)
        return all(node.mesh.mesh_peers(topic) >= degree for topic in Topic)

    await wait_until(lambda: all(has_links(node) for pair in pairs for node in pair), UP_S)


async def _make_memory(count: int, stack: contextlib.AsyncExitStack) -> list[Node]:
    network = MemoryNetwork()

    def make(number: int) -> Node:
        mesh = network.add(bytes([number]) * 32)

        async def stop() -> None:
            mesh.stop()

        return Node(mesh, stop)

    return [make(number + 1) for number in range(count)]


async def _make_libp2p(count: int, stack: contextlib.AsyncExitStack) -> list[Node]:
    guest = Guest()
    await guest.start()
    stack.push_async_callback(guest.stop)
    meshes = [Libp2pMesh(seed(number + 1), guest=guest) for number in range(count)]
    await asyncio.gather(*(mesh.start() for mesh in meshes))
    return [Node(mesh, mesh.stop) for mesh in meshes]


async def _make_hivemind(count: int, stack: contextlib.AsyncExitStack) -> list[Node]:
    needs_hivemind()
    meshes = [HivemindMesh(seed(number + 1), discovers=False) for number in range(count)]
    await asyncio.gather(*(mesh.start() for mesh in meshes))
    return [Node(mesh, mesh.stop) for mesh in meshes]
