"""Who is in, as a pure function of a record (rules 5 to 8, 11 and 12).

`ChainState` is everything the chain says at one record: its roster, its place, how far the data
has been dealt out, and whose headers of the last rounds are already credited.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from demo_protocol.assignment import Interval, compute_intervals, interval_length
from demo_protocol.identity import compute_key, compute_rank_hash, compute_waiting_hash
from demo_protocol.manifest import Agreement, Manifest
from demo_protocol.messages import Header, Membership, Proposal

SAMPLES_HISTORY = 8
"""Sample counts remembered per member: rule T2 takes their median."""

GENESIS_ROUND = -1
"""The genesis record stands before round 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One peer the chain knows: a candidate until `admitted_by` names a record.

    `since_round` is the round of the record that listed its newest join or leave: an older signed
    wish, replayed, is refused by it. `included` counts contributions since that join; the
    four after `member_round` count payloads over the whole chain, also across leaves: -1 for
    none. No join counts before `removed_until` (rule 26).
    """

    peer: bytes
    key: bytes
    admitted_by: bytes
    since_round: int
    credited_round: int
    included: int
    left: bool
    samples: tuple[int, ...]
    member_round: int
    contributed: int = 0
    samples_total: int = 0
    first_round: int = -1
    last_round: int = -1
    removed_until: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainState:
    """What the chain says at `record`. `cursor` counts samples assigned so far (rule T5)."""

    record: bytes
    parent: bytes
    round: int
    height: int
    cursor: int
    known: Mapping[bytes, Member]
    credits: frozenset[tuple[int, bytes]]


def genesis_state(run_id: bytes) -> ChainState:
    """Rule 5: the genesis record is the hash of the manifest; nobody creates it."""
    return ChainState(
        record=run_id,
        parent=b"",
        round=GENESIS_ROUND,
        height=0,
        cursor=0,
        known={},
        credits=frozenset(),
    )


def is_member(member: Member, state: ChainState, agreement: Agreement) -> bool:
    """Rule 7: admitted, no signed leave, credited in the chain's last `expire_rounds` rounds."""
    return (
        bool(member.admitted_by)
        and not member.left
        and member.credited_round > state.round - agreement.expire_rounds
    )


def get_members(state: ChainState, agreement: Agreement) -> dict[bytes, Member]:
    """Members at a record."""
    return {p: m for p, m in state.known.items() if is_member(m, state, agreement)}


def get_candidates(state: ChainState) -> dict[bytes, Member]:
    """Peers whose join is on the chain and who are not admitted yet."""
    return {p: m for p, m in state.known.items() if not m.admitted_by and not m.left}


def get_voters(state: ChainState, agreement: Agreement) -> set[bytes]:
    """Rule 7: everyone who was a member in the last `forget_rounds` rounds, less signed leaves."""
    oldest = state.round - agreement.forget_rounds
    return {p for p, m in state.known.items() if m.member_round > oldest and not m.left}


def compute_slot(state: ChainState, peer: bytes, round_: int, agreement: Agreement) -> int | None:
    """Slot in which `peer` may propose a child of `state` in `round_`; None without the right.

    Rule 12: slot = rank >> s, s = rounds since the parent - 1. Rule 14: under a parent without
    members everybody has rank 0 (that the peer contributed is the proposal's to show).
    The caller compares with the manifest's number of slots.
    """
    rank = compute_rank(state, peer, round_, agreement)
    if rank is None:
        return None
    skipped = round_ - state.round - 1
    return rank >> min(skipped, 64)


def compute_rank(state: ChainState, peer: bytes, round_: int, agreement: Agreement) -> int | None:
    """Rule 11: place of `peer` among the members sorted by H(key_m, r)."""
    members = get_members(state, agreement)
    if not members:
        return 0
    if peer not in members:
        return None
    own = compute_rank_hash(members[peer].key, round_)
    return sum(compute_rank_hash(m.key, round_) < own for m in members.values())


def compute_interval(
    state: ChainState, peer: bytes, round_: int, manifest: Manifest
) -> tuple[Interval, bytes]:
    """What `peer` trains on in `round_` from `state` (rule T5): running samples, probation key.

    The key is empty for a member. Everybody else draws `samples_start` samples of its own.
    """
    members = get_members(state, manifest.agreement)
    start = manifest.learning.samples_start
    if peer not in members:
        return Interval(0, interval_length((), start)), peer
    intervals, _ = compute_intervals(
        ((m.peer, m.key, interval_length(m.samples, start)) for m in members.values()),
        round_,
        state.cursor,
    )
    return intervals[peer], b""


def advance(
    parent: ChainState,
    record: bytes,
    proposal: Proposal,
    *,
    contributions: Iterable[Header],
    late: Iterable[Header],
    joins: Iterable[Membership],
    leaves: Iterable[Membership],
    removed: Iterable[bytes],
    manifest: Manifest,
) -> ChainState:
    """The chain's state at `record`, a child of `parent` that lists these headers and wishes.

    `removed` are the peers that it lists evidence against.
    """
    agreement = manifest.agreement
    members_before = get_members(parent, agreement)
    known = dict(parent.known)
    for join in joins:
        admitted = record if parent.height < agreement.probation else b""
        known[join.peer] = _joined(join.peer, admitted, proposal.round, known.get(join.peer))
    for leave in leaves:
        known[leave.peer] = replace(known[leave.peer], left=True, since_round=proposal.round)
    for peer in removed:  # as if it had left, and no join of it counts for as long
        known[peer] = replace(
            known[peer],
            left=True,
            since_round=proposal.round,
            removed_until=proposal.round + agreement.forget_rounds,
        )
    credits = {c for c in parent.credits if c[0] > proposal.round - agreement.late_rounds}
    for header in contributions:
        known[header.peer] = _included(known[header.peer], header)
        credits.add((header.round, header.peer))
    for header in late:
        known[header.peer] = _credited(known[header.peer], header.round)
        credits.add((header.round, header.peer))
    _admit(known, record, len(members_before), agreement)
    state = ChainState(
        record=record,
        parent=parent.record,
        round=proposal.round,
        height=parent.height + 1,
        cursor=parent.cursor + _assigned(members_before.values(), manifest.learning.samples_start),
        known=known,
        credits=frozenset(credits),
    )
    for peer, member in get_members(state, agreement).items():
        known[peer] = replace(member, member_round=proposal.round)
    return state


def _joined(peer: bytes, admitted_by: bytes, round_: int, before: Member | None) -> Member:
    joined = Member(
        peer=peer,
        key=compute_key(admitted_by, peer),
        admitted_by=admitted_by,
        since_round=round_,
        credited_round=round_,
        included=0,
        left=False,
        samples=(),
        member_round=GENESIS_ROUND - 1,
    )
    if before is None:
        return joined
    return replace(
        joined,
        contributed=before.contributed,
        samples_total=before.samples_total,
        first_round=before.first_round,
        last_round=before.last_round,
        removed_until=before.removed_until,
    )


def _credited(member: Member, round_: int) -> Member:
    return replace(member, credited_round=max(member.credited_round, round_))


def _included(member: Member, header: Header) -> Member:
    member = replace(_credited(member, header.round), included=member.included + 1)
    if header.k == 0:
        return member  # a heartbeat says nothing about speed, and brings nothing
    return replace(
        member,
        samples=(*member.samples, header.samples)[-SAMPLES_HISTORY:],
        contributed=member.contributed + 1,
        samples_total=member.samples_total + header.samples,
        first_round=header.round if member.first_round < 0 else member.first_round,
        last_round=header.round,
    )


def _admit(known: dict[bytes, Member], record: bytes, members: int, agreement: Agreement) -> None:
    """Rule 6: at most max(2, members/8) per record, longest waiting first, then lowest hash."""
    ready = [
        m
        for m in known.values()
        if not m.admitted_by and not m.left and m.included >= agreement.probation
    ]
    ready.sort(key=lambda m: (m.since_round, compute_waiting_hash(record, m.peer)))
    for member in ready[: max(2, members // 8)]:
        known[member.peer] = replace(
            member, admitted_by=record, key=compute_key(record, member.peer)
        )


def _assigned(members: Iterable[Member], samples_start: int) -> int:
    return sum(interval_length(m.samples, samples_start) for m in members)
