"""Where a node's chain begins: at a snapshot of its own, or at one that a peer gives.

A snapshot is of use only if it lies on the chain that the others are on. So the peer's chain is
walked back from its head first; what comes after the start is replayed and compared by digest. A
peer's file is kept only after the trainer has computed the very digest that it claims.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from demo_node.ports import Blob, BlobRequest, Clock, Learner
from demo_node.pull import Puller
from demo_node.store.initial import compute_bytes_max
from demo_node.store.snapshots import Snapshot, SnapshotInfo, SnapshotStore
from demo_node.sync import Say, fetch_heads
from demo_protocol.answers import (
    HeadAnswer,
    Link,
    decode_chain_state,
    decode_links,
    decode_records,
)
from demo_protocol.astray import find_votes_elsewhere
from demo_protocol.errors import Reject
from demo_protocol.limits import (
    RECORDS_PER_REPLY_MAX,
    RECORDS_REPLY_BYTES_MAX,
)
from demo_protocol.manifest import Manifest, compute_run_id
from demo_protocol.roster import ChainState, genesis_state
from demo_protocol.schedule import round_at
from demo_protocol.schema import compute_schema
from demo_protocol.view import View

SNAPSHOT_TIMEOUT_S = 1800.0
"""Half a gigabyte at 2 Mbit/s."""

WALK_S = 60.0
"""The headers of a whole payload window are a few megabytes."""

LOOK_AGAIN_MS = 200
"""How often a node that waits for a peer looks around."""

JOINER_PATIENCE = 6
"""A joiner of an old run has nothing of its own to go on from: it waits so many times longer."""

Heads = list[tuple[bytes, HeadAnswer]]
"""(peer, where it stands)."""


@dataclass(frozen=True, slots=True)
class Start:
    """Where this node's chain begins. `snapshot` is None for state 0.

    `digest` is set where the learner holds the state already.
    """

    state: ChainState
    snapshot: Snapshot | None
    digest: bytes | None = None


class StartFinder:
    """Looks on our disk first, then asks around."""

    def __init__(
        self,
        manifest: Manifest,
        snapshots: SnapshotStore,
        puller: Puller,
        learner: Learner,
        clock: Clock,
        say: Say,
        on_skipped: Say,
    ) -> None:
        """`on_skipped` is told why a snapshot of ours was passed over."""
        self._manifest = manifest
        self._run_id = compute_run_id(manifest)
        self._snapshots = snapshots
        self._puller = puller
        self._learner = learner
        self._clock = clock
        self._say = say
        self._on_skipped = on_skipped
        self._said: set[str] = set()

    async def choose(self, patience_ms: int) -> Start:
        """The newest start that leads to where the others are; ours while nobody answers."""
        own = await asyncio.to_thread(self._find_own)
        for holder, head in await self._wait_for_heads(own, patience_ms):
            if head.head == own.state.record:
                return own
            if head.syncing and head.height <= own.state.height:
                continue
            found = await self._find_towards(holder, head)
            if found is not None:
                return found
        return own

    async def find_below(self, view: View, target: bytes) -> Start | None:
        """A start at a record that was applied here and that `target` descends from, or equals."""
        return await self._find_among(
            {step.hash for step in view.chain.ancestors(target) if step.hash in view.digests}, view
        )

    async def find_beyond(self, view: View, over: bytes, target: bytes) -> Start | None:
        """A start at `over` or after it, on the way to `target`."""
        if over not in view.chain or target not in view.chain:
            return None  # pruned meanwhile
        steps = view.chain.path(over, target)
        return await self._find_among({over, *(step.hash for step in steps)}, view)

    async def _find_among(self, records: set[bytes], view: View) -> Start | None:
        """The newest start at one of these, ours before a peer's; None where nobody has one.

        A peer's digest must be the one that most headers give for that record, where any does.
        """
        own = await asyncio.to_thread(self._find_own, records)
        if own.state.record in records:
            return own
        for holder, head in await fetch_heads(self._puller):
            record = head.snapshot_record
            if record in records and record in view.chain:
                state = view.chain[record].state
                adopted = await self._fetch(holder, head, state, view.claimed_digest(record))
                if adopted is not None:
                    return adopted
        return None

    async def find_elsewhere(self, view: View, above: int = 0) -> Start | None:
        """A start on the chain that level peers are on, where it does not descend from ours.

        It must have more than `above` records, and one that a voter named, where any did.
        """
        named = find_votes_elsewhere(view)
        for holder, head in _sort(await fetch_heads(self._puller)):
            if not head.syncing and head.head not in view.chain and head.height > above:
                found = await self._find_towards(holder, head, named)
                if found is not None and found.state.record not in view.chain:
                    return found
        return None

    async def _find_towards(
        self, holder: bytes, head: HeadAnswer, named: Collection[bytes] = ()
    ) -> Start | None:
        """Our newest start on the way to a peer's head, if it is near; else that peer's.

        None where records were `named` and none of them is on that way.
        """
        own = await asyncio.to_thread(self._find_own)
        trail = await self._walk(holder, head, head.round - self._reach(own))
        if named and trail.keys().isdisjoint(named):
            return None
        found = await asyncio.to_thread(self._find_own, trail)
        is_near = head.round - found.state.round <= self._reach(found)
        if found.state.record in trail and is_near:
            return found
        if head.snapshot_record not in trail:
            return None
        return await self._fetch(holder, head, round_=trail[head.snapshot_record])

    def _find_own(self, trail: Iterable[bytes] | None = None) -> Start:
        """The newest snapshot on disk, of the records in `trail` if given; else state 0."""
        snapshot, skipped = self._snapshots.newest(
            lambda info: trail is None or info.record in trail
        )
        for reason in set(skipped) - self._said:
            self._said.add(reason)
            self._on_skipped(reason)
        if snapshot is None:
            return Start(genesis_state(self._run_id), None)
        return Start(decode_chain_state(snapshot.info.chain_state), snapshot)

    def _reach(self, own: Start) -> int:
        """Rounds that are replayed rather than skipped by a peer's snapshot.

        Replaying a few costs less than a snapshot; payloads of half the window are surely held.
        """
        agreement = self._manifest.agreement
        return agreement.payload_window_rounds // 2 if own.snapshot else agreement.snapshot_every

    async def _wait_for_heads(self, own: Start, patience_ms: int) -> Heads:
        """Where peers stand, best first.

        Waits for one that is level. One that is syncing itself says nothing of where the run is,
        but whoever else it knows is being dialled meanwhile.
        """
        now_ms = self._clock.now_ms()
        is_old = round_at(self._manifest.schedule, now_ms) > self._manifest.agreement.snapshot_every
        if own.snapshot is None and is_old:
            patience_ms *= JOINER_PATIENCE
        deadline_ms = now_ms + patience_ms
        while True:
            heads = await fetch_heads(self._puller)
            if any(not head.syncing for _, head in heads) or self._clock.now_ms() >= deadline_ms:
                break
            await self._clock.sleep_until_ms(self._clock.now_ms() + LOOK_AGAIN_MS)
        return _sort(heads)

    async def _walk(
        self, holder: bytes, head: HeadAnswer, floor_round: int
    ) -> dict[bytes, int | None]:
        """The peer's head and its ancestors down to the first not after `floor_round`.

        With their rounds, where these are known. Bounded by the payload window, as what is older
        cannot be replayed, and by time: a peer may answer with little, and slowly.
        """
        trail: dict[bytes, int | None] = {head.head: None}
        name = head.head
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WALK_S):
                window = self._manifest.agreement.payload_window_rounds
                while len(trail) <= window and name != self._run_id:
                    links = await self._ask_links(holder, name)
                    if not links:
                        break
                    for link in links:
                        trail[link.record] = link.round
                        if link.round <= floor_round:
                            return trail
                        trail[link.parent] = None
                        name = link.parent
        return trail

    async def _ask_links(self, holder: bytes, name: bytes) -> list[Link]:
        """A record and its ancestors, newest first; empty where the peer's answer is no chain."""
        request = BlobRequest(Blob.RECORDS, name, RECORDS_PER_REPLY_MAX)
        raw = await self._puller.ask(holder, request, RECORDS_REPLY_BYTES_MAX)
        try:
            return decode_links(decode_records(raw or b""), self._run_id, name)
        except Reject:
            return []

    async def _fetch(
        self,
        holder: bytes,
        head: HeadAnswer,
        state: ChainState | None = None,
        claimed: bytes | None = None,
        *,
        round_: int | None = None,
    ) -> Start | None:
        """The peer's snapshot, kept on our disk; None where it gave none that can be believed.

        What it says must be `state`, the digest `claimed` and the record's round `round_`, where
        these are known.
        """
        bytes_max = compute_bytes_max(compute_schema(self._manifest.model).parameters)
        if not head.snapshot_hash or head.snapshot_bytes > bytes_max:
            return None
        self._say(f"fetching a snapshot ({head.snapshot_bytes / 1e6:.1f} MB)")
        request = BlobRequest(Blob.SNAPSHOT, head.snapshot_hash)
        raw = await self._puller.ask(holder, request, head.snapshot_bytes, SNAPSHOT_TIMEOUT_S)
        if raw is None:
            return None
        try:
            info = await asyncio.to_thread(self._snapshots.inspect, raw, head.snapshot_hash)
            found = decode_chain_state(info.chain_state)
            self._check(found, info, head.snapshot_record, round_)
            if state is not None and found != state:
                raise Reject("it says otherwise than the chain who is in")
            if claimed is not None and info.digest != claimed:
                raise Reject("most headers say another digest")
            # The trainer has the last word on what is in there, before anything is kept.
            digest = await self._learner.load(info.record, raw)
            if digest != info.digest:
                await self._learner.forget([info.record])
                raise Reject("it is not what it says")
        except Reject as error:
            self._say(f"a peer's snapshot was refused: {error}")
            return None
        snapshot = await asyncio.to_thread(self._snapshots.adopt, raw, head.snapshot_hash)
        return Start(found, snapshot, digest)

    def _check(
        self, state: ChainState, info: SnapshotInfo, record: bytes, round_: int | None
    ) -> None:
        """Raise Reject where a snapshot is of another record than was announced, or contradicts
        itself: by what it says of itself its file is named, kept and found again.
        """
        now_round = round_at(self._manifest.schedule, self._clock.now_ms())
        if not state.record == info.record == record:
            raise Reject("it is of another record")
        if (state.round, state.height) != (info.round, info.height) or state.round > now_round + 1:
            raise Reject("its round is not that of its record")
        if round_ is not None and state.round != round_:
            raise Reject("its round is not that of its record")


def _sort(heads: Heads) -> Heads:
    """Those that are level first, then those whom most agree with, then the highest."""
    votes = Counter(head.head for _, head in heads)
    return sorted(heads, key=lambda h: (h[1].syncing, -votes[h[1].head], -h[1].height))
