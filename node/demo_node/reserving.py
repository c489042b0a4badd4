"""Keeps room at relays for a node that nobody can dial, so that others are brought to it.

A relay that is gone, or that has ended a reservation, is replaced by another one; while there is
none the node takes part through the peers that it dials, as ever.
"""

import asyncio
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

from demo_node.observer import Figure
from demo_node.ports import Unreachable
from demo_protocol.reach import Reachability

RELAYS_WANTED: Final = 2
"""One goes on when the other is gone."""

RETRY_FIRST_S, RETRY_MAX_S = 10.0, 300.0
"""Before a relay that refused is asked again: it may have no room, or not know us as a member."""


@runtime_checkable
class RelayedMesh(Protocol):
    """What is needed of a mesh. Go's libp2p has ways of its own."""

    relayed_at: tuple[str, ...]
    """Where others find us by way of relays, without our key: told to peers."""

    carries: Callable[[bytes], bool]
    """Whom this node is a relay for, where it is one."""

    def relays(self) -> Mapping[bytes, str]:
        """Connected peers that carry others, each with the full address at which we dialled it."""
        ...

    async def reserve(self, relay: bytes) -> float:
        """Have it bring others to us: for how many seconds. Raises Unreachable."""
        ...

    def release(self, relay: bytes) -> None:
        """Take nobody any more that it brings."""
        ...

    def relay_figures(self) -> Iterator[Figure]:
        """What this node does as a relay."""
        ...


@dataclass(slots=True)
class _Held:
    """A reservation, with the relay's address."""

    address: str
    until_s: float
    lasts_s: float

    def is_due(self, now_s: float) -> bool:
        """Is it to be renewed? Early enough for several tries."""
        return self.until_s - now_s <= self.lasts_s / 2


@dataclass(slots=True)
class _Refusal:
    """When a relay that refused may be asked again."""

    not_before_s: float
    pause_s: float


class Reserving:
    """Asks relays, and remembers what they promised."""

    def __init__(self, mesh: RelayedMesh, now_s: Callable[[], float]) -> None:
        """`now_s` never goes back."""
        self._mesh = mesh
        self._now_s = now_s
        self._held: dict[bytes, _Held] = {}
        self._refusals: dict[bytes, _Refusal] = {}

    @property
    def addresses(self) -> tuple[str, ...]:
        """Of the relays by way of which others find us."""
        return tuple(held.address for held in self._held.values())

    async def look(self, reach: Reachability) -> None:
        """Reserve, renew or let go, by what is known of whether others can dial us."""
        relays, now_s = self._mesh.relays(), self._now_s()
        for relay, held in list(self._held.items()):
            is_over = held.until_s <= now_s or relays.get(relay) != held.address
            if is_over or reach is Reachability.PUBLIC:
                del self._held[relay]
                self._mesh.release(relay)
        self._refusals = {r: kept for r, kept in self._refusals.items() if r in relays}
        wanted = RELAYS_WANTED if reach is Reachability.PRIVATE else 0
        due = [r for r, held in self._held.items() if held.is_due(now_s) and self._is_ripe(r)]
        fresh = [r for r in relays if r not in self._held and self._is_ripe(r)]
        chosen = random.sample(fresh, min(len(fresh), max(0, wanted - len(self._held))))
        await asyncio.gather(*(self._reserve(relay, relays[relay]) for relay in [*due, *chosen]))
        self._mesh.relayed_at = tuple(f"{address}/p2p-circuit" for address in self.addresses)

    def _is_ripe(self, relay: bytes) -> bool:
        refusal = self._refusals.get(relay)
        return refusal is None or refusal.not_before_s <= self._now_s()

    async def _reserve(self, relay: bytes, address: str) -> None:
        try:
            lasts_s = await self._mesh.reserve(relay)
        except Unreachable:
            before = self._refusals.get(relay)
            pause_s = min(2 * before.pause_s, RETRY_MAX_S) if before else RETRY_FIRST_S
            self._refusals[relay] = _Refusal(self._now_s() + pause_s, pause_s)
            return
        self._refusals.pop(relay, None)
        self._held[relay] = _Held(address, self._now_s() + lasts_s, lasts_s)
