"""One round machine on a stage: time and messages go in, effects come out and are kept.

What the machine wants applied is applied at once; everything else is left to the test.
"""

import hashlib
from dataclasses import dataclass, field
from typing import TypeVar

from demo_node.sim.keys import peer_name
from demo_protocol.chain import make_bundle
from demo_protocol.effects import Announce, Apply, ComputeRoot, Effect, Train
from demo_protocol.events import (
    Event,
    GossipReceived,
    PayloadsHeld,
    RecordsFetched,
    RootComputed,
    StateApplied,
    Tick,
    TrainingDone,
)
from demo_protocol.identity import Kind
from demo_protocol.limits import DIGEST_BYTES
from demo_protocol.messages import (
    Header,
    Membership,
    Proposal,
    Sealed,
    decode_header,
    decode_proposal,
)
from demo_protocol.payload import typical_payload_bytes
from demo_protocol.round import Round
from demo_protocol.schedule import round_start_ms
from tests.builders import MANIFEST, RUN_ID, STATE_0, Tree, header, root_after, schema_of, view

TRAIN_END, CUT, SLOT_0, SLOT_1, SETTLE = 1_650, 2_150, 2_250, 2_450, 2_700
"""Milliseconds after the beginning of a round (tests.builders.schedule)."""

SENDER = peer_name(77)

Kept = TypeVar("Kept", bound=Effect)


def digest_after(record: bytes) -> bytes:
    """Fingerprint of the parameters after `record`, as everybody on the stage computes it."""
    return STATE_0 if record == RUN_ID else hashlib.sha256(record).digest()[:DIGEST_BYTES]


def time_of(round_: int, ms: int = 0) -> int:
    """Unix milliseconds at `ms` into `round_`."""
    return round_start_ms(MANIFEST.schedule, round_) + ms


@dataclass(slots=True)
class Stage:
    """Node `me`, whose chain begins at `first` (a record of `tree`)."""

    tree: Tree
    first: bytes
    me: int
    machine: Round = field(init=False)
    effects: list[Effect] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        believed = view(self.tree.run, self.me, self.tree.state(self.first))
        believed.digests[self.first] = digest_after(self.first)
        self.machine = Round(believed)

    @property
    def head(self) -> bytes:
        """The node's head."""
        return self.machine.view.head

    def step(self, event: Event) -> list[Effect]:
        """Let something happen; return all that came of it."""
        return self._perform(event.now_ms, self.machine.step(event))

    def tick(self, round_: int, ms: int = 0) -> list[Effect]:
        """Let time pass."""
        return self.step(Tick(time_of(round_, ms)))

    def hear(
        self,
        sealed: Sealed[Header] | Sealed[Proposal] | Sealed[Membership],
        ms: int,
        *,
        round_: int | None = None,
    ) -> list[Effect]:
        """A gossip message comes."""
        now_ms = time_of(sealed.body.round if round_ is None else round_, ms)
        return self.step(GossipReceived(now_ms, sealed.kind, sealed.raw, SENDER))

    def hold(self, sealed: Sealed[Header], ms: int, *, round_: int | None = None) -> list[Effect]:
        """A header's payload comes."""
        at = sealed.body.round if round_ is None else round_
        held = PayloadsHeld(time_of(at, ms), sealed.body.round, (sealed.body.payload_hash,))
        return self.step(held)

    def hear_all(self, record: bytes, ms: int = 2_000, *, round_: int | None = None) -> None:
        """All headers of a record of the tree come, and their payloads."""
        for sealed in self.tree.chain[record].contributions:
            if sealed.body.peer != peer_name(self.me):
                self.hear(sealed, ms, round_=round_)
                self.hold(sealed, ms, round_=round_)

    def give(self, *records: bytes, round_: int, ms: int = 0) -> list[Effect]:
        """Records of the tree are pulled, and then their payloads."""
        bundles = tuple(make_bundle(self.tree.chain[r]) for r in records)
        effects = self.step(RecordsFetched(time_of(round_, ms), bundles, SENDER))
        for record in records:
            for sealed in self.tree.chain[record].contributions:
                effects += self.hold(sealed, ms, round_=round_)
        return effects

    def trained(
        self, round_: int, ms: int = TRAIN_END + 20, *, at: int | None = None
    ) -> list[Effect]:
        """The trainer is done with what it was told to do."""
        orders = only(Train, self.effects)
        mine = header(self.me, round_)
        return self.step(
            TrainingDone(
                now_ms=time_of(round_ if at is None else at, ms),
                round=round_,
                base=orders[-1].base if orders else self.head,
                payload_hash=mine.body.payload_hash,
                payload_bytes=typical_payload_bytes(schema_of(MANIFEST.model), 2),
                k=2,
                samples=8,
                loss_micronats=1_000_000,
            )
        )

    def _perform(self, now_ms: int, effects: list[Effect]) -> list[Effect]:
        self.effects += effects
        done = list(effects)
        for effect in effects:
            if isinstance(effect, Apply):
                applied = StateApplied(now_ms, effect.record, digest_after(effect.record))
                done += self._perform(now_ms, self.machine.step(applied))
            if isinstance(effect, ComputeRoot):
                known = RootComputed(now_ms, effect.record, root_after(effect.record))
                done += self._perform(now_ms, self.machine.step(known))
        return done


def only(kind: type[Kept], effects: list[Effect]) -> list[Kept]:
    """The effects of one kind."""
    return [effect for effect in effects if isinstance(effect, kind)]


def announced_headers(effects: list[Effect]) -> list[Header]:
    """Headers that were announced."""
    return [
        decode_header(e.raw, RUN_ID).body for e in only(Announce, effects) if e.kind is Kind.HEADER
    ]


def announced_proposals(effects: list[Effect]) -> list[Proposal]:
    """Proposals that were announced."""
    return [
        decode_proposal(e.raw, RUN_ID).body
        for e in only(Announce, effects)
        if e.kind is Kind.PROPOSAL
    ]


def grown_tree(rounds: int = 4, members: int = 4) -> tuple[Tree, list[bytes]]:
    """A chain of `rounds` records, one a round, of this many members."""
    tree = Tree()
    first = tree.start(members)
    return tree, [first, *tree.grow_all(first, range(1, rounds), range(members))]
