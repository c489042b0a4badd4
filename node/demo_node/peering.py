"""Whom to dial: the addresses an operator gave, those remembered, and those that peers pass on."""

import asyncio
import contextlib
import random
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from demo_node.bootstrap import Bootstrap
from demo_node.mesh.addresses import decode_address
from demo_node.mesh.names import Names, NameUnknown
from demo_node.observer import Figure
from demo_node.ports import Blob, BlobRequest, Clock, Mesh, NotHeld, Unreachable
from demo_node.store.addresses import AddressBook
from demo_protocol.answers import decode_peers
from demo_protocol.errors import ConfigError, Reject
from demo_protocol.limits import PEERS_REPLY_BYTES_MAX
from demo_protocol.networks import is_for, is_relayed

CONNECTIONS_WANTED = 12
"""Dial until so many peers are connected: gossipsub's upper degree."""

ENOUGH_DIRECT = 4
"""With so many peers nobody is dialled by way of a relay: gossipsub's lower degree."""

PACE_FIRST_S, PACE_S = 0.25, 2.0
"""How often to look around: often at first and when a peer was lost, then now and then."""

EAGER_ROUNDS = 40
"""Looks around at the first pace: ten seconds."""

BACKOFF_FIRST_S, BACKOFF_MAX_S = 1.0, 60.0
"""Pause before one address is dialled again."""

FAILURES_MAX = 10
"""Dials in a row without an answer after which hearsay is forgotten: about five minutes.

What the operator named, and where a peer was ever met, stays."""

TRIES = 2
"""After so many dials in vain nobody waits for a peer any more; it is dialled now and then."""

HEAD_START_S = 2.0
"""What the operator named is dialled so long before whom we met on earlier days."""

DIALS_MAX = 24
"""Dials at once. Twice what is wanted: an address that swallows packets takes 15 s to fail."""

ASK_TIMEOUT_S = 5.0

KNOWN_MAX = 1024
"""Addresses considered; peers could name others for ever."""

SAVE_S, SAVE_TIMES_S = 10.0, 600.0
"""How often the address book is written at most: with a new address, and with new times only."""


@dataclass(slots=True)
class _Candidate:
    """An address and how dialling it went. `not_before_s` is a time of the loop.

    `seen_at`: where the peer is seen that told of it; empty where nobody remembers. None: the
    operator did.
    """

    address: str
    peer: bytes
    seen_at: str | None = ""
    failures: int = 0
    not_before_s: float = 0.0
    reason: str = ""


class Peering:
    """Keeps this node connected."""

    def __init__(
        self,
        mesh: Mesh,
        clock: Clock,
        *,
        named: Iterable[str],
        book: AddressBook,
        names: Names | None = None,
    ) -> None:
        """`named` are the operator's, already checked; `book` has those of earlier days."""
        self._mesh = mesh
        self._clock = clock
        self._names = names or Names()
        self._bootstrap = Bootstrap(named, self._names)
        self._book = book
        self._candidates: dict[str, _Candidate] = {}
        """In the order in which they are dialled: named, the last met, the latest heard of."""
        self._consider_named()
        for address in book.newest():
            self._consider(address)
        self._asked: set[bytes] = set()
        self._dialling: set[bytes] = set()
        self._saved_s = -SAVE_TIMES_S

    @property
    def knows_others(self) -> bool:
        """Is there anybody to dial?"""
        is_other = any(c.peer != self._mesh.peer for c in self._candidates.values())
        return is_other or self._bootstrap.has_lists

    def count_known(self) -> int:
        """Peers that may still be heard: connected ones, and those not tried in vain.

        One more while a connected one has not said whom it knows.
        """
        views = self._mesh.peers()
        elsewhere = {view.peer for view in views if view.elsewhere}
        connected = {view.peer for view in views} - elsewhere
        open_ = {c.peer for c in self._candidates.values() if c.failures < TRIES}
        known = (connected | open_) - elsewhere - {self._mesh.peer}
        return len(known) + (not connected <= self._asked)

    def explain(self) -> str:
        """Why nobody answered: for each address that was named, what came of dialling it."""
        found = [self._candidates[a] for a in self._bootstrap.addresses if a in self._candidates]
        reasons = [*self._bootstrap.explain(), *(c.reason for c in found if c.reason)]
        return "; ".join(reasons)

    def figures(self) -> Iterator[Figure]:
        """How many addresses there are to choose from."""
        yield Figure("demo_peers_known", len(self._candidates))

    async def run(self) -> None:
        """Dial and ask around, for ever."""
        turn = connected = 0
        async with asyncio.TaskGroup() as dials:
            while True:
                if not connected:
                    dials.create_task(self._read_lists())
                for candidate in self._choose():
                    self._dialling.add(candidate.peer)
                    dials.create_task(self._dial(candidate))
                await self._ask_around()
                await self._save()
                before, connected = connected, len(self._mesh.peers())
                turn = 0 if connected < before else turn + 1
                pace_s = PACE_FIRST_S if turn < EAGER_ROUNDS else PACE_S
                # Jitter, so that two nodes that know each other do not dial in the same instant.
                # Not by the clock: this is how the peers are found by whom it may be corrected.
                await asyncio.sleep(pace_s * random.uniform(0.75, 1.25))

    def hear(self, address: str) -> None:
        """Somebody on this LAN, or in the DHT, says that a peer is there: as good as what anybody
        says.
        """
        self._consider(address)

    async def connect_named(self) -> list[bytes]:
        """Dial what the operator named, once; where nobody answers soon, whom we met before; at
        last whom we have only heard of.

        Returns the peers that answered, without waiting long for the others.
        """
        await self._read_lists()
        named = tuple(self._bootstrap.addresses)
        met = [a for a in self._book.newest() if a not in named][:CONNECTIONS_WANTED]
        dials: dict[asyncio.Task[bool], bytes] = {}
        heard = [a for a in self._candidates if a not in named and a not in met]
        for addresses in (named, met, heard[:CONNECTIONS_WANTED]):
            for address in addresses:
                if candidate := self._candidates.get(address):
                    dials[asyncio.create_task(self._dial(candidate))] = candidate.peer
            answered = await _wait_for_any(dials, HEAD_START_S)
            if answered:
                break
        answered = answered or await _wait_for_any(dials, None)
        for task in dials:
            task.cancel()
        await asyncio.gather(*dials, return_exceptions=True)
        return [dials[task] for task in answered]

    async def connect_heard(self) -> list[bytes]:
        """Dial whom we have only heard of, once; the peers that answered soon."""
        others = [c for a, c in self._candidates.items() if not self._is_kept(a)]
        dials = {asyncio.create_task(self._dial(c)): c.peer for c in others[-CONNECTIONS_WANTED:]}
        answered = await _wait_for_any(dials, HEAD_START_S) if dials else []
        for task in dials:
            task.cancel()
        await asyncio.gather(*dials, return_exceptions=True)
        return [dials[task] for task in answered]

    async def _read_lists(self) -> None:
        """Whom a /dnsaddr names is dialled like whom the operator names."""
        await self._bootstrap.read_lists()
        self._consider_named()

    def _consider_named(self) -> None:
        for address in self._bootstrap.addresses:
            if candidate := self._consider(address, None):
                candidate.seen_at = None  # whoever else told of it before

    def _consider(self, address: str, seen_at: str | None = "") -> _Candidate | None:
        """Take an address into account, from whoever it came; None if it is none."""
        candidate = self._candidates.get(address)
        has_room = seen_at is None or len(self._candidates) < KNOWN_MAX
        if candidate is None and has_room:
            with contextlib.suppress(ValueError):
                candidate = _Candidate(address, decode_address(address)[1], seen_at)
                self._candidates[address] = candidate
        return candidate

    def _choose(self) -> list[_Candidate]:
        """Whom to dial now, each peer at one of its addresses."""
        views = self._mesh.peers()
        connected = {view.peer for view in views}
        direct = {view.peer for view in views if not is_relayed(view.address)}
        here = sum(not view.elsewhere for view in views)
        wanted = CONNECTIONS_WANTED - here
        room = DIALS_MAX - len(self._dialling)
        if wanted <= 0 or room <= 0:
            return []
        now_s = asyncio.get_running_loop().time()
        taken = {*self._dialling, self._mesh.peer}
        chosen: dict[bytes, _Candidate] = {}
        # Those that failed least first; among equals those without a relay, then the order in
        # which they became known.
        for candidate in sorted(self._candidates.values(), key=_order):
            by_relay = is_relayed(candidate.address)
            there = connected if by_relay else direct  # who came by a relay is dialled without
            if candidate.not_before_s > now_s or candidate.peer in taken | there:
                continue
            if not by_relay or here < ENOUGH_DIRECT:
                chosen.setdefault(candidate.peer, candidate)
        return list(chosen.values())[: min(wanted, room)]

    async def _dial(self, candidate: _Candidate) -> bool:
        try:
            place = await self._connect(candidate)
        except (Unreachable, NameUnknown) as error:
            candidate.reason = str(error)
            candidate.failures += 1
            pause_s = min(BACKOFF_FIRST_S * 2 ** (candidate.failures - 1), BACKOFF_MAX_S)
            candidate.not_before_s = asyncio.get_running_loop().time() + pause_s
            if candidate.failures >= FAILURES_MAX and not self._is_kept(candidate.address):
                self._candidates.pop(candidate.address, None)
            return False
        finally:
            self._dialling.discard(candidate.peer)
        candidate.failures, candidate.not_before_s, candidate.reason = 0, 0.0, ""
        for address in dict.fromkeys((place, candidate.address)):
            self._book.add(address, self._clock.now_ms())
        return True

    async def _connect(self, candidate: _Candidate) -> str:
        """Dial the numbers that the address stands for, in turn; the one that answered.

        A name leads wherever its owner likes, today here and tomorrow there: it is looked up each
        time, and what it leads to is held to what numbers are held to (`is_for`).
        """
        *others, last = await self._names.find_places(candidate.address, candidate.seen_at)
        for place in others:
            with contextlib.suppress(Unreachable):
                await self._mesh.connect(place)
                return place
        await self._mesh.connect(last)
        return last

    def _is_kept(self, address: str) -> bool:
        return address in self._bootstrap.addresses or address in self._book

    async def _ask_around(self) -> None:
        """Ask new peers, and one old one, whom they know."""
        connected = [view.peer for view in self._mesh.peers() if not view.elsewhere]
        self._asked.intersection_update(connected)
        fresh = [peer for peer in connected if peer not in self._asked]
        asked = fresh or ([random.choice(connected)] if connected else [])
        await asyncio.gather(*(self._ask(peer) for peer in asked))

    async def _ask(self, peer: bytes) -> None:
        seen_at = find_address(self._mesh, peer)
        try:
            raw = await self._mesh.request(
                peer,
                BlobRequest(Blob.PEERS),
                bytes_max=PEERS_REPLY_BYTES_MAX,
                timeout_s=ASK_TIMEOUT_S,
            )
            found = decode_peers(raw)
            if any(view.peer == peer and view.elsewhere for view in self._mesh.peers()):
                return  # whom it knows would take the places of ours
            for address in found:
                if is_for(address, seen_at):
                    self._learn(address, peer, seen_at)
        except (Unreachable, NotHeld, Reject):
            return  # not taking part yet, or no help
        self._asked.add(peer)

    def _learn(self, address: str, source: bytes, seen_at: str) -> None:
        """An address is only text from a stranger until somebody answers there with its key.

        Of itself a connected peer may speak: that address is passed on to others.
        """
        candidate = self._consider(address, seen_at)
        if candidate is not None and candidate.peer == source:
            self._book.add(address, self._clock.now_ms())

    async def _save(self) -> None:
        """Write the address book now and then: a node that is killed must find back, too."""
        pace_s = SAVE_S if self._book.has_new else SAVE_TIMES_S
        now_s = asyncio.get_running_loop().time()
        if now_s - self._saved_s < pace_s:
            return
        self._saved_s = now_s
        with contextlib.suppress(ConfigError):  # others say it when the disk is full
            await asyncio.to_thread(self._book.save)


def _order(candidate: _Candidate) -> tuple[int, bool]:
    return candidate.failures, is_relayed(candidate.address)


def find_address(mesh: Mesh, peer: bytes) -> str:
    """Where a peer is connected; empty for one that is not."""
    return next((view.address for view in mesh.peers() if view.peer == peer), "")


async def _wait_for_any(
    dials: Collection[asyncio.Task[bool]], patience_s: float | None
) -> list[asyncio.Task[bool]]:
    """The dials that were answered: when some were, when all have ended, or after so long."""
    deadline_s = None if patience_s is None else asyncio.get_running_loop().time() + patience_s
    pending = set(dials)
    while pending:
        left_s = deadline_s and max(0.0, deadline_s - asyncio.get_running_loop().time())
        _, pending = await asyncio.wait(
            pending, timeout=left_s, return_when=asyncio.FIRST_COMPLETED
        )
        answered = [task for task in dials if task.done() and task.result()]
        if answered or left_s == 0:
            return answered
    return []
