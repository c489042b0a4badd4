"""Other nodes: what is gossiped, and whom to ask."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from demo_node.ports.blobs import BlobRequest, OnAnswered, OnBlob, OnPiece, OnWait, ignore_answered
from demo_node.ports.peers import BanView, MeshCounters, Offence, PeerView


class Topic(StrEnum):
    """Gossip topics of a run; on the wire `demo/<run id hex>/<topic>`."""

    HEADERS = "headers"
    PROPOSALS = "proposals"
    MEMBERSHIP = "membership"


Verdict = bool
"""What a gossip handler says of a message: True = forward it to others, False = drop it here."""

OnGossip = Callable[[Topic, bytes, bytes], Verdict]
"""(topic, peer that handed it over, message). Called on the loop; must return in under 10 ms."""


class Mesh(Protocol):
    """Announce by gossip, pull by hash over streams."""

    @property
    def peer(self) -> bytes:
        """Our own public key."""
        ...

    def addresses(self) -> Sequence[str]:
        """Full multiaddrs we listen on, each ending in /p2p/<peer id>."""
        ...

    def peers(self) -> Sequence[PeerView]:
        """Who is connected now."""
        ...

    def counters(self) -> MeshCounters:
        """What was done since start."""
        ...

    def mesh_peers(self, topic: Topic) -> int:
        """Links of the gossip mesh of a topic. None while peers are connected is an alarm."""
        ...

    def serving(self) -> int:
        """Requests of peers that are being answered."""
        ...

    def blame(self, peer: bytes, offence: Offence) -> None:
        """The peer did what no honest one does: lower its standing, ban it where that is enough."""
        ...

    def bans(self) -> Sequence[BanView]:
        """Who is kept out now."""
        ...

    def ban(self, peer: bytes, seconds: float) -> None:
        """Close its connections and keep it out for so long."""
        ...

    def forgive(self, peer: bytes = b"", host: str = "") -> bool:
        """Hold nothing against a key, or an address, any more; False where nothing was."""
        ...

    async def join(
        self,
        run_id: bytes,
        on_gossip: OnGossip,
        on_blob: OnBlob,
        on_answered: OnAnswered = ignore_answered,
    ) -> None:
        """Subscribe to the run's topics and begin to serve."""
        ...

    async def connect(self, address: str) -> bytes:
        """Dial a full multiaddr, a number for its host; return the peer's public key.

        Raises Unreachable.
        """
        ...

    async def publish(self, topic: Topic, message: bytes) -> None:
        """Hand `message` to the gossip mesh. Raises LocalFault over the size limit."""
        ...

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
        """Pull a blob. The caller checks its hash. Raises Unreachable or NotHeld.

        Where it is cancelled the peer is told, and sends no more.
        """
        ...


@dataclass(frozen=True, slots=True)
class Slice:
    """A while in which replies waited to be sent, and the bytes that reached others in it."""

    seconds: float = 0.0
    bytes: int = 0

    @property
    def bytes_per_s(self) -> float:
        """0 where nothing was seen."""
        return self.bytes / self.seconds if self.seconds > 0 else 0.0


TakeUplink = Callable[[], Slice]
"""The fastest stretch of sending since it was last called."""


class OpenMesh(Mesh, Protocol):
    """A mesh over sockets, which listens, can fail, and has to be stopped."""

    @property
    def take_uplink(self) -> TakeUplink | None:
        """Looks at this node's uplink; None where the mesh cannot."""
        ...

    def set_caps(self, upload_bytes_per_s: float, download_bytes_per_s: float) -> None:
        """Other caps from now on; 0 is none."""
        ...

    def listening(self) -> Sequence[str]:
        """The multiaddrs that connections are accepted on, without peer id."""
        ...

    async def wait(self) -> None:
        """Return when the mesh has ended; raise what ended it. Some task has to watch this."""
        ...

    async def stop(self) -> None:
        """Close every connection and end. Raises nothing; twice is fine."""
        ...
