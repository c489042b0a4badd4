"""Valid things to start a test from; each argument makes one of them different."""

import functools
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from demo_node.sim.keys import cheap_sign, cheap_verify, peer_name
from demo_node.sim.whole.virtual_loop import EPOCH_MS
from demo_protocol.answers import Link
from demo_protocol.chain import Chain, Record
from demo_protocol.manifest import (
    Agreement,
    Data,
    Learning,
    Manifest,
    Model,
    carries_root,
    compute_run_id,
)
from demo_protocol.messages import (
    Evidence,
    Header,
    Membership,
    Proposal,
    Sealed,
    seal_header,
    seal_membership,
    seal_proposal,
)
from demo_protocol.payload import typical_payload_bytes
from demo_protocol.roster import ChainState, Member, compute_rank, genesis_state, get_member_names
from demo_protocol.schedule import Schedule
from demo_protocol.schema import compute_schema
from demo_protocol.view import View

STATE_0 = b"digest 0"
"""Digest of the parameters that every hand-made view starts from."""


def names(*authors: int) -> set[bytes]:
    """Public keys of these nodes."""
    return {peer_name(author) for author in authors}


def root_after(record: bytes) -> bytes:
    """Merkle root of the state after `record`, as everybody on the stage computes it (rule 21)."""
    return hashlib.sha256(b"root" + record).digest()


def schedule(**changes: int) -> Schedule:
    """Three-second rounds, as `make swarm` has them."""
    usual = Schedule(
        genesis_ms=EPOCH_MS + 1_000,
        round_ms=3_000,
        train_bps=5_500,
        contribute_bps=2_000,
        propose_bps=1_500,
        slots=2,
        slot_offset_ms=200,
        skew_max_ms=100,
    )
    return replace(usual, **changes)


def manifest(
    *,
    schedule_: Schedule | None = None,
    agreement: Agreement | None = None,
    learning: Learning | None = None,
) -> Manifest:
    """A run of a model so small that payloads are some fifty bytes."""
    return Manifest(
        name="test",
        seed=1,
        schedule=schedule_ or schedule(),
        agreement=agreement or Agreement(contributors=0),
        model=Model(layers=1, width=64, hidden=64, heads=2, context=16),
        learning=learning or Learning(k=2, samples_start=8),
        data=Data(kind="stdlib-bytes", root="00" * 32, train_bytes=10_000, heldout_bytes=1_000),
    )


run_id_of = functools.cache(compute_run_id)
schema_of = functools.cache(compute_schema)

MANIFEST = manifest()
RUN_ID = run_id_of(MANIFEST)


def header(
    author: int = 0,
    round_: int = 0,
    *,
    run: Manifest = MANIFEST,
    vote: bytes | None = None,
    base: bytes | None = None,
    digest: bytes = STATE_0,
    k: int = 2,
    samples: int = 8,
    payload_hash: bytes | None = None,
) -> Sealed[Header]:
    """A signed header of node `author`; `k` 0 makes it a heartbeat."""
    run_id, peer = run_id_of(run), peer_name(author)
    usual_hash = bytes([author, round_ % 256]) * 16 if k else b""
    return seal_header(
        Header(
            round=round_,
            peer=peer,
            base=run_id if base is None else base,
            digest=digest,
            vote=run_id if vote is None else vote,
            payload_hash=usual_hash if payload_hash is None else payload_hash,
            payload_bytes=typical_payload_bytes(schema_of(run.model), k),
            k=k,
            samples=samples if k else 0,
            loss_micronats=1_000_000,
        ),
        run_id,
        cheap_sign(peer),
    )


def wish(
    author: int = 0, round_: int = 0, *, joins: bool = True, run: Manifest = MANIFEST
) -> Sealed[Membership]:
    """A signed join, or leave."""
    peer = peer_name(author)
    return seal_membership(
        Membership(joins=joins, peer=peer, round=round_), run_id_of(run), cheap_sign(peer)
    )


def proposal(
    author: int,
    round_: int,
    parent: bytes,
    *,
    run: Manifest = MANIFEST,
    contributions: Iterable[Sealed[Header]] = (),
    late: Iterable[Sealed[Header]] = (),
    joins: Iterable[Sealed[Membership]] = (),
    leaves: Iterable[Sealed[Membership]] = (),
    evidence: Iterable[Evidence] = (),
    parent_digest: bytes = STATE_0,
    state_root: bytes = b"",
) -> Sealed[Proposal]:
    """A signed proposal that lists these, in the order of the rules."""
    peer = peer_name(author)
    return seal_proposal(
        Proposal(
            round=round_,
            peer=peer,
            parent=parent,
            parent_digest=parent_digest,
            state_root=state_root,
            contributions=tuple(sorted(h.hash for h in contributions)),
            late=tuple(sorted(h.hash for h in late)),
            joins=tuple(w.raw for w in sorted(joins, key=lambda w: w.body.peer)),
            leaves=tuple(w.raw for w in sorted(leaves, key=lambda w: w.body.peer)),
            evidence=tuple(evidence),
        ),
        run_id_of(run),
        cheap_sign(peer),
    )


def view(run: Manifest = MANIFEST, me: int = 0, root: ChainState | None = None) -> View:
    """What node `me` believes before it has heard anything."""
    return View(
        manifest=run,
        me=peer_name(me),
        sign=cheap_sign(peer_name(me)),
        verify=cheap_verify,
        root=root or genesis_state(run_id_of(run)),
        digest=STATE_0,
    )


_NUMBERS = {peer_name(number): number for number in range(256)}


@dataclass(slots=True)
class Tree:
    """A chain grown by hand: records with honest proposers, and all headers they list."""

    run: Manifest = field(default_factory=manifest)
    chain: Chain = field(init=False)
    headers: dict[bytes, Sealed[Header]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        run_id = run_id_of(self.run)
        self.chain = Chain(self.run, run_id, genesis_state(run_id))

    @property
    def genesis(self) -> bytes:
        """Where everything descends from."""
        return self.chain.root.record

    @property
    def links(self) -> dict[bytes, Link]:
        """All records that were grown, as a peer tells of them (rule 22)."""
        records = [record for record in self.chain.records.values() if record.proposal]
        return {r.hash: Link(r.hash, r.parent, r.round) for r in records}

    def state(self, record: bytes) -> ChainState:
        """What the chain says at a record."""
        return self.chain[record].state

    def member(self, record: bytes, author: int) -> Member:
        """What the chain says of node `author` at a record."""
        return self.state(record).known[peer_name(author)]

    def members(self, record: bytes) -> set[bytes]:
        """Who is a member at a record."""
        return set(get_member_names(self.state(record), self.run.agreement))

    def ranked(self, parent: bytes, round_: int) -> list[int]:
        """The members at `parent`, lowest rank first."""
        state, agreement = self.state(parent), self.run.agreement
        by_rank = {
            compute_rank(state, peer, round_, agreement) or 0: peer for peer in self.members(parent)
        }
        return [_NUMBERS[by_rank[rank]] for rank in sorted(by_rank)]

    def propose(
        self,
        parent: bytes,
        round_: int,
        contributors: Sequence[int],
        *,
        by: int | None = None,
        late: Iterable[Sealed[Header]] = (),
        joins: Sequence[int] = (),
        leaves: Sequence[int] = (),
        evidence: Iterable[Evidence] = (),
        vote: bytes | None = None,
    ) -> Sealed[Proposal]:
        """A proposal by `by`, or by who has rank 0; its headers are remembered."""
        headers = [
            header(a, round_, run=self.run, vote=parent if vote is None else vote)
            for a in contributors
        ]
        self.headers.update({h.hash: h for h in [*headers, *late]})
        is_empty = not self.members(parent)
        author = contributors[0] if is_empty else self.ranked(parent, round_)[0]
        return proposal(
            author if by is None else by,
            round_,
            parent,
            run=self.run,
            contributions=headers,
            late=late,
            joins=[wish(a, round_, run=self.run) for a in joins],
            leaves=[wish(a, round_, joins=False, run=self.run) for a in leaves],
            evidence=evidence,
            state_root=self.root_due(parent),
        )

    def root_due(self, parent: bytes) -> bytes:
        """What a record below `parent` names as the root of its state, if it names one."""
        is_due = carries_root(self.run.agreement, self.state(parent).height + 1)
        return root_after(parent) if is_due else b""

    def add(self, sealed: Sealed[Proposal]) -> Record:
        """Make a proposal a record. Raises Reject where it is none."""
        return self.chain.add(sealed, self.headers, cheap_verify)

    def grow(
        self,
        parent: bytes,
        round_: int,
        contributors: Sequence[int],
        *,
        by: int | None = None,
        late: Iterable[Sealed[Header]] = (),
        joins: Sequence[int] = (),
        leaves: Sequence[int] = (),
        evidence: Iterable[Evidence] = (),
        vote: bytes | None = None,
    ) -> bytes:
        """A new record below `parent`; its hash."""
        sealed = self.propose(
            parent,
            round_,
            contributors,
            by=by,
            late=late,
            joins=joins,
            leaves=leaves,
            evidence=evidence,
            vote=vote,
        )
        return self.add(sealed).hash

    def grow_all(
        self, parent: bytes, rounds: Iterable[int], contributors: Sequence[int]
    ) -> list[bytes]:
        """Records of these rounds with these contributors, one below the other."""
        records = [parent]
        for round_ in rounds:
            records.append(self.grow(records[-1], round_, contributors))
        return records[1:]

    def extend(self, record: bytes, count: int, contributors: Sequence[int]) -> bytes:
        """`count` more records, one a round; the last one's hash."""
        first = self.state(record).round + 1
        return self.grow_all(record, range(first, first + count), contributors)[-1]

    def start(self, count: int) -> bytes:
        """The record of round 0 in which nodes 0 to `count` - 1 join and contribute."""
        everybody = range(count)
        return self.grow(self.genesis, 0, everybody, joins=everybody)
