"""What must hold at every moment of every simulation, whatever happens and whoever lies.

Each is told of what happened since, and looks at no more than that; `agreeing.py` has those that
compare nodes. The words in `name` complete "it is broken that ...".
"""

import itertools
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from demo_node.sim.watching import EXACT_NODES, Invariant
from demo_protocol.chain import Record
from demo_protocol.effects import Effect, KeepRecord, Persist, Train
from demo_protocol.errors import Ignore, Reject
from demo_protocol.events import Event, StartMoved, StateApplied, StatesLost
from demo_protocol.identity import Kind
from demo_protocol.limits import (
    EVIDENCE_KEPT_MAX,
    HEADERS_PER_ROUND_MAX,
    JOINS_KEPT_MAX,
    PENDING_MAX,
    STATES_KEPT,
)
from demo_protocol.view import View

if TYPE_CHECKING:
    from demo_node.sim.actor import Actor
    from demo_node.sim.world import World

SIGNED_KEPT = 128
"""Rounds for which is remembered who signed what: no log of a node remembers more."""

WORK_KEPT = 32
"""Records of one chain whose samples are compared with each other: nothing reaches further back."""


class EqualStates(Invariant):
    """Rule 20 and section 4: what follows from equal records is equal to the last bit."""

    name = "equal records have equal digests"

    def __init__(self) -> None:
        super().__init__()
        self._digests: dict[bytes, tuple[bytes, int]] = {}

    def on_step(self, actor: "Actor", event: Event, effects: list[Effect]) -> None:
        """A state is known in three ways."""
        match event:
            case StateApplied(_, record, digest) | StatesLost(_, record, digest):
                self.check(actor.index, record, digest)
            case StartMoved(_, state, digest):
                self.check(actor.index, state.record, digest)
            case _:
                pass

    def on_signed(self, actor: "Actor", effect: Persist) -> None:
        """What a node says of a state is what it computed itself (rule 9)."""
        if effect.kind is Kind.HEADER:
            header = actor.world.decode_header(effect.raw, actor.world.run_id).body
            self.check(actor.index, header.base, header.digest)

    def check(self, node: int, record: bytes, digest: bytes) -> None:
        """A node says that this is the digest after this record."""
        known, first = self._digests.setdefault(record, (digest, node))
        if known != digest:
            text = f"record {record.hex()[:6]}: {digest.hex()} here, {known.hex()} there"
            self.report(text, node, first)


class SignsOnce(Invariant):
    """Rule 10: of one kind and round an honest node signs one message, in all of its lives."""

    name = "nobody honest signs twice"

    def __init__(self) -> None:
        super().__init__()
        self._signed: dict[int, dict[tuple[Kind, int], bytes]] = {}

    def on_signed(self, actor: "Actor", effect: Persist) -> None:
        """What is written down is sent."""
        of_round = self._signed.setdefault(effect.round, {})
        known = of_round.setdefault((effect.kind, actor.index), effect.hash)
        if known != effect.hash:
            self.report(
                f"node {actor.index} signed two {effect.kind.value}s of round {effect.round}",
                actor.index,
            )
        for round_ in [r for r in self._signed if r < effect.round - SIGNED_KEPT]:
            del self._signed[round_]


class SamplesOnce(Invariant):
    """Rule T5: no sample twice on one chain in an epoch.

    Every record deals out samples from where its parent's end. So it is enough that those its
    members worked through, as their nodes were told to, lie between the parent's cursor and its
    own, and that no two overlap. With `overlap_rounds` an older record deals: then no two of the
    newest records may have any in common. Not looked at, and counted: work on another base than the
    record that deals (rule 9), and probes of those who were not dealt any.
    """

    name = "no sample is trained on twice on one chain"

    def __init__(self) -> None:
        super().__init__()
        self.checked = self.sibling_bases = self.probes = self.missed = 0
        self._ordered: dict[int, dict[bytes, Train]] = {}
        self._seen: set[bytes] = set()
        self._worked: dict[bytes, list[tuple[int, int]]] = {}

    def on_step(self, actor: "Actor", event: Event, effects: list[Effect]) -> None:
        """What a node was told to train on, and what became a record."""
        for effect in effects:
            if isinstance(effect, Train):
                self._order(actor, effect)
            elif isinstance(effect, KeepRecord) and effect.record not in self._seen:
                self._seen.add(effect.record)
                self._look(actor.view, effect.record)

    def _order(self, actor: "Actor", train: Train) -> None:
        self._ordered.setdefault(train.round, {})[actor.name] = train
        for round_ in [r for r in self._ordered if r < train.round - SIGNED_KEPT]:
            del self._ordered[round_]

    def _look(self, view: View, name: bytes) -> None:
        record = view.chain.records.get(name)
        if record is None or record.parent not in view.chain:
            return
        begin = view.chain[record.parent].state.cursor
        dealer = view.chain.find_dealer(record.parent, record.round)
        spans = sorted(self._spans(record, dealer.hash))
        self.checked += len(spans)
        ends = [begin, *(end for _, end in spans)]
        starts = [*(first for first, _ in spans), record.state.cursor]
        if view.manifest.agreement.overlap_rounds:
            self._worked[name] = spans
            path = itertools.islice(view.chain.ancestors(name), WORK_KEPT)
            listed = sorted(s for step in path for s in self._worked.get(step.hash, ()))
            ends = [end for _, end in listed[:-1]]
            starts = [first for first, _ in listed[1:]]
        self.missed += record.state.cursor - begin - sum(end - first for first, end in spans)
        if any(end > first for end, first in zip(ends, starts, strict=True)):
            self.report(
                f"record {name.hex()[:6]} of round {record.round}: samples {spans} of {begin} to"
                f" {record.state.cursor}",
                *(),
            )

    def _spans(self, record: Record, dealer: bytes) -> Iterator[tuple[int, int]]:
        """What members of honest nodes worked through on the record that deals."""
        ordered = self._ordered.get(record.round, {})
        for header in record.contributions:
            train = ordered.get(header.body.peer)
            if train is None or not header.body.samples:
                continue
            if train.probation_key:
                self.probes += 1
            elif header.body.base != dealer:
                self.sibling_bases += 1
            elif train.base == dealer:
                yield train.sample_first, train.sample_first + header.body.samples


class HonestWords(Invariant):
    """What an honest node says or gives, no honest node rejects: that would cost it its place."""

    name = "no honest node rejects what an honest one gave"

    def on_rejected(self, actor: "Actor", error: Ignore | Reject, sender: bytes) -> None:
        """`sender` handed it over, having checked it itself."""
        giver = actor.world.find(sender)
        if isinstance(error, Reject) and giver is not None and not giver.traits.how:
            self.report(
                f"node {actor.index} rejected what node {giver.index} gave: {error}",
                actor.index,
                giver.index,
            )


class Bounds(Invariant):
    """limits.py: whatever others send, what a node remembers stays within its bounds."""

    name = "queues and memory stay within limits.py"

    def __init__(self) -> None:
        super().__init__()
        self.largest: Counter[str] = Counter()

    def on_step(self, actor: "Actor", event: Event, effects: list[Effect]) -> None:
        """Cheap: some lengths."""
        if len(actor.world.actors) <= EXACT_NODES:
            self.check(actor)

    def on_round_ended(self, world: "World", round_: int) -> None:
        """Of a large world once a round."""
        for index in world.up:
            self.check(world.actors[index])

    def check(self, actor: "Actor") -> None:
        """Report what is larger than it may be."""
        assert actor.machine is not None
        for what, size, most in _sizes(actor.view, len(actor.machine.replica.states)):
            if size > self.largest[what]:
                self.largest[what] = size
                if size > most:
                    self.report(f"node {actor.index}: {size} {what}, {most} at most", actor.index)


def _sizes(view: View, states: int) -> Iterator[tuple[str, int, int]]:
    pool, agreement = view.pool, view.manifest.agreement
    heard = agreement.late_rounds + 2  # those of a round ahead, too
    # Records are kept as long where nothing is final, and headers of the other side come with them.
    kept = max(agreement.payload_window_rounds, agreement.forget_rounds) + heard
    known = len(view.head_state.known)
    per_round = HEADERS_PER_ROUND_MAX + known
    newest = len(pool.by_round.get(view.round, ()))
    yield "headers of a round", newest, per_round
    yield "rounds of headers", len(pool.by_round), kept
    yield "waiting proposals", len(pool.pending), PENDING_MAX
    yield "wishes", len(pool.wishes), JOINS_KEPT_MAX + known
    yield "awaited proposals", len(pool.awaited), PENDING_MAX
    yield "offences", len(pool.offences), EVIDENCE_KEPT_MAX
    yield "votes", len(view.votes.newest), known + heard * per_round
    yield "cuts remembered", len(view.held_at_cut), heard
    yield "states", states, 3 * (STATES_KEPT + 1) + 1  # of three branches at once
    yield "records", len(view.chain.records), 8 * kept
