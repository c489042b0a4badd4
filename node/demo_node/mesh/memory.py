"""A mesh inside one process, for tests and the simulator; asyncio only, as for a virtual clock."""

import asyncio
import contextlib
import functools
from collections import Counter
from dataclasses import dataclass
from typing import Final

from demo_node.mesh.account import USES, Totals
from demo_node.mesh.bounds import COPIES_AT_ONCE, TOPIC_BYTES_MAX
from demo_node.mesh.guard import Guard
from demo_node.mesh.memory_links import Cut, DelayS, Lost, MemoryLinks
from demo_node.mesh.peer_id import encode_peer_id
from demo_node.mesh.tally import Tally
from demo_node.ports import (
    BanView,
    Blob,
    BlobRequest,
    Busy,
    DialResult,
    Direction,
    MeshCounters,
    NotHeld,
    Offence,
    OnAnswered,
    OnBlob,
    OnGossip,
    OnPiece,
    OnWait,
    PeerChange,
    PeerView,
    Topic,
    Unreachable,
    Use,
    ignore_answered,
    ignore_piece,
)
from demo_protocol.errors import LocalFault

SEEN_MAX: Final = 4096
"""Messages a node remembers to know duplicates; the oldest are forgotten first."""


@dataclass(frozen=True, slots=True)
class _Message:
    """Named by origin and number, as gossipsub does: publishing equal bytes again is another."""

    origin: bytes
    number: int
    topic: Topic
    content: bytes


class MemoryNetwork(MemoryLinks):
    """Who is there, and the links between them."""

    def __init__(
        self,
        *,
        delay_s: DelayS = lambda sender, receiver, size: 0.0,
        is_lost: Lost = lambda sender, receiver, size: False,
        is_cut: Cut = lambda sender, receiver: False,
    ) -> None:
        super().__init__(delay_s=delay_s, is_lost=is_lost, is_cut=is_cut)
        self._meshes: dict[bytes, MemoryMesh] = {}
        self._at: dict[str, MemoryMesh] = {}
        self._published = 0

    def add(self, peer: bytes) -> "MemoryMesh":
        """A mesh for this public key, connected to nobody. Takes the place of an earlier one."""
        if peer in self._meshes:
            self._meshes[peer].stop()
        mesh = self._meshes[peer] = MemoryMesh(self, peer)
        self._at[mesh.addresses()[0]] = mesh
        return mesh

    def find(self, peer: bytes) -> "MemoryMesh | None":
        """The mesh of a peer, unless it was stopped."""
        return self._meshes.get(peer)

    def find_address(self, address: str) -> "MemoryMesh | None":
        """The mesh at an address, unless it was stopped."""
        return self._at.get(address)

    def connect_all(self) -> None:
        """Link every mesh with every other."""
        for mesh in self._meshes.values():
            for other in self._meshes.values():
                if mesh is not other:
                    mesh.link(other.peer, outbound=True)
                    other.link(mesh.peer, outbound=False)

    def remove(self, mesh: "MemoryMesh") -> None:
        """Drop a mesh and its links."""
        if self._meshes.get(mesh.peer) is mesh:
            del self._meshes[mesh.peer]
            del self._at[mesh.addresses()[0]]
            for other in self._meshes.values():
                other.unlink(mesh.peer)

    def next_number(self) -> int:
        """A number no message had before, not of an earlier mesh of the same key either."""
        self._published += 1
        return self._published


class MemoryMesh:
    """`ports.Mesh` over a MemoryNetwork. Gossip floods all links."""

    def __init__(self, network: MemoryNetwork, peer: bytes) -> None:
        self.links: dict[bytes, bool] = {}
        """Connected peers, in order of connecting, and whether we dialled."""
        self._network = network
        self._peer = peer
        self._address = f"/memory/{peer.hex()[:8]}/p2p/{encode_peer_id(peer)}"
        self._on_gossip: OnGossip | None = None
        self._on_blob: OnBlob | None = None
        self._on_answered: OnAnswered = ignore_answered
        self._seen: dict[tuple[bytes, int], None] = {}
        self._totals = Totals()
        self._tally = Tally()
        self._changes = Counter[PeerChange]()
        self._serving = 0
        self._sending: dict[bytes, asyncio.Semaphore] = {}
        self.guard = Guard(
            peer,
            close=self._close,
            now_s=lambda: asyncio.get_running_loop().time(),
        )

    @property
    def peer(self) -> bytes:
        """Our own public key."""
        return self._peer

    def addresses(self) -> list[str]:
        """The one address others can dial."""
        return [self._address]

    def peers(self) -> list[PeerView]:
        """Who is connected now."""
        return [
            PeerView(peer, other.addresses()[0], outbound)
            for peer, outbound in self.links.items()
            if (other := self._network.find(peer)) and not self._network.is_cut(self._peer, peer)
        ]

    def counters(self) -> MeshCounters:
        """What was done since start; bytes of messages and blobs have no framing here."""
        traffic = dict(self._totals.bytes)
        return MeshCounters(
            sum(size for (direction, _), size in traffic.items() if direction is Direction.IN),
            sum(size for (direction, _), size in traffic.items() if direction is Direction.OUT),
            traffic=traffic,
            pulls=dict(self._tally.pulls),
            dials=dict(self._tally.dials),
            changes=dict(self._changes),
            offences=dict(self.guard.offences),
        )

    def blame(self, peer: bytes, offence: Offence) -> None:
        """The peer did what no honest one does: lower its standing, ban it where that is enough."""
        self.guard.blame(peer, offence)

    def bans(self) -> list[BanView]:
        """Who is kept out now."""
        return self.guard.bans()

    def ban(self, peer: bytes, seconds: float) -> None:
        """End the link with it and keep it out for so long."""
        self.guard.ban(peer, seconds)

    def forgive(self, peer: bytes = b"", host: str = "") -> bool:
        """Hold nothing against a key any more; False where nothing was. Nobody has an address."""
        return self.guard.forgive(peer, host)

    def _close(self, peer: bytes) -> tuple[str, ...]:
        other = self._network.find(peer)
        if other is not None:
            other.unlink(self._peer)
        self.unlink(peer)
        return ()

    def serving(self) -> int:
        """Requests of peers that are being answered."""
        return self._serving

    def mesh_peers(self, topic: Topic) -> int:
        """Links a message of this topic goes out on."""
        return len(self.peers())

    async def join(
        self,
        run_id: bytes,
        on_gossip: OnGossip,
        on_blob: OnBlob,
        on_answered: OnAnswered = ignore_answered,
    ) -> None:
        """Begin to take part."""
        if self._on_gossip is not None:
            raise LocalFault("a run was joined before")
        self._on_gossip = on_gossip
        self._on_blob, self._on_answered = on_blob, on_answered

    async def connect(self, address: str) -> bytes:
        """Link with the mesh at an address; return its key. Raises Unreachable."""
        other = self._network.find_address(address)
        if other is None or other is self or self._network.is_cut(self._peer, other.peer):
            self._tally.dials[DialResult.FAILED] += 1
            raise Unreachable(f"nobody answers at {address}")
        if self.guard.is_banned(other.peer) or other.guard.is_banned(self._peer):
            self._tally.dials[DialResult.FAILED] += 1
            raise Unreachable(f"{address} is banned here, or bans us")
        self._tally.dials[DialResult.CONNECTED] += 1
        self.link(other.peer, outbound=True)
        other.link(self._peer, outbound=False)
        return other.peer

    def link(self, peer: bytes, *, outbound: bool) -> None:
        """Be connected to a peer, if we are not."""
        if peer not in self.links:
            self.links[peer] = outbound
            self._changes[PeerChange.CONNECTED] += 1

    def unlink(self, peer: bytes) -> None:
        """Be connected to a peer no more, if we were."""
        if self.links.pop(peer, None) is not None:
            self._changes[PeerChange.DISCONNECTED] += 1

    async def publish(self, topic: Topic, message: bytes) -> None:
        """Send to every link. Raises LocalFault over the size limit."""
        if self._on_gossip is None:
            raise LocalFault("no run was joined")
        if len(message) > TOPIC_BYTES_MAX[topic]:
            raise LocalFault(f"{topic}: {len(message)} bytes, at most {TOPIC_BYTES_MAX[topic]}")
        gossip = _Message(self._peer, self._network.next_number(), topic, message)
        self._remember(gossip)
        self._forward(gossip, self._peer)

    async def request(
        self,
        peer: bytes,
        request: BlobRequest,
        *,
        bytes_max: int,
        timeout_s: float,
        on_piece: OnPiece | None = None,
        on_wait: OnWait | None = None,
    ) -> bytes:
        """Pull a blob from a connected peer. Raises Unreachable or NotHeld."""
        with self._tally.pull(request.kind):
            return await self._pull(peer, request, bytes_max, timeout_s, on_piece or ignore_piece)

    async def _pull(
        self,
        peer: bytes,
        request: BlobRequest,
        bytes_max: int,
        timeout_s: float,
        on_piece: OnPiece,
    ) -> bytes:
        if peer not in self.links or self._network.find(peer) is None:
            raise Unreachable(f"{encode_peer_id(peer)} is not connected")
        try:
            async with asyncio.timeout(timeout_s):
                body = await self._exchange(peer, request, on_piece)
        except TimeoutError:
            raise Unreachable(f"{encode_peer_id(peer)} did not answer") from None
        if body is None:
            raise NotHeld(f"{request.kind.name} {request.key.hex()}")
        if len(body) > bytes_max:
            raise Unreachable(f"{encode_peer_id(peer)} offered {len(body)} bytes of {bytes_max}")
        return body

    def stop(self) -> None:
        """Leave at once: links end, nothing arrives any more."""
        self._network.remove(self)
        for peer in list(self.links):
            self.unlink(peer)

    async def _exchange(self, peer: bytes, request: BlobRequest, on_piece: OnPiece) -> bytes | None:
        size, use = len(request.key), USES[request.kind]
        self._totals.bytes[Direction.OUT, use] += size
        await self._travel(self._peer, peer, size)
        other = self._network.find(peer)
        if other is None:
            raise Unreachable(f"{encode_peer_id(peer)} has left")
        other._totals.bytes[Direction.IN, use] += size
        busy: Busy | None = None
        try:
            body = await other._answer(self._peer, request)
        except Busy as error:
            body, busy = None, error
        if self._network.find(peer) is not other:
            raise Unreachable(f"{encode_peer_id(peer)} died over it")
        if body is None:
            await self._travel(peer, self._peer, 0)
        else:
            begins = False
            try:
                async with other._turn(request):
                    begins = True
                    other._on_answered(self._peer, request, len(body))
                    await self._take(other, len(body), use, on_piece)
            finally:
                if not begins:
                    other._on_answered(self._peer, request, 0)
        if busy is not None:
            raise busy
        return body

    async def _take(self, other: "MemoryMesh", size: int, use: Use, on_piece: OnPiece) -> None:
        """Return when all of a reply is here. What is given up before stays unsent."""

        def send(piece: int) -> None:
            other._totals.bytes[Direction.OUT, use] += piece
            on_piece(piece)

        if self._network.carrier is None:
            send(size)
        else:
            await self._network.carrier.carry(other.peer, self._peer, size, send)
        await self._travel(other.peer, self._peer, size)
        self._totals.bytes[Direction.IN, use] += size

    def _turn(self, request: BlobRequest) -> contextlib.AbstractAsyncContextManager[None]:
        """One payload is given to a few at once; nothing else waits."""
        if request.kind is not Blob.PAYLOAD:
            return contextlib.nullcontext()
        return self._sending.setdefault(request.key, asyncio.Semaphore(COPIES_AT_ONCE))

    async def _answer(self, peer: bytes, request: BlobRequest) -> bytes | None:
        if self._on_blob is None:
            return None
        self._serving += 1
        try:
            return await self._on_blob(peer, request)
        finally:
            self._serving -= 1

    async def _travel(self, sender: bytes, receiver: bytes, size: int) -> None:
        arrived = asyncio.get_running_loop().create_future()

        def arrive() -> None:
            if not arrived.done():
                arrived.set_result(None)

        self._network.send(sender, receiver, size, arrive)
        await arrived

    def _forward(self, gossip: _Message, source: bytes) -> None:
        size = len(gossip.content)
        for peer in self.links:
            other = self._network.find(peer)
            if other is None or peer in (source, gossip.origin):
                continue
            self._totals.bytes[Direction.OUT, Use.GOSSIP] += size
            hear = functools.partial(other._hear, gossip, self._peer)
            self._network.send(self._peer, peer, size, hear)

    def _hear(self, gossip: _Message, source: bytes) -> None:
        if self._network.find(self._peer) is not self:  # stopped while it was on its way
            return
        self._totals.bytes[Direction.IN, Use.GOSSIP] += len(gossip.content)
        if (gossip.origin, gossip.number) in self._seen or self._on_gossip is None:
            return
        self._remember(gossip)
        if self._on_gossip(gossip.topic, source, gossip.content):
            self._forward(gossip, source)

    def _remember(self, gossip: _Message) -> None:
        self._seen[gossip.origin, gossip.number] = None
        if len(self._seen) > SEEN_MAX:
            del self._seen[next(iter(self._seen))]
