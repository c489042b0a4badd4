"""What one node believes of the run: its chain, what it has heard, what it holds."""

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from demo_protocol.chain import Chain, MakeRecord, Record, make_record
from demo_protocol.effects import FinalsConflict
from demo_protocol.finality import Final
from demo_protocol.forkchoice import Votes
from demo_protocol.identity import Sign, Verify
from demo_protocol.manifest import Manifest, compute_run_id
from demo_protocol.messages import (
    Header,
    Membership,
    Notice,
    Proposal,
    Sealed,
    decode_announcement,
    decode_header,
    decode_membership,
    decode_proposal,
)
from demo_protocol.pool import Pool
from demo_protocol.roster import ChainState, get_contributors, get_voters
from demo_protocol.schema import Schema, compute_schema
from demo_protocol.validate import check_header, is_wish_usable


@dataclass(slots=True, kw_only=True)
class View:
    """Read and changed by the parts of the round machine; no one else touches it.

    `network_of` tells the network that a peer counts for, None where that is not known.
    `is_faulty`: our states are not what most have, and say nothing against theirs (rule 20).

    `digests` holds the parameters' fingerprint after every record ever applied here, `roots` the
    Merkle root of some of these states, as it was computed here (rule 21).
    `signed_round` is the newest round for which this key has, or may have, signed a header;
    `astray_since` the last one in which enough voters stood on records that are here. `final` is
    never left but by command; after a restart it is what it was (rule 19). `conflict` is a heavier
    chain without it, `rivals` are records of that chain and the rounds they were named in,
    `undisputed` is the last round in which there was none. `lacking` has of records that are not
    usable one payload that is missing.
    """

    manifest: Manifest
    me: bytes
    sign: Sign
    verify: Verify
    root: ChainState
    digest: bytes
    decode_header: Callable[[bytes, bytes], Sealed[Header]] = decode_header
    decode_membership: Callable[[bytes, bytes], Sealed[Membership]] = decode_membership
    decode_proposal: Callable[[bytes, bytes], Sealed[Proposal]] = decode_proposal
    decode_announcement: Callable[
        [bytes, bytes], tuple[Sealed[Notice], Sealed[Proposal] | None]
    ] = decode_announcement
    check_header: Callable[[Sealed[Header], Manifest, Schema, Verify], None] = check_header
    make_record: MakeRecord = make_record
    """Functions of their arguments alone: a simulator computes them once for all its nodes."""
    network_of: Callable[[bytes], str | None] = field(default=lambda peer: peer.hex())

    run_id: bytes = field(init=False)
    schema: Schema = field(init=False)
    chain: Chain = field(init=False)
    head: bytes = field(init=False)
    round: int = field(init=False, default=-1)
    signed_round: int = field(init=False, default=-1)
    astray_since: int = field(init=False, default=-1)
    votes: Votes = field(init=False, default_factory=Votes)
    final: Final | None = None
    conflict: FinalsConflict | None = field(init=False, default=None)
    rivals: dict[bytes, int] = field(init=False, default_factory=dict)
    undisputed: int = field(init=False, default=-1)
    pool: Pool = field(init=False)
    digests: dict[bytes, bytes] = field(init=False)
    roots: dict[bytes, bytes] = field(init=False, default_factory=dict)
    held_at_cut: dict[int, frozenset[bytes]] = field(init=False, default_factory=dict)
    pulled: dict[bytes, int] = field(init=False, default_factory=dict)
    is_faulty: bool = field(init=False, default=False)
    lacking: dict[bytes, bytes] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.run_id = compute_run_id(self.manifest)
        self.schema = compute_schema(self.manifest.model)
        self.chain = Chain(self.manifest, self.run_id, self.root, self.make_record)
        self.head = self.root.record
        self.digests = {self.root.record: self.digest}
        self.pool = Pool(self.me)

    def move_start(self, state: ChainState) -> None:
        """Let the chain begin at `state`. What descends from there and is known stays."""
        if state.record in self.chain:
            self.chain.prune(state.record)
        else:
            self.chain = Chain(self.manifest, self.run_id, state, self.make_record)
        self.digests = {}
        self.roots = {}
        self.head = state.record
        self.astray_since = self.undisputed = self.round

    def leave_final(self) -> None:
        """The operator has decided for another chain."""
        self.final = self.conflict = None
        self.rivals.clear()

    def begin_at(self, record: bytes, digest: bytes) -> None:
        """Stand on a record whose state is held. Those below it were applied before."""
        self.head = record
        self.digests = {**self._claimed_digests(record), record: digest}

    @property
    def may_lack_forks(self) -> bool:
        """May others part from our chain below its first record? Not below what is final."""
        root = self.chain.root
        return root.height > 0 and (self.final is None or self.final.height < root.height)

    def deepen(self, deeper: "View") -> None:
        """Take what came before our first record, with the votes that were cast there."""
        first = self.chain.root.record
        self.chain.extend_down(deeper.chain)
        self.digests = {**deeper._claimed_digests(first), **self.digests}
        for peer, (round_, vote) in deeper.votes.newest.items():
            self.votes.add(peer, round_, vote)
        for peer, round_ in deeper.votes.equivocators.items():
            self.votes.add_equivocation(peer, round_)

    def _claimed_digests(self, record: bytes) -> dict[bytes, bytes]:
        """What most headers say of the states after the ancestors of `record`.

        They were applied, here or by whoever gave the snapshot.
        """
        claims: dict[bytes, Counter[bytes]] = {}
        digests: dict[bytes, bytes] = {}
        for step in self.chain.ancestors(record):
            for header in step.contributions:
                claims.setdefault(header.body.base, Counter())[header.body.digest] += 1
            if step.hash in claims:  # of its children; siblings' are of no weight
                counts = claims[step.hash]
                digests[step.hash] = max(counts, key=lambda d: (counts[d], d))
            if step.proposal is not None:
                said = step.proposal.body.parent_digest
                claims.setdefault(step.parent, Counter({said: 0}))
        return digests

    @property
    def head_state(self) -> ChainState:
        """What the chain says at our head."""
        return self.chain[self.head].state

    @property
    def restart_state(self) -> ChainState:
        """Where the chain begins after a restart: no fork below it will be followed."""
        final = self.final_record
        return self.chain.root if final is None else self.chain[final].state

    @property
    def final_record(self) -> bytes | None:
        """The final record, where the chain still goes back to it: the fork choice begins there."""
        if self.final is None or self.final.record not in self.chain:
            return None
        return self.final.record

    def is_known(self, peer: bytes) -> bool:
        """Does the chain know it at our head, or is nobody in yet? Keys cost nothing."""
        known = self.head_state.known.get(peer)
        return (known is not None and not known.left) or not self.chain[self.head].members

    def is_member(self, peer: bytes) -> bool:
        """Is it one at our head, or is nobody yet? Strangers make candidates by the hundred."""
        members = self.chain[self.head].members
        return peer in members or not members

    def is_followed(self, peer: bytes) -> bool:
        """May its header make this node ask others for what it names?

        The chain knows it, or it wants to join and could.
        """
        if self.is_known(peer):
            return True
        state = self.head_state
        wish = self.pool.wishes.get(peer)
        if wish is None or not wish.body.joins:
            return False
        round_ = max(self.round, wish.body.round)
        return is_wish_usable(wish.body, state, round_, self.manifest.agreement.late_rounds)

    def is_usable(self, record: bytes) -> bool:
        """Rule 16: applied before, or every payload it lists is here.

        Not where it names another root of its parent's state than ours (rule 21).
        """
        if self.roots and self.is_root_wrong(self.chain[record]):
            return False
        if record in self.digests:
            return True
        step = self.chain[record]
        held = self.pool.held_payloads(step.round)
        known = self.lacking.get(record)  # asked first: of a thousand one may be missing
        if known is not None and known not in held:
            return False
        if not step.payloads <= held:
            self.lacking[record] = next(iter(step.payloads - held))
            return False
        self.lacking.pop(record, None)
        return True

    def holds_payloads(self, record: Record) -> bool:
        """Are all payloads here that applying it needs?"""
        return record.payloads <= self.pool.held_payloads(record.round)

    def is_root_wrong(self, record: Record) -> bool:
        """Rule 21: does it name another root of its parent's state than we computed?"""
        own = self.roots.get(record.parent)
        return own is not None and record.state_root != own

    def is_covered(self, record: Record) -> bool:
        """Rule 17: it lists at least half of the members' contributions that I held at the cut.

        Those of members whose turn it was, by the record's parent.

        Under a parent without members, half of everybody's: else the first stranger to propose
        would be the only member of a new run.
        """
        parent = self.chain[record.parent]
        members = parent.members
        due = get_contributors(parent.state, record.round, self.manifest.agreement)
        mine = [
            held
            for held in self.held_at_cut.get(record.round, frozenset())
            if (header := self.pool.headers.get(held)) is not None
            and (not members or header.body.peer in members)
            and (due is None or header.body.peer in due)
            and not self.is_accused(header.body)
        ]
        listed = {h.hash for h in record.contributions}
        return 2 * sum(held in listed for held in mine) >= len(mine)

    def is_accused(self, header: Header) -> bool:
        """Rule 20: does it give another digest than ours for the same base?"""
        return self.digests.get(header.base, header.digest) != header.digest

    def find_claims(self) -> dict[bytes, bytes]:
        """What most headers of others say that the digest after a record is, where any does.

        Headers that a record lists, and of those on no chain the voters': keys cost nothing.
        """
        listed = (h for step in self.chain.records.values() for h in step.contributions)
        heard = (h for h in self.pool.headers.values() if self._is_voice(h.body))
        headers = {h.hash: h.body for h in (*listed, *heard)}
        claims: dict[bytes, Counter[bytes]] = defaultdict(Counter)
        for body in headers.values():
            if body.peer != self.me:
                claims[body.base][body.digest] += 1
        return {
            record: max(counts, key=lambda digest: (counts[digest], digest))
            for record, counts in claims.items()
        }

    def _is_voice(self, header: Header) -> bool:
        """Does its author vote at its base, or everybody as nobody is in yet?"""
        base = header.base if header.base in self.chain else self.head
        voters = get_voters(self.chain[base].state, self.manifest.agreement)
        return not voters or header.peer in voters

    def claimed_digest(self, record: bytes) -> bytes | None:
        """What most headers of others say its digest is; None of none."""
        return self.find_claims().get(record)

    def should_pull(self, name: bytes) -> bool:
        """Ask for a missing header or record at most once a round."""
        if self.pulled.get(name, -2) >= self.round:
            return False
        self.pulled[name] = self.round
        return True

    def find_proposal(self, name: bytes) -> bytes | None:
        """A whole proposal that is here, for whoever has only heard its notice (rule 15)."""
        if name in self.pool.pending:
            return self.pool.pending[name].raw
        if name in self.chain and (proposal := self.chain[name].proposal) is not None:
            return proposal.raw
        return None

    def forget_before(self, round_: int, payload_round: int) -> None:
        """Rounds before `round_` are over: what was heard of them may go."""
        self.pool.forget_before(round_, payload_round)
        self.held_at_cut = {r: held for r, held in self.held_at_cut.items() if r >= round_}
        self.pulled = {name: r for name, r in self.pulled.items() if r >= round_}
        self.lacking = {name: p for name, p in self.lacking.items() if name in self.chain}
        self.roots = {name: root for name, root in self.roots.items() if name in self.chain}
        forget_rounds = self.manifest.agreement.forget_rounds
        self.votes.forget(self.head_state.known, round_, self.round - forget_rounds)
        self.pool.forget_offences(self.round - forget_rounds)
