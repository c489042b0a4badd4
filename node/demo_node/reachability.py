"""Asks peers to dial this node back, and tells others the address where that worked.

A machine that listens everywhere may not know where it is reached: it has no way to the outside but
a router's, or its router has another address than it. Peers see that address; whether it leads here
they find out by dialling it.
"""

import asyncio
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Protocol, runtime_checkable

from demo_node.observer import Figure
from demo_node.ports import Blob, BlobRequest, Busy, NotHeld, PeerView, Unreachable
from demo_node.reserving import RelayedMesh, Reserving
from demo_node.views import ReachView
from demo_protocol.answers import decode_dial_back, encode_port
from demo_protocol.errors import Reject
from demo_protocol.limits import REACH_REPLY_BYTES_MAX
from demo_protocol.networks import NETWORKS_WANTED, compute_network, is_relayed
from demo_protocol.reach import DialBack, Judgement, Opinion, Reachability, judge

LOOK_S: Final = 3.0
"""Between two looks at whether somebody is to be asked."""

EVERY_S: Final = 600.0
"""Until a peer's answer is asked for again; it counts twice as long."""

RETRY_S: Final = 40.0
"""After no answer: longer than peers let one host wait."""

TIMEOUT_S: Final = 15.0
"""A dial that nobody answers, and the way there and back."""


@runtime_checkable
class DiallableMesh(Protocol):
    """What is needed of a mesh. Go's libp2p has ways of its own."""

    reached_at: tuple[str, ...]
    """Where others dialled us: told to peers, before what the machine knows itself."""

    def port(self) -> int:
        """The port that others are told to dial; 0 where there is none."""
        ...

    def local_addresses(self) -> Sequence[str]:
        """What this machine itself says of where it listens."""
        ...

    def peers(self) -> Sequence[PeerView]:
        """Who is connected now."""
        ...

    async def dial_back(self, peer: bytes, port: int) -> DialBack | None:
        """Dial a connected peer at the host it is seen at; None where it is not connected."""
        ...

    async def request(
        self, peer: bytes, request: BlobRequest, *, bytes_max: int, timeout_s: float
    ) -> bytes:
        """Pull a blob. Raises Unreachable or NotHeld."""
        ...


class Reachable:
    """Knows whether others can dial this node."""

    def __init__(
        self, mesh: DiallableMesh, on_event: Callable[..., Any], now_s: Callable[[], float]
    ) -> None:
        """`now_s` never goes back."""
        self._mesh = mesh
        self._on_event = on_event
        self._now_s = now_s
        self._opinions: dict[str, tuple[float, Opinion]] = {}
        """By network: when it was given, and what it is."""
        self._not_before_s: dict[str, float] = {}
        """By network: when it may be asked next."""
        self._local: tuple[Sequence[str], int] = ((), 0)
        self._judged = Judgement(Reachability.UNKNOWN)
        self._reserving = Reserving(mesh, now_s) if isinstance(mesh, RelayedMesh) else None
        self._told: tuple[Reachability, tuple[str, ...]] = self._known()

    async def run(self) -> None:
        """Look and ask, for ever."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S * random.uniform(0.75, 1.25))

    def view(self) -> ReachView:
        """What is known now."""
        judged = self._judged
        state, addresses = self._known()
        return ReachView(
            state=state,
            addresses=addresses,
            reached=judged.reached,
            asked=judged.asked,
            port=self._mesh.port(),
            holders=sum(v.outbound and not is_relayed(v.address) for v in self._mesh.peers()),
        )

    def figures(self) -> Iterator[Figure]:
        """One for what is known, none for the rest."""
        for state in Reachability:
            yield Figure("demo_reachability", state is self._known()[0], (state,))

    async def look(self) -> None:
        """Ask as many as are wanting, each of another network, and judge."""
        direct = [v for v in self._mesh.peers() if not is_relayed(v.address)]  # who sees our host
        peers = {compute_network(v.address, v.peer): v for v in direct}
        local = (self._mesh.local_addresses(), self._mesh.port())
        now_s = self._now_s()
        if local != self._local or not peers:
            # Another address, or a link that was away and may have another one now.
            self._local = local
            self._not_before_s.clear()
            self._opinions.clear()
        self._not_before_s = {n: s for n, s in self._not_before_s.items() if s > now_s}
        fresh = [n for n in self._not_before_s if n in self._opinions]
        ripe = [n for n in peers if n not in self._not_before_s]
        wanting = max(0, NETWORKS_WANTED - len(fresh)) if local[1] else 0
        chosen = random.sample(ripe, min(wanting, len(ripe)))
        await asyncio.gather(*(self._ask(network, peers[network]) for network in chosen))
        self._judge()
        if self._reserving:
            await self._reserving.look(self._judged.reach)
        self._tell()

    def _known(self) -> tuple[Reachability, tuple[str, ...]]:
        """What others can do, and the addresses of where: our own, or our relays'."""
        relays = self._reserving.addresses if self._reserving else ()
        if relays and self._judged.reach is Reachability.PRIVATE:
            return Reachability.RELAYED, relays
        return self._judged.reach, self._judged.addresses

    async def _ask(self, network: str, view: PeerView) -> None:
        port = self._mesh.port()
        request = BlobRequest(Blob.REACH, encode_port(port))
        self._not_before_s[network] = self._now_s() + RETRY_S
        try:
            raw = await self._mesh.request(
                view.peer, request, bytes_max=REACH_REPLY_BYTES_MAX, timeout_s=TIMEOUT_S
            )
            found = decode_dial_back(raw, port)
        except Busy:
            del self._not_before_s[network]  # others have their turn: at the next look we may
            return
        except (Unreachable, NotHeld, Reject):
            return  # of an older release, or no help
        self._opinions[network] = self._now_s(), Opinion(view.peer, view.address, found)
        self._not_before_s[network] = self._now_s() + EVERY_S

    def _judge(self) -> None:
        now_s = self._now_s()
        self._opinions = {
            network: (given_s, opinion)
            for network, (given_s, opinion) in self._opinions.items()
            if now_s - given_s < 2 * EVERY_S
        }
        self._judged = judge(one for _, one in self._opinions.values())
        self._mesh.reached_at = self._judged.addresses

    def _tell(self) -> None:
        before, self._told = self._told, self._known()
        if before != self._told:
            state, addresses = self._told
            self._on_event(
                "reach.changed",
                state=state.value,
                addresses=list(addresses),
                reached=self._judged.reached,
                asked=self._judged.asked,
            )
