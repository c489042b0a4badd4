"""Where a node's chain begins: at a snapshot of its own, or at one that a peer gives.

A snapshot is of use only if it lies on the chain that the others are on. So the peer's chain is
walked back from its head first; what comes after the start is replayed and compared by digest. A
peer's file is kept only after the trainer has computed the very digest that it claims.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Set
from dataclasses import dataclass, replace

from demo_node.believing import Found, Say, Strangers
from demo_node.ports import Clock, Learner
from demo_node.pull import Puller
from demo_node.store.snapshot_info import SnapshotInfo
from demo_node.store.snapshot_part import compute_part_name
from demo_node.store.snapshots import Snapshot, SnapshotStore
from demo_node.taking import StateTaker
from demo_node.walking import Heads, trail_of
from demo_protocol.answers import decode_chain_state
from demo_protocol.astray import find_votes_elsewhere
from demo_protocol.errors import ConfigError
from demo_protocol.events import Bundle
from demo_protocol.finality import Final
from demo_protocol.identity import Verify
from demo_protocol.joining import Choice, Offer, Refusal
from demo_protocol.manifest import Manifest, compute_run_id
from demo_protocol.roster import ChainState, genesis_state
from demo_protocol.schedule import round_at
from demo_protocol.view import View

WHOLE_RECORDS_MAX = 8192
"""Records that an archive takes in from the genesis on, all at once in memory: tens of megabytes.
A longer run it joins at a snapshot, as everybody does."""

ASK_AGAIN_MS = 1_000
"""Pause before peers that could not be believed are asked again."""

JOINER_PATIENCE = 6
"""A joiner of an old run has nothing of its own to go on from: it waits so many times longer."""


@dataclass(frozen=True, slots=True)
class Promise:
    """Parameters that peers hold: their state's root, and their digest as the next record says."""

    root: bytes
    digest: bytes
    holders: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Start:
    """Where this node's chain begins. `snapshot` is None for state 0.

    `digest` is set where the learner holds the state already; with a `promise` its parameters are
    still to come. `final` is what the peers that were
    believed will not leave, or the operator's anchor. `bundles` are the records after the start,
    the oldest first, where they are too many to be pulled from their end.
    """

    state: ChainState
    snapshot: Snapshot | None
    digest: bytes | None = None
    promise: Promise | None = None
    final: Final | None = None
    bundles: tuple[Bundle, ...] = ()


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
        on_event: Callable[..., None],
        *,
        verify: Verify,
        anchor: bytes = b"",
        count_known: Callable[[], int] = lambda: 0,
        wants_all: bool = False,
    ) -> None:
        """`on_event` is RoundObserver's.

        `anchor`: a record that the operator says is on the run's chain; empty for none. It is
        asked for as long as this node has no chain of its own. `count_known`: how many peers there
        are to be heard, those that cannot be reached left out. One that `wants_all` begins at the
        genesis if anybody still has all payloads since.
        """
        self._manifest = manifest
        self._run_id = compute_run_id(manifest)
        self._snapshots = snapshots
        self._clock = clock
        self._say = say
        self.taker = StateTaker(manifest, snapshots, puller, learner, say, on_event)
        self._on_event = on_event
        self._anchor = anchor
        self._wants_all = wants_all
        self._said: set[str] = set()
        self._begun: set[str] = set()
        self.final: Final | None = None
        """What is final here: a start that peers give must come after it (rule 19)."""
        self.strangers = Strangers(manifest, puller, clock, say, verify, count_known)

    async def choose(self, patience_ms: int) -> Start:
        """The newest start that leads to where the others are; ours while nobody answers.

        A joiner that cannot tell whom to believe (rule 22) asks again for as long as it may, then
        ConfigError 75 is raised. Who has a chain of its own goes on with that instead.
        """
        own = await asyncio.to_thread(self._find_own)
        is_stranger = own.snapshot is None
        is_old = self._is_old()
        if is_stranger and is_old:
            patience_ms *= JOINER_PATIENCE
        deadline_ms = self._clock.now_ms() + patience_ms
        anchor = self._anchor if is_stranger else b""
        while True:
            heads = await self.strangers.wait_for_heads(
                deadline_ms, needs_many=is_stranger and is_old, anchor=anchor
            )
            found = await self._choose_among(heads, own, anchor)
            if isinstance(found, Start):
                return found
            if not is_stranger:
                self._say(f"going on with the chain that is here: {found.reason}")
                return own
            if self._clock.now_ms() >= deadline_ms:
                raise ConfigError(found.reason, exit_code=75)
            await self._clock.sleep_until_ms(self._clock.now_ms() + ASK_AGAIN_MS)

    def _is_old(self) -> bool:
        """May the run be too old to be replayed from state 0?"""
        round_ = round_at(self._manifest.schedule, self._clock.now_ms())
        return round_ > self._manifest.agreement.snapshot_every

    async def _choose_among(self, heads: Heads, own: Start, anchor: bytes) -> Start | Refusal:
        ahead = [(h, a) for h, a in heads if not a.syncing or a.height > own.state.height]
        if not ahead:
            return Refusal("no peer answered that has the anchor") if anchor else own
        if all(a.head == own.state.record for _, a in ahead) and not anchor:
            return own
        found = await self._find_towards(ahead, own, anchor=anchor)
        if found is not None:
            return found
        if anchor:
            return Refusal("nobody gave a snapshot that leads to the anchor; name other peers")
        return own

    async def find_below(self, view: View, target: bytes) -> Start | None:
        """A start at a record that was applied here and that `target` descends from, or equals."""
        return await self.find_among(
            {step.hash for step in view.chain.ancestors(target) if step.hash in view.digests}, view
        )

    async def find_beyond(self, view: View, over: bytes, target: bytes) -> Start | None:
        """A start at `over` or after it, on the way to `target`."""
        if over not in view.chain or target not in view.chain:
            return None  # pruned meanwhile
        steps = view.chain.path(over, target)
        return await self.find_among({over, *(step.hash for step in steps)}, view)

    async def find_among(self, records: Set[bytes], view: View) -> Start | None:
        """The newest start at one of these, ours before a peer's; None where nobody has one.

        Its digest must be the one that most headers give for that record, where any does.
        """
        claims = view.find_claims()
        own = await asyncio.to_thread(self._find_own, records, claims)
        if own.state.record in records:
            return own
        for holder, head in await self.strangers.ask():
            record, root = head.snapshot_record, head.snapshot_root
            if record not in records or record not in view.chain:
                continue
            children = (view.chain[child] for child in view.chain.children[record])
            if not root or all(child.state_root != root for child in children):
                continue  # no record carries it (rule 21)
            state, claimed = view.chain[record].state, claims.get(record)
            taken = await self.taker.take(root, state, (holder,), claimed)
            if taken is not None:
                return Start(state, *taken)
        return None

    async def find_elsewhere(self, view: View, above: int = 0) -> Start | None:
        """A start on the chain that level peers are on, where it does not descend from ours.

        It must have more than `above` records, and one that a voter named, where any did.
        """
        named = find_votes_elsewhere(view)
        elsewhere = [
            (holder, head)
            for holder, head in await self.strangers.ask()
            if not head.syncing and head.head not in view.chain and head.height > above
        ]
        own = await asyncio.to_thread(self._find_own)
        found = await self._find_towards(elsewhere, own, named) if elsewhere else None
        if isinstance(found, Refusal):
            self._say(found.reason)
        if not isinstance(found, Start) or found.state.record in view.chain:
            return None
        return await self.fulfil(found) if found.promise else found

    async def find_rival(self, records: Collection[bytes]) -> Start | None:
        """A start on a chain that holds one of these: the operator has decided for it."""
        heads = [(h, head) for h, head in await self.strangers.ask() if not head.syncing]
        own = await asyncio.to_thread(self._find_own)
        self.final = None
        found = await self._find_towards(heads, own, records) if heads else None
        if isinstance(found, Refusal):
            self._say(found.reason)
        if not isinstance(found, Start):
            return None
        return await self.fulfil(found) if found.promise else found

    async def _find_towards(
        self, heads: Heads, own: Start, named: Collection[bytes] = (), anchor: bytes = b""
    ) -> Start | Refusal | None:
        """Our newest start on the way to where rule 22 leads, if it is near; else a peer's.

        Where records were `named`, only chains that hold one of them are looked at. None where
        nobody has a snapshot on the way.
        """
        is_whole = self._wants_all and own.snapshot is None
        window = self._manifest.agreement.payload_window_rounds  # what is older is not replayed
        newest_round = max(head.round for _, head in heads)
        self._begun = await asyncio.to_thread(self._snapshots.list_parts)
        reach = window // 2 if self._begun else self._reach(own)
        found = await self.strangers.choose(
            heads,
            floor_round=-1 if is_whole else newest_round - reach,
            steps_max=WHOLE_RECORDS_MAX if is_whole else window,
            anchor=anchor,
            named=named,
            through=self.final,
        )
        if not isinstance(found, Found):
            return found
        start = await self._find_on(found)
        if start is None:
            return None
        final = found.find_final(start.state, anchor or found.choice.final)
        bundles = self._list_bundles(start, found) if is_whole else ()
        return replace(start, final=final, bundles=bundles)

    async def _find_on(self, found: Found) -> Start | None:
        """A start on the way that was chosen: ours, or a snapshot of those that were believed."""
        choice, trail = found.choice, trail_of(found.walk.links, found.choice.head)
        own = await asyncio.to_thread(self._find_own, trail)
        if own.state.record in trail:
            is_near = (trail[choice.head] or 0) - own.state.round <= self._reach(own)
            if is_near or (own.snapshot is None and self._wants_all and _has_all(found)):
                return own
        for offer in (*self._list_begun(choice), *choice.offers):
            start = await self._begin_at(offer, found)
            if start is not None:
                return start
        return None

    def _list_begun(self, choice: Choice) -> list[Offer]:
        """What an earlier process began to fetch, where it is on the way: much of it is here."""
        ways = [
            choice.trail[o.record]
            for o in choice.offers
            if o.is_common and o.record in choice.trail
        ]
        newest_round = max((link.round for link in ways), default=-1)
        return [
            Offer(link.record, choice.believed, is_common=link.round <= newest_round)
            for link in choice.trail.values()
            if link.root and compute_part_name(link.root) in self._begun
        ]

    async def _begin_at(self, offer: Offer, found: Found) -> Start | None:
        """A start whose parameters are still to come; None where it cannot be believed."""
        link = found.walk.links[offer.record]
        state = await self.taker.fetch_chain_state(link.root, link.parent, offer.holders)
        if state is None or not await self.strangers.may_take(offer, state, found.walk):
            return None
        if state.round >= link.round:
            self._say("a snapshot was refused: its round is not that of its record")
            return None
        return Start(state, None, promise=Promise(link.root, link.digest, offer.holders))

    async def fulfil(self, start: Start) -> Start | None:
        """Fetch what a start promised; None where nobody gives it any more."""
        assert start.promise is not None
        taken = await self.taker.take(start.promise.root, start.state, start.promise.holders)
        return replace(start, snapshot=taken[0], digest=taken[1], promise=None) if taken else None

    def _list_bundles(self, start: Start, found: Found) -> tuple[Bundle, ...]:
        """All records after `start`, the oldest first."""
        after = [k.record for k in found.choice.trail.values() if k.round > start.state.round]
        return tuple(found.walk.bundles[record] for record in reversed(after))

    def _find_own(
        self, trail: Collection[bytes] | None = None, claims: Mapping[bytes, bytes] | None = None
    ) -> Start:
        """The newest snapshot on disk, of the records in `trail` if given; else state 0.

        It has the digest that is claimed of its record, where one is.
        """

        def is_wanted(info: SnapshotInfo) -> bool:
            is_on_way = trail is None or info.record in trail
            return is_on_way and (claims or {}).get(info.record, info.digest) == info.digest

        snapshot, skipped = self._snapshots.newest(is_wanted)
        for reason in set(skipped) - self._said:
            self._said.add(reason)
            self._on_event("snapshot.skipped", reason=reason)
        if snapshot is None:
            return Start(genesis_state(self._run_id), None)
        return Start(decode_chain_state(snapshot.info.chain_state), snapshot)

    def _reach(self, own: Start) -> int:
        """Rounds that are replayed rather than skipped by a peer's snapshot.

        Replaying a few costs less than a snapshot; payloads of half the window are surely held.
        """
        agreement = self._manifest.agreement
        return agreement.payload_window_rounds // 2 if own.snapshot else agreement.snapshot_every


def _has_all(found: Found) -> bool:
    """Has anybody who is believed the payloads of all records since the genesis?"""
    first = min((link.round for link in found.choice.trail.values()), default=0)
    return any(found.answers[peer].payloads_from <= first for peer in found.choice.believed)
