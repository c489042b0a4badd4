"""Asking peers where they stand, and following their chains back (rule 22).

Whoever hangs costs others its timeout, once; whoever lies is found out by hash. What was heard is
judged in `demo_protocol.joining`.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from demo_node.ports import Blob, BlobRequest
from demo_node.pull import Puller
from demo_protocol.answers import (
    HeadAnswer,
    Link,
    decode_head,
    decode_links,
    decode_records,
)
from demo_protocol.errors import Reject
from demo_protocol.events import Bundle
from demo_protocol.limits import (
    HEAD_REPLY_BYTES_MAX,
    RECORDS_PER_REPLY_MAX,
    RECORDS_REPLY_BYTES_MAX,
)

Heads = list[tuple[bytes, HeadAnswer]]
"""(peer, where it stands)."""

HEAD_S = 5.0
"""For where a peer stands: a few hundred bytes."""

SILENT_S = 0.5
"""The same, where it did not say the last time: nobody waits for a frozen peer again and again."""

RECORDS_S = 10.0
"""For one answer of records: up to 4 MiB, and fewer bytes where less is wanted."""

WALK_S = 60.0
"""For the chain that most are on: the headers of a whole payload window are a few megabytes."""

OTHERS_S = 20.0
"""For the chains of all others together, most of whose records are known by then."""


class HeadAsker:
    """Asks all connected peers at once where they stand, again and again."""

    def __init__(self, puller: Puller) -> None:
        self._puller = puller
        self._silent: set[bytes] = set()

    async def ask(self) -> Heads:
        """What those said that answered in time, in no order that means anything."""
        holders = self._puller.holders()
        tasks = {holder: asyncio.create_task(self._ask(holder)) for holder in holders}
        try:
            lively = [tasks[holder] for holder in holders if holder not in self._silent]
            if lively:
                await asyncio.wait(lively, timeout=HEAD_S)
            quiet = [task for task in tasks.values() if not task.done()]
            if quiet:
                await asyncio.wait(quiet, timeout=SILENT_S if lively else HEAD_S)
            self._silent = {holder for holder, task in tasks.items() if not task.done()}
        finally:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)
        heads = []
        for holder, task in tasks.items():
            head = None if task.cancelled() else task.result()
            if head is not None:
                heads.append((holder, head))
        return heads

    async def _ask(self, holder: bytes) -> HeadAnswer | None:
        request = BlobRequest(Blob.HEAD)
        raw = await self._puller.ask(holder, request, HEAD_REPLY_BYTES_MAX, HEAD_S)
        try:
            return decode_head(raw) if raw is not None else None
        except Reject:
            return None


@dataclass(slots=True)
class Walk:
    """Every record that peers gave on the way back from their heads, by its hash.

    `links` and `bundles` say the same; that a record was signed, or is valid, is not said.
    """

    puller: Puller
    run_id: bytes
    links: dict[bytes, Link] = field(default_factory=dict)
    bundles: dict[bytes, Bundle] = field(default_factory=dict)

    def carriers(self) -> dict[tuple[bytes, bytes], bytes]:
        """Records that carry the root of their parent's state (rule 21), by parent and root."""
        return {
            (link.parent, link.root): link.record
            for link in sorted(self.links.values(), key=lambda link: link.record)
            if link.root
        }

    async def follow(
        self, heads: Heads, *, floor_round: int, steps_max: int, wanted: Iterable[bytes] = ()
    ) -> None:
        """Back from every head to the first record not after `floor_round`.

        Further where a peer names an older final or snapshot, or one is `wanted`; nowhere more
        than `steps_max` records. Bounded by time: a peer may answer with little, and slowly.
        """
        said: dict[bytes, Heads] = {}
        for holder, head in heads:
            said.setdefault(head.head, []).append((holder, head))
        counts = Counter({name: len(group) for name, group in said.items()})
        ways = [
            self._follow(said[name], floor_round, steps_max, frozenset(wanted))
            for name, _ in counts.most_common()
        ]
        await _run_first_then_others(ways)

    async def _follow(
        self, group: Heads, floor_round: int, steps_max: int, wanted: frozenset[bytes]
    ) -> None:
        """From one head, that all of `group` gave."""
        holders = [holder for holder, _ in group]
        named = {h for _, head in group for h in (head.final, head.snapshot_record) if h}
        open_ = (named | wanted) - {self.run_id}
        name = group[0][1].head
        for _ in range(steps_max):
            if name == self.run_id or not await self._ensure(name, holders):
                return
            link = self.links[name]
            open_.discard(name)
            if link.round <= floor_round and not open_:
                return
            name = link.parent

    async def _ensure(self, name: bytes, holders: Sequence[bytes]) -> bool:
        """Is the record here, at the latest now?"""
        request = BlobRequest(Blob.RECORDS, name, RECORDS_PER_REPLY_MAX)
        for holder in holders:
            if name in self.links:
                break
            raw = await self.puller.ask(holder, request, RECORDS_REPLY_BYTES_MAX, RECORDS_S)
            with contextlib.suppress(Reject):
                bundles = decode_records(raw or b"")
                links = decode_links(bundles, self.run_id, name)
                for link, bundle in zip(links, reversed(bundles), strict=True):
                    self.links[link.record] = link
                    self.bundles[link.record] = bundle
        return name in self.links


async def _run_first_then_others(ways: Sequence[Coroutine[None, None, None]]) -> None:
    """The first alone, as what it brings spares the others most of their way. None for long."""
    tasks: list[asyncio.Task[None]] = []
    try:
        for part in (ways[:1], ways[1:]):
            begun = [asyncio.create_task(way) for way in part]
            tasks += begun
            if begun:
                await asyncio.wait(begun, timeout=OTHERS_S)
        if not any(task.done() for task in tasks) and tasks:
            await asyncio.wait(tasks[:1], timeout=WALK_S - OTHERS_S)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for way in ways[len(tasks) :]:
            way.close()


def trail_of(links: Mapping[bytes, Link], record: bytes) -> dict[bytes, int | None]:
    """A record and its ancestors as far as they are known, with their rounds, where these are."""
    trail: dict[bytes, int | None] = {}
    while record in links:
        trail[record] = links[record].round
        record = links[record].parent
    trail.setdefault(record, None)
    return trail
