"""Records linked by hash, from the genesis or a snapshot's record onwards.

A record enters only when its parent is here and it is valid by content (rule 15); whether it can
be applied and whether it wins are other files' questions.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from demo_protocol.advance import advance
from demo_protocol.errors import LocalFault
from demo_protocol.events import Bundle
from demo_protocol.evidence import Offence
from demo_protocol.identity import Verify
from demo_protocol.manifest import Manifest
from demo_protocol.messages import Header, Proposal, Sealed
from demo_protocol.roster import ChainState, compute_rank, get_member_names
from demo_protocol.validate import validate_proposal


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A valid proposal with the headers it lists, the chain's state after it, its members there.

    `payloads`: the hashes of those that applying it needs, all of its round. The chain's first
    record (genesis, or where a snapshot starts) has no proposal.
    """

    hash: bytes
    parent: bytes
    round: int
    rank: int
    proposal: Sealed[Proposal] | None
    contributions: tuple[Sealed[Header], ...]
    late: tuple[Sealed[Header], ...]
    offences: tuple[Offence, ...]
    state: ChainState
    members: frozenset[bytes]
    payloads: frozenset[bytes] = frozenset()

    @property
    def state_root(self) -> bytes:
        """The Merkle root of its parent's state, where it carries one (rule 21)."""
        return self.proposal.body.state_root if self.proposal else b""


MakeRecord = Callable[
    [Manifest, bytes, ChainState, Sealed[Proposal], Mapping[bytes, Sealed[Header]], Verify], Record
]
"""As `make_record`."""


def make_record(
    manifest: Manifest,
    run_id: bytes,
    parent: ChainState,
    proposal: Sealed[Proposal],
    headers: Mapping[bytes, Sealed[Header]],
    verify: Verify,
) -> Record:
    """What a proposal is as a child of `parent`. Raises Reject where it is not valid by content."""
    listed = validate_proposal(
        proposal, parent, headers, manifest=manifest, run_id=run_id, verify=verify
    )
    state = advance(
        parent,
        proposal.hash,
        proposal.body,
        contributions=[h.body for h in listed.contributions],
        late=[h.body for h in listed.late],
        joins=listed.joins,
        leaves=listed.leaves,
        removed=[offence.peer for offence in listed.offences],
        manifest=manifest,
    )
    rank = compute_rank(parent, proposal.body.peer, proposal.body.round, manifest.agreement)
    assert rank is not None  # validate_proposal has checked the slot
    return Record(
        hash=proposal.hash,
        parent=parent.record,
        round=proposal.body.round,
        rank=rank,
        proposal=proposal,
        contributions=listed.contributions,
        late=listed.late,
        offences=listed.offences,
        state=state,
        members=get_member_names(state, manifest.agreement),
        payloads=frozenset(h.body.payload_hash for h in listed.contributions if h.body.k),
    )


@dataclass(slots=True)
class Chain:
    """A tree of records below `root`."""

    manifest: Manifest
    run_id: bytes
    root: ChainState
    make_record: MakeRecord = make_record
    records: dict[bytes, Record] = field(init=False)
    children: dict[bytes, list[bytes]] = field(init=False)

    def __post_init__(self) -> None:
        self.records = {self.root.record: self._root_record()}
        self.children = {self.root.record: []}

    def __contains__(self, record: object) -> bool:
        return record in self.records

    def __getitem__(self, record: bytes) -> Record:
        return self.records[record]

    def add(
        self,
        proposal: Sealed[Proposal],
        headers: Mapping[bytes, Sealed[Header]],
        verify: Verify,
    ) -> Record:
        """Make a proposal whose parent and headers are here a record.

        Raises Reject where it is not valid by content. Adding it again changes nothing.
        """
        if proposal.hash in self.records:
            return self.records[proposal.hash]
        if proposal.body.parent not in self.records:
            raise LocalFault("a proposal was added before its parent")
        parent = self.records[proposal.body.parent].state
        record = self.make_record(self.manifest, self.run_id, parent, proposal, headers, verify)
        self.records[record.hash] = record
        self.children[record.hash] = []
        self.children[record.parent].append(record.hash)
        return record

    def extend_down(self, deeper: "Chain") -> None:
        """Begin where `deeper` does, which leads to our first record with the same state there.

        Raises LocalFault where it does not.
        """
        first = self.root.record
        if first not in deeper or deeper[first].state != self.root:
            raise LocalFault("an older chain that does not lead to ours")
        self.records = {**deeper.records, **self.records, first: deeper[first]}
        for record, children in deeper.children.items():
            self.children[record] = list(dict.fromkeys([*self.children.get(record, ()), *children]))
        self.root = deeper.root

    def ancestors(self, record: bytes) -> Iterator[Record]:
        """`record` itself, its parent, and so on to the root."""
        current: Record | None = self.records[record]
        while current is not None:
            yield current
            current = self.records.get(current.parent)

    def ancestor_before(self, record: bytes, round_: int) -> Record:
        """The newest ancestor of a round before `round_`, or the root where there is none."""
        older = (step for step in self.ancestors(record) if step.round < round_)
        return next(older, self.records[self.root.record])

    def find_dealer(self, record: bytes, round_: int) -> Record:
        """The record on this chain that deals the samples of `round_` (rule T5).

        The newest one that was there when the round's training began: with overlap, one more
        round ago. All whose heads are on one chain then agree, whatever each trains from.
        """
        return self.ancestor_before(record, round_ - self.manifest.agreement.overlap_rounds)

    def path(self, ancestor: bytes, record: bytes) -> list[Record]:
        """Records after `ancestor` up to and with `record`, oldest first.

        Raises LocalFault when `ancestor` is none.
        """
        steps: list[Record] = []
        for step in self.ancestors(record):
            if step.hash == ancestor:
                return steps[::-1]
            steps.append(step)
        raise LocalFault("no path: the record does not descend from that ancestor")

    def is_ancestor(self, ancestor: bytes, record: bytes) -> bool:
        """Does `record` descend from `ancestor`, or equal it?"""
        wanted = self.records[ancestor]
        for step in self.ancestors(record):
            if step.state.height <= wanted.state.height:
                return step.hash == ancestor
        return False

    def common_ancestor(self, a: bytes, b: bytes) -> Record:
        """The newest record both descend from."""
        seen = {step.hash for step in self.ancestors(a)}
        return next(step for step in self.ancestors(b) if step.hash in seen)

    def prune(self, root: bytes) -> list[Record]:
        """Make `root` the first record: everything that does not descend from it is dropped."""
        kept = self.subtree(root)
        dropped = [r for h, r in self.records.items() if h not in kept]
        self.root = self.records[root].state
        self.records = {h: r for h, r in self.records.items() if h in kept}
        self.children = {h: c for h, c in self.children.items() if h in kept}
        return dropped

    def subtree(self, record: bytes) -> set[bytes]:
        """`record` and everything that descends from it."""
        found = {record}
        frontier = [record]
        while frontier:
            frontier = [child for parent in frontier for child in self.children[parent]]
            found.update(frontier)
        return found

    def drop(self, records: set[bytes]) -> None:
        """Drop these, with which everything goes that descends from them; not the first record."""
        parents = {self.records[record].parent for record in records} - records
        self.records = {h: r for h, r in self.records.items() if h not in records}
        self.children = {h: c for h, c in self.children.items() if h not in records}
        for parent in parents:
            self.children[parent] = [c for c in self.children[parent] if c not in records]

    def _root_record(self) -> Record:
        return Record(
            hash=self.root.record,
            parent=self.root.parent,
            round=self.root.round,
            rank=0,
            proposal=None,
            contributions=(),
            late=(),
            offences=(),
            state=self.root,
            members=get_member_names(self.root, self.manifest.agreement),
        )


def listed_headers(record: Record) -> Sequence[Sealed[Header]]:
    """Every header a record names: its own round's, then the late ones."""
    return (*record.contributions, *record.late)


def make_bundle(record: Record) -> Bundle:
    """A record as peers give it to each other. Raises LocalFault for a chain's first record."""
    if record.proposal is None:
        raise LocalFault("a chain's first record has no proposal to give")
    return Bundle(record.proposal.raw, tuple(h.raw for h in listed_headers(record)))
