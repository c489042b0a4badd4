"""Which records to replay: one branch of the chain log, from a state at hand to a record.

No torch, no tensors: this is the plan, `replay` carries it out.
"""

from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from demo_node.audit.findings import Finding
from demo_node.audit.records import FILE, RESTORE, ReadRecord, read_record
from demo_node.store.chainlog import ChainEntry
from demo_protocol.errors import ConfigError, Reject

Entries = Callable[[], Iterable[ChainEntry]]
"""Reads the log anew, oldest entry first."""


@dataclass(frozen=True, slots=True)
class Link:
    """A record's place in the tree, and whether all its payloads are at hand."""

    record: bytes
    parent: bytes
    round: int
    is_complete: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """Records of the log that follow each other, oldest first, and why it is these."""

    links: Sequence[Link]
    why: str

    @property
    def before(self) -> bytes:
        """The record that the first one follows."""
        return self.links[0].parent


@dataclass(frozen=True, slots=True)
class Payment:
    """One contribution to a record: whose payload, and its hash."""

    peer: bytes
    payload_hash: bytes


@dataclass(frozen=True, slots=True)
class Claim:
    """What a signed message says of the state after a record: its digest, or its Merkle root."""

    round: int
    peer: bytes
    digest: bytes


@dataclass(slots=True)
class Evidence:
    """What the log says of some records: contributions, everybody's digests, roots (rule 21)."""

    contributions: dict[bytes, list[Payment]] = field(default_factory=dict)
    claims: dict[bytes, list[Claim]] = field(default_factory=dict)
    roots: dict[bytes, list[Claim]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


_NOBODY: Final = (-1, b"")


def choose_branch(
    entries: Entries,
    run_id: bytes,
    held: Container[bytes],
    first_round: int | None,
    last_round: int | None,
) -> Branch:
    """The branch that most peers' newest votes follow, up to the newest record of `last_round`.

    Ties: the longer branch. `held`: hashes of the payloads at hand. Raises ConfigError where the
    log has no record of `first_round` to `last_round`.
    """
    links: dict[bytes, Link] = {}
    votes: dict[bytes, tuple[int, bytes]] = {}
    for entry in entries():
        try:
            read = read_record(entry, run_id, signed=False)
        except Reject:
            continue  # verify says more about it
        payments = _list_contributions(read)
        is_complete = all(payment.payload_hash in held for payment in payments)
        link = Link(entry.record, entry.parent, entry.round, is_complete)
        links.setdefault(entry.record, link)
        for header in read.headers.values():
            if header.body.round > votes.get(header.body.peer, _NOBODY)[0]:
                votes[header.body.peer] = header.body.round, header.body.vote
    if not links:
        raise ConfigError("chain.log has no record yet; there is nothing to replay")
    tip, supporters = _find_tip(links, [vote for _, vote in votes.values()])
    tips = len(links) - len({link.parent for link in links.values()} & links.keys())
    path = _walk_back(links, tip)
    why = f"record {tip.hex()[:12]} of round {links[tip].round}"
    if tips > 1:
        why += f", of {tips} branches the one that {supporters} of {len(votes)} peers vote for"
    newest = links[tip].round
    for asked in (first_round, last_round):
        if asked is not None and asked > newest:
            raise ConfigError(f"no record of round {asked}; the newest is of round {newest}")
    if last_round is not None:
        path = [link for link in path if link.round <= last_round]
    if not path:
        raise ConfigError(f"chain.log has no record of round {last_round} or before")
    if first_round is not None and path[-1].round < first_round:
        raise ConfigError(f"chain.log has no record of rounds {first_round} to {last_round}")
    return Branch(links=path, why=why)


def _find_tip(links: Mapping[bytes, Link], votes: Sequence[bytes]) -> tuple[bytes, int]:
    """The record at which the walk with most votes ends, and who votes for it at the last fork."""
    support = dict.fromkeys(links, 0)
    for vote in votes:
        if vote in support:
            support[vote] += 1
    length = dict.fromkeys(links, 0)
    best: dict[bytes, bytes] = {}
    # A record comes after its parent in the log, so backwards all below it are done.
    for link in reversed(list(links.values())):
        rank = (support[link.record], length[link.record], link.record)
        rival = best.get(link.parent)
        if rival is None or rank > (support[rival], length[rival], rival):
            best[link.parent] = link.record
        if link.parent in links:
            support[link.parent] += support[link.record]
            length[link.parent] = max(length[link.parent], length[link.record] + 1)
    starts = [record for parent, record in best.items() if parent not in links]
    tip = max(starts, key=lambda record: (support[record], length[record], record))
    children = Counter(link.parent for link in links.values())
    supporters = support[tip]
    while tip in best:
        is_fork = children[tip] > 1
        tip = best[tip]
        supporters = support[tip] if is_fork else supporters
    return tip, supporters


def _walk_back(links: Mapping[bytes, Link], tip: bytes) -> list[Link]:
    path: list[Link] = []
    link = links.get(tip)
    while link is not None:
        path.append(link)
        link = links.get(link.parent)
    return path[::-1]


def collect_evidence(entries: Entries, run_id: bytes, branch: Branch, after_round: int) -> Evidence:
    """What the log says of the branch's records after `after_round`, signatures checked.

    Digests count whichever branch the message that gives them lies on.
    """
    evidence = Evidence()
    wanted = {link.record for link in branch.links} | {branch.before}
    for entry in entries():
        if entry.round <= after_round:
            continue
        try:
            read = read_record(entry, run_id)
        except Reject as error:
            evidence.findings.append(
                Finding(file=FILE, round=entry.round, text=str(error), remedy=RESTORE)
            )
            continue
        if entry.record in wanted:
            evidence.contributions[entry.record] = _list_contributions(read)
        body = read.proposal.body
        if body.state_root and body.parent in wanted:
            root = Claim(body.round, body.peer, body.state_root)
            evidence.roots.setdefault(body.parent, []).append(root)
        for base, claim in _list_claims(read):
            if base in wanted and claim not in (claims := evidence.claims.setdefault(base, [])):
                claims.append(claim)
    return evidence


def _list_contributions(read: ReadRecord) -> list[Payment]:
    headers = [read.headers[name].body for name in read.proposal.body.contributions]
    return [Payment(h.peer, h.payload_hash) for h in headers if h.k]


def _list_claims(read: ReadRecord) -> Iterable[tuple[bytes, Claim]]:
    proposal = read.proposal.body
    yield proposal.parent, Claim(proposal.round, proposal.peer, proposal.parent_digest)
    for header in read.headers.values():
        body = header.body
        yield body.base, Claim(body.round, body.peer, body.digest)
