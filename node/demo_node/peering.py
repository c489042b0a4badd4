"""Whom to dial: the addresses an operator gave, those remembered, and those that peers pass on."""

import asyncio
import random
from collections.abc import Iterable

from demo_node.mesh.addresses import decode_address
from demo_node.ports import Blob, BlobRequest, Clock, Mesh, NotHeld, Unreachable
from demo_node.store.addresses import AddressBook
from demo_protocol.answers import decode_peers
from demo_protocol.errors import Reject
from demo_protocol.limits import PEERS_REPLY_BYTES_MAX

CONNECTIONS_WANTED = 12
"""Dial until so many peers are connected: gossipsub's upper degree."""

PACE_FIRST_S, PACE_S = 0.25, 2.0
"""How often to look around: often while starting, then now and then."""

EAGER_ROUNDS = 40
"""Looks around at the first pace: ten seconds."""

BACKOFF_FIRST_S, BACKOFF_MAX_S = 1.0, 60.0
"""Pause before one address is dialled again."""

ASK_TIMEOUT_S = 5.0

KNOWN_MAX = 1024
"""Addresses considered; peers could name others for ever."""


class Peering:
    """Keeps this node connected."""

    def __init__(
        self,
        mesh: Mesh,
        clock: Clock,
        *,
        named: Iterable[str],
        book: AddressBook,
    ) -> None:
        """`named` are the operator's, already checked; `book` has those of earlier days."""
        self._mesh = mesh
        self._clock = clock
        self._named = tuple(named)
        self._book = book
        self._known = {*self._named, *filter(_is_address, book.newest())}
        self._asked: set[bytes] = set()
        self._not_before_s: dict[str, float] = {}
        self._failures: dict[str, int] = {}

    @property
    def knows_others(self) -> bool:
        """Is there anybody to dial?"""
        return any(decode_address(address)[1] != self._mesh.peer for address in self._known)

    async def run(self) -> None:
        """Dial and ask around, for ever."""
        turn = 0
        while True:
            await asyncio.gather(self._dial_missing(), self._ask_around())
            pace_s = PACE_FIRST_S if turn < EAGER_ROUNDS else PACE_S
            turn += 1
            # Jitter, so that two nodes that know each other do not dial in the same instant.
            # Not by the clock: this is how the peers are found by whom it may be corrected.
            await asyncio.sleep(pace_s * random.uniform(0.75, 1.25))

    async def connect_named(self) -> list[bytes]:
        """Dial what the operator named, once; the peers that answered."""
        results = await asyncio.gather(*(self._dial(address) for address in self._named))
        return [peer for peer in results if peer is not None]

    async def _dial_missing(self) -> None:
        connected = {view.peer for view in self._mesh.peers()}
        if len(connected) >= CONNECTIONS_WANTED:
            return
        now_s = asyncio.get_running_loop().time()
        due = [
            address
            for address in self._known
            if self._not_before_s.get(address, now_s) <= now_s
            and decode_address(address)[1] not in {*connected, self._mesh.peer}
        ]
        random.shuffle(due)
        await asyncio.gather(
            *(self._dial(address) for address in due[: CONNECTIONS_WANTED - len(connected)])
        )

    async def _dial(self, address: str) -> bytes | None:
        try:
            peer = await self._mesh.connect(address)
        except Unreachable:
            failures = self._failures[address] = self._failures.get(address, 0) + 1
            pause_s = min(BACKOFF_FIRST_S * 2 ** (failures - 1), BACKOFF_MAX_S)
            self._not_before_s[address] = asyncio.get_running_loop().time() + pause_s
            return None
        self._failures.pop(address, None)
        self._not_before_s.pop(address, None)
        self._book.add(address, self._clock.now_ms())
        return peer

    async def _ask_around(self) -> None:
        """Ask new peers, and one old one, whom they know."""
        connected = [view.peer for view in self._mesh.peers()]
        self._asked.intersection_update(connected)
        fresh = [peer for peer in connected if peer not in self._asked]
        asked = fresh or ([random.choice(connected)] if connected else [])
        await asyncio.gather(*(self._ask(peer) for peer in asked))

    async def _ask(self, peer: bytes) -> None:
        try:
            raw = await self._mesh.request(
                peer,
                BlobRequest(Blob.PEERS),
                bytes_max=PEERS_REPLY_BYTES_MAX,
                timeout_s=ASK_TIMEOUT_S,
            )
            for address in decode_peers(raw):
                self._learn(address, peer)
        except (Unreachable, NotHeld, Reject):
            return  # not taking part yet, or no help
        self._asked.add(peer)

    def _learn(self, address: str, source: bytes) -> None:
        """An address is only text from a stranger until somebody answers there with its key.

        Of itself a connected peer may speak: that address is passed on to others.
        """
        if not _is_address(address):
            return
        if len(self._known) < KNOWN_MAX:
            self._known.add(address)
        if decode_address(address)[1] == source:
            self._book.add(address, self._clock.now_ms())


def _is_address(text: str) -> bool:
    try:
        decode_address(text)
    except ValueError:
        return False
    return True
