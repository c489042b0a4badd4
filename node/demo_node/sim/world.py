"""A whole swarm in virtual time: nodes, what lies between them, and what they know in common.

What is a function of bytes alone is computed once for all nodes: signatures, a record's bundle,
the state after it. What a node believes is its own.
"""

import functools
import hashlib
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Set

import numpy as np

from demo_node.believing import leads_through
from demo_node.sim.actor import Actor, Message
from demo_node.sim.founding import EPOCH_MS
from demo_node.sim.keys import cheap_verify
from demo_node.sim.links import Links, Numbers
from demo_node.sim.scenario import Scenario
from demo_node.sim.shelf import Catalogue
from demo_node.sim.snapshots import ModelSnapshot
from demo_node.sim.store import Disk
from demo_node.sim.timeline import Timeline
from demo_node.sim.watching import EXACT_NODES, Watcher
from demo_protocol.answers import encode_bundle
from demo_protocol.astray import find_votes_elsewhere
from demo_protocol.chain import Record, make_bundle, make_record
from demo_protocol.effects import Apply, PullPayload
from demo_protocol.finality import Final
from demo_protocol.identity import Kind, Verify
from demo_protocol.joining import choose_offer
from demo_protocol.limits import DIGEST_BYTES
from demo_protocol.manifest import Manifest, compute_run_id
from demo_protocol.messages import (
    Header,
    Proposal,
    Sealed,
    decode_announcement,
    decode_header,
    decode_membership,
    decode_proposal,
)
from demo_protocol.payload import typical_payload_bytes
from demo_protocol.roster import ChainState
from demo_protocol.schedule import round_at, round_start_ms
from demo_protocol.schema import Schema, compute_schema
from demo_protocol.state_root import compute_state_root
from demo_protocol.validate import check_header

MOMENTS_MS = {0: 1, EXACT_NODES: 20, 3_000: 50}
"""Of so many nodes and more gossip arrives at multiples of so much: fewer, larger steps."""

ASKED = 5
"""Peers that a node asks where they stand, or for what somebody did not give."""


class World:
    """Everything that is simulated. The same seed makes the same world."""

    def __init__(
        self,
        manifest: Manifest,
        scenario: Scenario,
        *,
        seed: int,
        first: ModelSnapshot,
        watcher: Watcher,
    ) -> None:
        """`first`: the state that every node's first life begins with, and its record."""
        self.manifest = manifest
        self.scenario = scenario
        self.seed = seed
        self.first = first
        self.root = first.state
        self.watcher = watcher
        self.run_id = compute_run_id(manifest)
        self.begin_ms = EPOCH_MS
        self.timeline = Timeline(EPOCH_MS)
        self.rng = random.Random(f"{seed}/world")
        self.links = Links(scenario.links, np.random.Generator(np.random.PCG64(seed)))
        self.actors: list[Actor] = []
        self.catalogue = Catalogue()
        self.shared_pieces: dict[bytes, bytes] = {}
        self._named: dict[bytes, Actor] = {}
        self.up: dict[int, None] = {}
        """Living nodes, in the order of their births: a set without an order of its own."""
        self.counts: Counter[str] = Counter()
        self.bytes_in = np.zeros(0, dtype=np.int64)
        self.payload_bytes = typical_payload_bytes(
            compute_schema(manifest.model), manifest.learning.k
        )
        self.payloads: dict[bytes, bytes] = {}
        """Bytes of all that were ever sent, where training is real."""
        self._inbox: dict[int, dict[int, list[Message]]] = {}
        self._everybody: Numbers | None = None
        self._alive: list[int] | None = None
        """Both of `up`, made when they are asked for."""
        self._moment_ms = 1
        self.decode_header = functools.cache(decode_header)
        self.decode_membership = functools.cache(decode_membership)
        self.decode_proposal = functools.cache(decode_proposal)
        self.decode_announcement = functools.cache(decode_announcement)
        self._checked: set[bytes] = set()
        self._records: dict[bytes, Record] = {}
        self._verified: dict[tuple[bytes, bytes], bool] = {}
        self._applied: dict[tuple[bytes, int, tuple[bytes, ...]], bytes] = {}
        self._roots: dict[tuple[bytes, bytes], bytes] = {}
        self._bundles: dict[bytes, bytes] = {}

    # --- nodes -----------------------------------------------------------------------------------

    def add(self, disk: Disk | None = None) -> Actor:
        """One more node, down as yet."""
        self._moment_ms = MOMENTS_MS.get(len(self.actors), self._moment_ms)
        actor = Actor(self, len(self.actors), disk)
        self.actors.append(actor)
        self._named[actor.name] = actor
        self.links.grow(len(self.actors))
        self.bytes_in = np.append(self.bytes_in, 0)
        return actor

    def on_up(self, actor: Actor) -> None:
        """A node's life has begun."""
        self.up[actor.index] = None
        self._everybody = self._alive = None
        self.links.forget_reach()
        self.watcher.on_up(actor)

    def on_down(self, actor: Actor) -> None:
        """A node's life has ended."""
        self.up.pop(actor.index, None)
        self._everybody = self._alive = None
        self.links.forget_reach()
        self.watcher.on_down(actor)

    @property
    def round(self) -> int:
        """The running round by the true clock."""
        return round_at(self.manifest.schedule, self.timeline.now_ms)

    def run_until_round(self, round_: int) -> None:
        """Let time pass until just before `round_` begins."""
        self.timeline.run_until(round_start_ms(self.manifest.schedule, round_) - 1)

    # --- gossip ----------------------------------------------------------------------------------

    def publish(
        self, actor: Actor, kind: Kind, raw: bytes, only: Iterable[int] | None = None
    ) -> None:
        """Gossip of `actor`, to everybody it reaches or to these `only`."""
        receivers = self._audience(actor)
        if only is not None:
            receivers = receivers[np.isin(receivers, np.fromiter(only, dtype=np.int64))]
        who, delays = self.links.gossip_delays_ms(actor.index, receivers)
        np.add.at(self.bytes_in, who, len(raw))
        message = (kind, raw, actor.name)
        moment_ms, inbox = self._moment_ms, self._inbox
        moments = -(-(delays + self.timeline.now_ms) // moment_ms) * moment_ms
        for index, ms in zip(who.tolist(), moments.tolist(), strict=True):
            due = inbox.get(ms)
            if due is None:
                due = inbox[ms] = {}
                self.timeline.at(ms, functools.partial(self._deliver, ms))
            due.setdefault(index, []).append(message)

    def _audience(self, actor: Actor) -> Numbers:
        if self._everybody is None:
            self._everybody = np.fromiter(self.up, dtype=np.int64)
        others: Numbers = self._everybody[self._everybody != actor.index]
        reached = self.links.reach(actor.index, self.up)
        if reached is None:
            return others
        return np.array([i for i in others.tolist() if i in reached], dtype=np.int64)

    def _deliver(self, ms: int) -> None:
        for index, messages in self._inbox.pop(ms).items():
            self.actors[index].hear(messages)

    # --- what nodes ask each other ---------------------------------------------------------------

    def peers_of(self, actor: Actor, count: int) -> list[Actor]:
        """Up to `count` living nodes that `actor` can talk to, at random."""
        if self._alive is None:
            self._alive = list(self.up)
        picked = actor.rng.sample(self._alive, min(count + 1, len(self._alive)))
        others = [i for i in picked if i != actor.index and self.links.is_linked(actor.index, i)]
        return [self.actors[i] for i in others[:count]]

    def can_ask(self, actor: Actor, index: int) -> bool:
        """Does this node answer `actor`?"""
        return index in self.up and self.links.is_linked(actor.index, index)

    def holders(self, actor: Actor, first: Iterable[bytes], *, only: bool = False) -> list[Actor]:
        """Those named, then, unless `only` they will do, some others: by hash, any copy is it."""
        named = [self.find(name) for name in first]
        there = [a for a in named if a and a.is_up and self.links.is_linked(actor.index, a.index)]
        asked = there if only else [*there, *self.peers_of(actor, ASKED)]
        return list({a.index: a for a in asked if a is not actor}.values())

    def find(self, name: bytes) -> Actor | None:
        """The node with this key."""
        return self._named.get(name)

    def find_author(self, actor: Actor, effect: PullPayload) -> Actor | None:
        """Whose payload it is, if that gives it: as a rule, it does."""
        author = self._named.get(effect.holders[0])
        if author is not None and self._gives(author, actor, effect.payload_hash):
            return author
        return None

    def find_holder(
        self, actor: Actor, effect: PullPayload, others: Iterable[Actor]
    ) -> Actor | None:
        """Somebody who gives these bytes, of those who are named or of `others`."""
        for holder in (*self.holders(actor, effect.holders, only=True), *others):
            if self._gives(holder, actor, effect.payload_hash):
                return holder
        return None

    def _gives(self, holder: Actor, asking: Actor, payload: bytes) -> bool:
        withholds = holder.traits.withholds
        return (
            holder.index in self.up
            and payload in holder.disk.payloads
            and self.links.is_linked(asking.index, holder.index)
            and not (withholds is not None and withholds(asking.index, payload))
        )

    # --- where a life begins ---------------------------------------------------------------------

    def choose_start(self, actor: Actor) -> ModelSnapshot:
        """A snapshot of its own on the way to where most peers are; else one of theirs."""
        own = [self.first, *actor.disk.snapshots.kept]
        places = [peer for peer in self.peers_of(actor, ASKED) if not _is_syncing(peer)]
        votes = Counter(peer.view.head for peer in places)
        for peer in sorted(places, key=lambda p: (-votes[p.view.head], p.index)):
            trail = peer.store.list_trail(actor.disk.final)
            if not self._leads_through(trail, actor.disk.final):
                continue
            here = [snapshot for snapshot in own if snapshot.state.record in trail]
            theirs = self._offered_by(peer)
            newest = here[-1] if here else None
            if newest and peer.view.head_state.round - newest.state.round <= self._reach(newest):
                return newest
            if here or theirs:
                return max([*here, *theirs], key=lambda s: s.state.height)
        return own[-1]

    def _leads_through(self, trail: Mapping[bytes, int], final: Final | None) -> bool:
        """Does this way not leave what is final to a node (rule 19)?"""
        forget_rounds = self.manifest.agreement.forget_rounds
        return final is None or leads_through(trail, final, forget_rounds)

    def _reach(self, own: ModelSnapshot) -> int:
        """Rounds that are replayed rather than skipped: as `StartFinder._reach`."""
        agreement = self.manifest.agreement
        is_first = own is self.first
        return agreement.snapshot_every if is_first else agreement.payload_window_rounds // 2

    def _offered_by(self, peer: Actor) -> list[ModelSnapshot]:
        """What a joiner is given: as a rule one that is final there (rule 21)."""
        held = {(s.state.record, self.compute_root(s)): s for s in peer.disk.snapshots.kept}
        offer = choose_offer(peer.view, held)
        return [] if offer is None else [held[offer]]

    def find_below(self, actor: Actor, target: bytes) -> ModelSnapshot | None:
        """A snapshot, its own before a peer's, of a record that was applied on the way."""
        view = actor.view
        way = {s.hash for s in view.chain.ancestors(target) if s.hash in view.digests}
        return self.find_among(actor, way)

    def find_beyond(self, actor: Actor, over: bytes, target: bytes) -> ModelSnapshot | None:
        """A snapshot at `over` or later on the way to `target`."""
        chain = actor.view.chain
        if over not in chain or target not in chain:
            return None
        return self.find_among(actor, {over, *(s.hash for s in chain.path(over, target))})

    def find_among(self, actor: Actor, records: Set[bytes]) -> ModelSnapshot | None:
        """A snapshot of one of these, its own before a peer's, whose digest most confirm."""
        own = [s for s in (self.first, *actor.disk.snapshots.kept) if s.state.record in records]
        if own:
            return own[-1]
        for peer in self.peers_of(actor, ASKED):
            for snapshot in reversed(peer.disk.snapshots.kept):
                record = snapshot.state.record
                claimed = actor.view.claimed_digest(record) if record in records else None
                if record in records and claimed in (None, snapshot.digest):
                    return snapshot
        return None

    def find_elsewhere(self, actor: Actor, above: int) -> ModelSnapshot | None:
        """A snapshot of a chain that does not descend from ours, where a voter named it.

        What is final to a node must be on its way: `BeginAgain.through`, unless it was away long.
        """
        view = actor.view
        named = find_votes_elsewhere(view)
        for peer in self.peers_of(actor, ASKED):
            theirs = peer.view
            if _is_syncing(peer) or theirs.head in view.chain:
                continue
            if theirs.head_state.height <= above:
                continue
            if named and not any(vote in theirs.chain for vote in named):
                continue
            if not self._leads_through(peer.store.list_trail(view.final), view.final):
                continue
            for snapshot in reversed(peer.disk.snapshots.kept):
                record = snapshot.state.record
                if record in theirs.chain and record not in view.chain:
                    return snapshot
        return None

    # --- functions of bytes, computed once -------------------------------------------------------

    def verify(self, key: bytes, message: bytes, signature: bytes) -> bool:
        """A signature, checked by the first who asks."""
        known = self._verified.get((signature, message))
        if known is None:
            known = self._verified[signature, message] = cheap_verify(key, message, signature)
        return known

    def check_header(
        self, header: Sealed[Header], manifest: Manifest, schema: Schema, verify: Verify
    ) -> None:
        """As `validate.check_header`; what held for one node holds for all."""
        if header.raw not in self._checked:  # its hash does not cover the signature
            check_header(header, manifest, schema, verify)
            self._checked.add(header.raw)

    def make_record(
        self,
        manifest: Manifest,
        run_id: bytes,
        parent: ChainState,
        proposal: Sealed[Proposal],
        headers: Mapping[bytes, Sealed[Header]],
        verify: Verify,
    ) -> Record:
        """As `chain.make_record`, by the first who asks: a record's hash names its parent too."""
        known = self._records.get(proposal.hash)
        if known is None:
            known = make_record(manifest, run_id, parent, proposal, headers, verify)
            self._records[proposal.hash] = known
        return known

    def find_before(self, record: bytes, steps: int) -> bytes:
        """The record so many before this one, or the first there is; whoever knows them."""
        for _ in range(steps):
            if record not in self._records:
                break
            record = self._records[record].parent
        return record

    def apply(self, parent_digest: bytes, effect: Apply) -> bytes:
        """The digest after a record: a hash of its parent's and of all payloads, in order."""
        key = (parent_digest, effect.round, effect.payload_hashes)
        known = self._applied.get(key)
        if known is None:
            content = parent_digest + effect.round.to_bytes(8, "big")
            known = self._applied[key] = _make_digest(content + b"".join(effect.payload_hashes))
        return known

    def compute_root(self, snapshot: ModelSnapshot) -> bytes:
        """The Merkle root of a state (rule 21)."""
        key = (snapshot.state.record, snapshot.digest)
        if key not in self._roots:
            self._roots[key] = compute_state_root(snapshot.state, snapshot.leaves)
        return self._roots[key]

    def encoded_bundle(self, record: Record) -> bytes:
        """A record as peers give it to each other, and as the chain log keeps it."""
        known = self._bundles.get(record.hash)
        if known is None:
            known = self._bundles[record.hash] = encode_bundle(make_bundle(record))
        return known


def _is_syncing(actor: Actor) -> bool:
    return actor.machine is None or actor.machine.syncing


def _make_digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()[:DIGEST_BYTES]
