"""Nodes of the run found by the DHT that nodes of all runs keep (--kad): all of it hearsay."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Protocol, runtime_checkable

from demo_node.mesh.kad_counters import KadCounters
from demo_node.observer import Figure
from demo_node.ports import PeerView, Unreachable

TELL_FIRST_S, TELL_MAX_S = 15.0, 600.0
"""How often this node says that it is there: at first often, for it knows few to tell. Records last
an hour."""

ENOUGH: Final = 4
"""Peers of the run, below which others are looked for: gossipsub's lower degree."""

LOOK_FIRST_S, LOOK_MAX_S = 2.0, 600.0
"""Between two questions who is there, while there are not enough. Each time twice as long."""

POLL_S: Final = 0.25
"""How often to look whether anybody is connected who could be asked."""


@runtime_checkable
class FindingMesh(Protocol):
    """What is needed of a mesh."""

    def peers(self) -> Sequence[PeerView]:
        """Who is connected now."""
        ...

    async def find_members(self, run_id: bytes) -> list[str]:
        """Addresses of nodes that are said to be in a run. Raises Unreachable."""
        ...

    async def tell_member(self, run_id: bytes) -> None:
        """Say that this node is in a run. Raises Unreachable."""
        ...

    def kad_counters(self) -> KadCounters:
        """What the DHT was used for, and what it holds here."""
        ...


class Signposts:
    """Asks the DHT, and tells it."""

    def __init__(
        self,
        mesh: FindingMesh,
        hear: Callable[[str], None],
        on_event: Callable[..., Any],
        is_joined: Callable[[], bool],
    ) -> None:
        """`hear` is told addresses of others. `is_joined`: before, nobody can tell whose peers
        those are that are connected, and there are never enough.
        """
        self._mesh = mesh
        self._is_joined = is_joined
        self._hear = hear
        self._on_event = on_event
        self._found: dict[str, None] = {}

    def figures(self) -> Iterator[Figure]:
        """What was asked and found, and what is held for others."""
        counters = self._mesh.kad_counters()
        yield Figure("demo_kad_queries_total", counters.queries)
        yield Figure("demo_kad_found_total", counters.found)
        yield Figure("demo_kad_dials_total", counters.dialled)
        yield Figure("demo_kad_table", counters.table)
        yield Figure("demo_kad_records", counters.records)

    async def run(self, run_id: bytes) -> None:
        """Look for others while there are few; say now and then that we are there. For ever."""
        now_s = asyncio.get_running_loop().time
        look_s, tell_s, pause_s, tell_pause_s = 0.0, 0.0, LOOK_FIRST_S, TELL_FIRST_S
        while True:
            connected = [view for view in self._mesh.peers() if not view.elsewhere]
            is_asked = bool(self._mesh.peers())
            if len(connected) >= ENOUGH and self._is_joined():
                pause_s = LOOK_FIRST_S
            elif is_asked and now_s() >= look_s:
                await self._look(run_id)
                look_s, pause_s = now_s() + pause_s, min(2 * pause_s, LOOK_MAX_S)
            if is_asked and now_s() >= tell_s:
                try:
                    await self._mesh.tell_member(run_id)
                    tell_s = now_s() + tell_pause_s
                    tell_pause_s = min(2 * tell_pause_s, TELL_MAX_S)
                except Unreachable:
                    return  # the mesh has ended
            await asyncio.sleep(POLL_S)

    async def _look(self, run_id: bytes) -> None:
        try:
            found = await self._mesh.find_members(run_id)
        except Unreachable:  # the mesh has ended
            return
        fresh = [address for address in found if address not in self._found]
        for address in found:
            self._hear(address)
        if fresh:
            self._on_event("members.found", addresses=len(fresh))
        self._found = dict.fromkeys(found)
