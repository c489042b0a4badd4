"""The chain log checked record by record: signatures, hashes, links, and the rules of content.

One pass, oldest record first. In memory are the hash of every record and the full records of the
last rounds only, so a log of years takes megabytes.
"""

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Final

from demo_node.audit.files import Listing
from demo_node.audit.findings import About, Finding
from demo_node.store.chainlog import ChainEntry
from demo_node.store.key import verify
from demo_protocol.answers import decode_bundle, encode_chain_state
from demo_protocol.chain import Chain
from demo_protocol.errors import Reject
from demo_protocol.identity import Kind
from demo_protocol.manifest import Manifest
from demo_protocol.messages import (
    Header,
    Proposal,
    Sealed,
    check_signature,
    decode_header,
    decode_proposal,
)
from demo_protocol.roster import ChainState, genesis_state

PRUNE_EVERY: Final = 256
"""Records between two looks at what is too old to be built on."""

FILE: Final = "chain.log"

RESTORE: Final = (
    "stop the node, move chain.log away and start it again: it fetches the records from its peers"
)

TELL: Final = "your files are as they should be; tell the people of the run"


@dataclass(frozen=True, slots=True)
class ReadRecord:
    """One entry of the log whose parts fit together and are signed."""

    proposal: Sealed[Proposal]
    headers: Mapping[bytes, Sealed[Header]]


def read_record(entry: ChainEntry, run_id: bytes, *, signed: bool = True) -> ReadRecord:
    """Decode an entry and check that its parts belong together. Raises Reject.

    Without `signed` signatures are taken as they are.
    """
    bundle = decode_bundle(entry.raw)
    proposal = decode_proposal(bundle.proposal, run_id)
    body = proposal.body
    if (entry.record, entry.parent, entry.round) != (proposal.hash, body.parent, body.round):
        raise Reject("its record, parent or round is not that of the proposal in it")
    decoded = [decode_header(raw, run_id) for raw in bundle.headers]
    headers = {header.hash: header for header in decoded}
    if len(decoded) != len(headers) or headers.keys() != {*body.contributions, *body.late}:
        raise Reject("its headers are not those that the proposal lists")
    if signed:
        check_signature(proposal, verify)
        for header in decoded:
            check_signature(header, verify)
    return ReadRecord(proposal, headers)


@dataclass(frozen=True, slots=True)
class Gap:
    """Where the log lacks a record that the one of `round` follows."""

    round: int
    is_first: bool
    """Nothing is logged before it."""
    is_snapshot: bool
    """A snapshot of the lacking record is at hand."""


@dataclass(slots=True)
class _Claims:
    """Who gave which digest for the state after one record."""

    round: int
    by_digest: dict[bytes, list[tuple[int, bytes]]] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class RecordAudit:
    """Feed it the log's entries in order with `take`, then call `finish`.

    `roots` are the chain states of snapshots at hand: where the log may begin. Only payloads in
    `held` are looked up in `listed` afterwards.
    """

    manifest: Manifest
    run_id: bytes
    roots: Mapping[bytes, ChainState]
    held: Container[bytes]
    findings: list[Finding] = field(default_factory=list)
    records: int = 0
    headers: int = 0
    first_round: int = -1
    newest_round: int = -1
    gaps: dict[bytes, Gap] = field(default_factory=dict)
    """By the record that is not in the log though others follow it."""
    unchecked: int = 0
    """Records checked for signatures, hashes and links, but not by the rules of content."""
    listed: dict[bytes, Listing] = field(default_factory=dict)
    states: dict[bytes, bytes] = field(default_factory=dict)
    """Encoded chain states that the log gives at the records of `roots`."""
    digests: dict[bytes, dict[bytes, int]] = field(default_factory=dict)
    """For the records of `roots`: how many messages give which digest."""
    _known: dict[bytes, int] = field(init=False)
    _chain: Chain = field(init=False)
    _head: bytes = field(init=False)
    _signed: dict[tuple[Kind, int, bytes], bytes] = field(default_factory=dict)
    _claims: dict[bytes, _Claims] = field(default_factory=dict)

    def __post_init__(self) -> None:
        genesis = genesis_state(self.run_id)
        self._known = {self.run_id: genesis.round}
        self._begin_at(genesis)

    def take(self, entry: ChainEntry) -> None:
        """Check one entry."""
        self.records += 1
        if entry.record in self._known:
            self._found(entry, "the record is in the log twice")
            return
        try:
            read = read_record(entry, self.run_id)
        except Reject as error:
            self._found(entry, str(error))
            return
        self._known[entry.record] = entry.round
        self.first_round = entry.round if self.first_round < 0 else self.first_round
        self.newest_round = max(self.newest_round, entry.round)
        self.headers += len(read.headers)
        self._take_messages(entry, read)
        self._take_content(entry, read)
        if self.records % PRUNE_EVERY == 0:
            self._forget()

    def finish(self) -> None:
        """Say what only the whole log can tell."""
        for base in list(self._claims):
            self._close_claims(base)

    def _take_messages(self, entry: ChainEntry, read: ReadRecord) -> None:
        """What its messages say of peers and states, wherever the record stands."""
        author = read.proposal.body
        self._take_signed(Kind.PROPOSAL, author.round, author.peer, read.proposal.hash)
        self._claim(author.parent, author.parent_digest, author.round, author.peer)
        for header in read.headers.values():
            body = header.body
            self._take_signed(Kind.HEADER, body.round, body.peer, header.hash)
            self._claim(body.base, body.digest, body.round, body.peer)
            if body.k and body.payload_hash in self.held:
                self.listed[body.payload_hash] = Listing(body.round, body.peer)

    def _take_signed(self, kind: Kind, round_: int, peer: bytes, hash_: bytes) -> None:
        before = self._signed.setdefault((kind, round_, peer), hash_)
        if before == hash_:
            return
        text = f"it signed two {kind.value}s for this round"
        finding = Finding(
            file=FILE, round=round_, peer=peer, about=About.PEER, text=text, remedy=TELL
        )
        if finding not in self.findings:
            self.findings.append(finding)

    def _claim(self, base: bytes, digest: bytes, round_: int, peer: bytes) -> None:
        if base not in self._known:
            return  # of before the log begins
        claims = self._claims.setdefault(base, _Claims(self._known[base]))
        claims.by_digest.setdefault(digest, [])
        if (round_, peer) not in claims.by_digest[digest]:
            claims.by_digest[digest].append((round_, peer))

    def _take_content(self, entry: ChainEntry, read: ReadRecord) -> None:
        if entry.parent not in self._known:
            gap = Gap(entry.round, self.records == 1, entry.parent in self.roots)
            self.gaps.setdefault(entry.parent, gap)
        if entry.parent not in self._chain and entry.parent in self.roots:
            self._begin_at(self.roots[entry.parent])
        if entry.parent in self._chain:
            try:
                added = self._chain.add(read.proposal, read.headers, verify)
            except Reject as error:
                text = f"no rule of the protocol allows this record: {error}"
                self._found(entry, text, peer=read.proposal.body.peer)
                return
            if added.state.height > self._chain[self._head].state.height:
                self._head = added.hash
            if entry.record in self.roots:
                self.states[entry.record] = encode_chain_state(added.state)
            return
        self.unchecked += 1
        if entry.record in self.roots:
            self._begin_at(self.roots[entry.record])

    def _begin_at(self, state: ChainState) -> None:
        self._chain = Chain(self.manifest, self.run_id, state)
        self._head = state.record
        self._known.setdefault(state.record, state.round)

    def _forget(self) -> None:
        """Drop what nothing can build on: a node keeps the records of the payload window."""
        agreement = self.manifest.agreement
        window = max(agreement.payload_window_rounds, agreement.forget_rounds)
        oldest = self._chain[self._head].round - window - agreement.late_rounds
        root = self._chain.ancestor_before(self._head, oldest)
        if root.hash != self._chain.root.record:
            self._chain.prune(root.hash)
        self._signed = {key: h for key, h in self._signed.items() if key[1] >= oldest}
        for base in [b for b, claims in self._claims.items() if claims.round < oldest]:
            self._close_claims(base)

    def _close_claims(self, base: bytes) -> None:
        claims = self._claims.pop(base)
        if base in self.roots:
            self.digests[base] = {d: len(by) for d, by in claims.by_digest.items()}
        if len(claims.by_digest) < 2:
            return
        most = max(map(len, claims.by_digest.values()))
        is_tie = [len(by) for by in claims.by_digest.values()].count(most) > 1
        for digest, by in claims.by_digest.items():
            if len(by) == most and not is_tie:
                continue
            others = sum(map(len, claims.by_digest.values())) - len(by)
            for round_, peer in by:
                self.findings.append(
                    Finding(
                        file=FILE,
                        round=round_,
                        peer=peer,
                        about=About.PEER,
                        text=(
                            f"it says that the parameters after round {claims.round} have digest"
                            f" {digest.hex()}, {others} say otherwise"
                        ),
                        remedy=(
                            "find out who is right, with the same --datadir: demo-node replay"
                            f" --from {claims.round} --to {claims.round}"
                        ),
                    )
                )

    def _found(self, entry: ChainEntry, text: str, peer: bytes = b"") -> None:
        text = f"record {entry.record.hex()[:12]}: {text}"
        self.findings.append(
            Finding(file=FILE, round=entry.round, peer=peer, text=text, remedy=RESTORE)
        )
