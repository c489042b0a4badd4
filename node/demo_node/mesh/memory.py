"""A mesh without sockets: nodes of one process, links as functions. For tests and the simulator.

Runs on asyncio alone, so it works on a virtual-time loop. A message floods to every node that is
connected to a node that forwards it, as gossip would have it. What a link does to a message
(delay, loss, a cut) is asked of one callable, so that faults stay outside.
"""

import asyncio
from collections.abc import Callable, Sequence

from demo_node.ports import (
    BlobRequest,
    MeshCounters,
    NotHeld,
    OnBlob,
    OnGossip,
    PeerView,
    Topic,
    Unreachable,
)
from demo_protocol.errors import LocalFault
from demo_protocol.limits import GOSSIP_BYTES_MAX

Link = Callable[[bytes, bytes, int], float | None]
"""(from, to, bytes) -> seconds until it arrives, or None where it never does."""


def quick_link(_source: bytes, _target: bytes, _size: int) -> float | None:
    """Five milliseconds, whatever the size."""
    return 0.005


class MemoryNetwork:
    """The wires between memory meshes. `link` may be replaced while it runs."""

    def __init__(self, link: Link = quick_link) -> None:
        self.link = link
        self._meshes: dict[bytes, MemoryMesh] = {}

    def create(self, peer: bytes) -> "MemoryMesh":
        """A mesh for the node with this public key; an older one of the same key is gone."""
        mesh = self._meshes[peer] = MemoryMesh(self, peer)
        return mesh

    def remove(self, peer: bytes) -> None:
        """The node is gone, without a word."""
        mesh = self._meshes.pop(peer, None)
        if mesh is not None:
            mesh.close()

    def find(self, peer: bytes) -> "MemoryMesh | None":
        """The mesh of a node that is up."""
        return self._meshes.get(peer)

    async def carry(self, source: bytes, target: bytes, size: int) -> "MemoryMesh":
        """Wait as long as the link takes. Raises Unreachable where nothing arrives."""
        delay_s = self.link(source, target, size)
        if delay_s is None:
            raise Unreachable("the link is cut")
        await asyncio.sleep(delay_s)
        mesh = self.find(target)
        if mesh is None:
            raise Unreachable("the peer is gone")
        return mesh


class MemoryMesh:
    """Implements ports.Mesh."""

    def __init__(self, network: MemoryNetwork, peer: bytes) -> None:
        self._network = network
        self._peer = peer
        self._on_gossip: OnGossip | None = None
        self._on_blob: OnBlob | None = None
        self._connected: dict[bytes, bool] = {}
        self._seen: set[tuple[Topic, bytes]] = set()
        self._bytes_in = 0
        self._bytes_out = 0

    @property
    def peer(self) -> bytes:
        """Our own public key."""
        return self._peer

    def addresses(self) -> Sequence[str]:
        """A name that `connect` understands."""
        return [f"/memory/{self._peer.hex()}"]

    def peers(self) -> Sequence[PeerView]:
        """Connected nodes that are up."""
        return [
            PeerView(peer, f"/memory/{peer.hex()}", outbound)
            for peer, outbound in self._connected.items()
            if self._network.find(peer) is not None
        ]

    def counters(self) -> MeshCounters:
        """Bytes of messages and blobs; there are no others."""
        return MeshCounters(self._bytes_in, self._bytes_out)

    async def join(self, run_id: bytes, on_gossip: OnGossip, on_blob: OnBlob) -> None:
        """Begin to hear and to serve."""
        self._on_gossip, self._on_blob = on_gossip, on_blob

    async def connect(self, address: str) -> bytes:
        """Connect both ways."""
        target = bytes.fromhex(address.removeprefix("/memory/"))
        other = await self._network.carry(self._peer, target, 0)
        self._connected.setdefault(target, True)
        other._connected.setdefault(self._peer, False)
        return target

    async def publish(self, topic: Topic, message: bytes) -> None:
        """Send to everybody connected, who forward it if they accept it."""
        if len(message) > GOSSIP_BYTES_MAX:
            raise LocalFault(f"{len(message)} bytes are too many for gossip")
        self._seen.add((topic, message))
        self._forward(topic, message, exclude=self._peer)

    async def request(
        self, peer: bytes, request: BlobRequest, *, bytes_max: int, timeout_s: float
    ) -> bytes:
        """Ask, and wait for the answer to cross the link."""
        try:
            async with asyncio.timeout(timeout_s):
                other = await self._network.carry(self._peer, peer, len(request.key))
                if other._on_blob is None:
                    raise NotHeld("the peer serves nothing")
                answer = await other._on_blob(self._peer, request)
                if answer is None:
                    raise NotHeld("the peer does not hold it")
                await self._network.carry(peer, self._peer, len(answer))
        except TimeoutError:
            raise Unreachable("no answer in time") from None
        if len(answer) > bytes_max:
            raise Unreachable("the answer is longer than it may be")
        other._bytes_out += len(answer)
        self._bytes_in += len(answer)
        return answer

    def close(self) -> None:
        """Hear and serve no more."""
        self._on_gossip = self._on_blob = None

    def _forward(self, topic: Topic, message: bytes, exclude: bytes) -> None:
        loop = asyncio.get_running_loop()
        for target in self._connected:
            if target == exclude:
                continue
            self._bytes_out += len(message)
            delay_s = self._network.link(self._peer, target, len(message))
            if delay_s is not None:
                loop.call_later(delay_s, self._deliver, target, topic, message)

    def _deliver(self, target: bytes, topic: Topic, message: bytes) -> None:
        other = self._network.find(target)
        if other is not None:
            other._receive(topic, self._peer, message)

    def _receive(self, topic: Topic, sender: bytes, message: bytes) -> None:
        self._bytes_in += len(message)
        if self._on_gossip is None or (topic, message) in self._seen:
            return
        self._seen.add((topic, message))
        if self._on_gossip(topic, sender, message):
            self._forward(topic, message, exclude=sender)
