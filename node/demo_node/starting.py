"""Where a node's chain begins: at a snapshot of its own, or at one that a peer gives.

A snapshot is of use only if it lies on the chain that the others are on. So the peer's chain is
walked back from its head first; what comes after the start is replayed and compared by digest. A
peer's file is kept only after the trainer has computed the very digest that it claims.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from demo_node.ports import Blob, BlobRequest, Clock, Learner
from demo_node.pull import Puller
from demo_node.store.snapshots import Snapshot, SnapshotStore
from demo_node.sync import Say, fetch_heads
from demo_protocol.answers import HeadAnswer, decode_chain_state, decode_records
from demo_protocol.errors import Reject
from demo_protocol.limits import (
    BLOB_BYTES_MAX,
    RECORDS_PER_REPLY_MAX,
    RECORDS_REPLY_BYTES_MAX,
)
from demo_protocol.manifest import Manifest, compute_run_id
from demo_protocol.messages import decode_proposal
from demo_protocol.roster import ChainState, genesis_state
from demo_protocol.schedule import round_at
from demo_protocol.view import View

SNAPSHOT_TIMEOUT_S = 1800.0
"""Half a gigabyte at 2 Mbit/s."""

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
    ) -> None:
        self._manifest = manifest
        self._run_id = compute_run_id(manifest)
        self._snapshots = snapshots
        self._puller = puller
        self._learner = learner
        self._clock = clock
        self._say = say
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
            if head.snapshot_record in records:
                adopted = await self._fetch(holder, head, view.claimed_digest(head.snapshot_record))
                if adopted is not None:
                    return adopted
        return None

    async def find_elsewhere(self, view: View, above: int = 0) -> Start | None:
        """A start on the chain that level peers are on, where it does not descend from ours.

        It must have more than `above` records.
        """
        for holder, head in _sort(await fetch_heads(self._puller)):
            if not head.syncing and head.head not in view.chain and head.height > above:
                found = await self._find_towards(holder, head)
                if found is not None and found.state.record not in view.chain:
                    return found
        return None

    async def _find_towards(self, holder: bytes, head: HeadAnswer) -> Start | None:
        """Our newest start on the way to a peer's head, if it is near; else that peer's."""
        own = await asyncio.to_thread(self._find_own)
        trail = await self._walk(holder, head, head.round - self._reach(own))
        found = await asyncio.to_thread(self._find_own, trail)
        is_near = head.round - found.state.round <= self._reach(found)
        if found.state.record in trail and is_near:
            return found
        return await self._fetch(holder, head) if head.snapshot_record in trail else None

    def _find_own(self, trail: Iterable[bytes] | None = None) -> Start:
        """The newest snapshot on disk, of the records in `trail` if given; else state 0."""
        snapshot, skipped = self._snapshots.newest(
            lambda info: trail is None or info.record in trail
        )
        for reason in set(skipped) - self._said:
            self._said.add(reason)
            self._say(reason)
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

    async def _walk(self, holder: bytes, head: HeadAnswer, floor_round: int) -> set[bytes]:
        """The peer's head and its ancestors down to the first not after `floor_round`.

        Bounded by the payload window: whatever is older than that cannot be replayed.
        """
        trail = {head.head}
        name = head.head
        steps_left = self._manifest.agreement.payload_window_rounds
        while steps_left > 0 and name != self._run_id:
            request = BlobRequest(Blob.RECORDS, name, RECORDS_PER_REPLY_MAX)
            raw = await self._puller.ask(holder, request, RECORDS_REPLY_BYTES_MAX)
            links = self._read_links(raw)
            if not links or links[0][0] != name:
                break
            for record, parent, round_ in links:
                if record != name:
                    return trail  # not a chain: what was linked so far is one
                if round_ <= floor_round:
                    return trail
                trail.add(parent)
                name = parent
                steps_left -= 1
        return trail

    def _read_links(self, raw: bytes | None) -> list[tuple[bytes, bytes, int]]:
        """(record, parent, round) of an answer to RECORDS, newest first; empty if it is none."""
        try:
            bundles = decode_records(raw or b"")
            proposals = [decode_proposal(bundle.proposal, self._run_id) for bundle in bundles]
        except Reject:
            return []
        return [(p.hash, p.body.parent, p.body.round) for p in reversed(proposals)]

    async def _fetch(
        self, holder: bytes, head: HeadAnswer, claimed: bytes | None = None
    ) -> Start | None:
        """The peer's snapshot, kept on our disk; None where it gave none that can be believed.

        `claimed` is the digest it must have, if others say one.
        """
        if not head.snapshot_hash or head.snapshot_bytes > BLOB_BYTES_MAX:
            return None
        self._say(f"fetching a snapshot ({head.snapshot_bytes / 1e6:.1f} MB)")
        request = BlobRequest(Blob.SNAPSHOT, head.snapshot_hash)
        raw = await self._puller.ask(holder, request, head.snapshot_bytes, SNAPSHOT_TIMEOUT_S)
        if raw is None:
            return None
        try:
            info = await asyncio.to_thread(self._snapshots.inspect, raw, head.snapshot_hash)
            state = decode_chain_state(info.chain_state)
            # The trainer has the last word on what is in there, before anything is kept.
            digest = await self._learner.load(info.record, raw)
        except Reject as error:
            self._say(f"a peer's snapshot was refused: {error}")
            return None
        is_that = state.record == info.record == head.snapshot_record
        if not is_that or digest != info.digest or digest != (claimed or digest):
            self._say("a peer's snapshot was refused: it is not what it says")
            return None
        snapshot = await asyncio.to_thread(self._snapshots.adopt, raw, head.snapshot_hash)
        return Start(state, snapshot, digest)


def _sort(heads: Heads) -> Heads:
    """Those that are level first, then those whom most agree with, then the highest."""
    votes = Counter(head.head for _, head in heads)
    return sorted(heads, key=lambda h: (h[1].syncing, -votes[h[1].head], -h[1].height))
