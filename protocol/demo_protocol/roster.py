"""Who is in, as a pure function of a record (rules 5 to 8, 11 and 12).

`ChainState` is everything the chain says at one record: its roster, its place, how far the data
has been dealt out, and whose headers of the last rounds are already credited.
"""

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

from demo_protocol.assignment import Interval, compute_draw, compute_intervals, interval_length
from demo_protocol.identity import compute_key, compute_rank_hash, compute_waiting_hash
from demo_protocol.limits import CANDIDATES_MAX, JOINS_MAX, SLOTS_MAX
from demo_protocol.manifest import Agreement, Manifest
from demo_protocol.messages import Header, Membership, Proposal

SAMPLES_HISTORY = 8
"""Sample counts remembered per member: rule T2 takes their median."""

GENESIS_ROUND = -1
"""The genesis record stands before round 0."""

NEVER: Final = GENESIS_ROUND - 1
"""`member_round` of who never was a member."""

CANDIDATES_DRAWN: Final = 4
"""Candidates, and members that expired, that contribute in one round beside the members drawn."""

REJOIN_ROUNDS: Final = 400
"""Who is no member and was not heard of for so long is not drawn any more, and may join again."""

TURNS_TO_SHOW_UP: Final = 3
"""Turns a candidate has for its first header, where candidates are drawn."""

TURN: Final = 1_000_000
"""A whole turn on the chain's clock of turns."""

ROUNDS_CACHED: Final = 4
"""Rounds of which a state remembers what was computed: this one, the next, and what a gap asks."""

DUE_ROUNDS: Final = 8
"""Rounds whose contributors together say what is final."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One peer the chain knows: a candidate until `admitted_by` names a record.

    `since_round` is the round of the record that listed its newest join or leave: an older signed
    wish, replayed, is refused by it. `member_round`, of one that is no member, is the round of the
    last record at which it was one. `credited_turns` is what the chain's clock of turns said in
    `credited_round`: rule 7 counts from there. `included` counts contributions since that join;
    the four after `member_round` count payloads over the whole chain, also across leaves: -1 for
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
    credited_turns: int = 0
    never_drawn: bool = False


@dataclass(slots=True)
class _Derived:
    """What follows from a state, computed once for all who ask. Of rounds: the newest few."""

    agreement: Agreement
    members: frozenset[bytes]
    voters: frozenset[bytes] | None = None
    contributors: dict[int, frozenset[bytes]] = field(default_factory=dict)
    first_ranks: dict[int, dict[bytes, int]] = field(default_factory=dict)
    intervals: dict[int, dict[bytes, Interval]] = field(default_factory=dict)


@dataclass(slots=True)
class _Cache:
    derived: _Derived | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainState:
    """What the chain says at `record`. `cursor` counts samples assigned so far (rule T5).

    `turns` is the clock that rule 7 reads: how many turns, in millionths, a member has had on
    average since the genesis. `due` names the contributors of each of the last rounds; of rounds
    that are not in it everybody was one.
    """

    record: bytes
    parent: bytes
    round: int
    height: int
    cursor: int
    known: Mapping[bytes, Member]
    credits: frozenset[tuple[int, bytes]]
    turns: int = 0
    due: Mapping[int, frozenset[bytes]] = field(default_factory=dict)
    _cache: _Cache = field(init=False, repr=False, compare=False, default_factory=_Cache)


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
    """Rule 7: admitted, no signed leave, credited within its last `expire_rounds` turns.

    Turns of its own: where every member contributes in every round, these are rounds.
    """
    return (
        bool(member.admitted_by)
        and not member.left
        and state.turns - member.credited_turns < agreement.expire_rounds * TURN
    )


def get_member_names(state: ChainState, agreement: Agreement) -> frozenset[bytes]:
    """Members at a record; computed once."""
    return _derive(state, agreement).members


def get_members(state: ChainState, agreement: Agreement) -> dict[bytes, Member]:
    """Members at a record."""
    return {peer: state.known[peer] for peer in sorted(get_member_names(state, agreement))}


def _derive(state: ChainState, agreement: Agreement) -> _Derived:
    """Of one run, which is one manifest: whoever asks by another one begins anew."""
    derived = state._cache.derived
    if derived is None or derived.agreement is not agreement:
        names = (p for p, m in state.known.items() if is_member(m, state, agreement))
        derived = state._cache.derived = _Derived(agreement, frozenset(names))
    return derived


def is_candidate(member: Member) -> bool:
    """Has it joined and not been admitted yet?"""
    return not member.admitted_by and not member.left and not member.never_drawn


def get_candidates(state: ChainState) -> dict[bytes, Member]:
    """Peers whose join is on the chain and who are not admitted yet."""
    return {p: m for p, m in state.known.items() if is_candidate(m)}


def count_places(state: ChainState, agreement: Agreement) -> int:
    """How many joins a child of `state` may list."""
    if state.height < agreement.probation:
        return JOINS_MAX  # they are members at once
    return max(0, min(JOINS_MAX, CANDIDATES_MAX - len(get_candidates(state))))


def get_voters(state: ChainState, agreement: Agreement) -> frozenset[bytes]:
    """Rule 7: everyone who was a member in the last `forget_rounds` rounds, less signed leaves."""
    derived = _derive(state, agreement)
    if derived.voters is None:
        oldest = max(state.round - agreement.forget_rounds, NEVER)
        former = {p for p, m in state.known.items() if m.member_round > oldest and not m.left}
        derived.voters = derived.members | former
    return derived.voters


# --- whose turn it is ----------------------------------------------------------------------------


def get_contributors(
    state: ChainState, round_: int, agreement: Agreement
) -> frozenset[bytes] | None:
    """Who contributes in `round_` on top of `state`; None: everybody who wants to.

    Contributor sortition: the first `contributors` members by H("c", key_m, round), and the first
    few of those who wait to be members, or to be members again. Under a state without members
    nobody can be drawn.
    """
    derived = _derive(state, agreement)
    if not agreement.contributors or not derived.members:
        return None
    if round_ not in derived.contributors:
        waiting = [
            peer
            for peer, member in state.known.items()
            if peer not in derived.members
            and not (member.left or member.never_drawn or may_rejoin(member, round_))
        ]
        _keep(
            derived.contributors,
            round_,
            frozenset(_draw(state, derived.members, round_, agreement.contributors))
            | frozenset(_draw(state, waiting, round_, CANDIDATES_DRAWN)),
        )
    return derived.contributors[round_]


def may_rejoin(member: Member, round_: int) -> bool:
    """Does a join of this peer count though it never left?"""
    return member.credited_round < round_ - REJOIN_ROUNDS


def was_due(state: ChainState, peer: bytes, round_: int, agreement: Agreement) -> bool:
    """Was, or will it be, this peer's turn in `round_`, by the chain that ends with `state`?

    Of rounds before the last ones nothing is known: then it may have been.
    """
    if round_ > state.round:
        due = get_contributors(state, round_, agreement)
    else:
        due = state.due.get(round_)
    return due is None or peer in due


@dataclass(frozen=True, slots=True)
class Committee:
    """Whose votes make a record final: two thirds of `size`, which may be more than `peers`."""

    peers: frozenset[bytes]
    size: int


def get_committee(state: ChainState, agreement: Agreement) -> Committee:
    """Rule 19: the voters; where contributors are drawn, those drawn in the last 8 rounds.

    They are drawn among members. Voters that are members no longer (the other side of a cut)
    count all the same, as if they had been drawn as often: so the size is scaled by their share.
    """
    voters, members = get_voters(state, agreement), get_member_names(state, agreement)
    drawn = [state.due.get(r) for r in range(state.round - DUE_ROUNDS + 1, state.round + 1)]
    if not 0 < agreement.contributors < len(members) or None in drawn:
        return Committee(voters, len(voters))
    peers = members & frozenset().union(*(due for due in drawn if due is not None))
    return Committee(peers, -(-len(peers) * len(voters) // len(members)))


def _draw(state: ChainState, peers: Iterable[bytes], round_: int, count: int) -> list[bytes]:
    """The first `count` by H("c", key_m, round); equal keys by peer."""
    names = list(peers)
    if len(names) <= count:
        return names
    known = state.known
    return heapq.nsmallest(
        count, names, key=lambda p: (compute_draw(b"c", known[p].key, round_), p)
    )


def _turns_per_round(members: int, agreement: Agreement) -> int:
    """How many turns a member has in a round on average, in millionths."""
    if not 0 < agreement.contributors < members:
        return TURN
    return TURN * agreement.contributors // members


def _list_due(parent: ChainState, round_: int, agreement: Agreement) -> dict[int, frozenset[bytes]]:
    """The contributors of the last rounds, at a record of `round_` on `parent`."""
    oldest = round_ - max(DUE_ROUNDS, agreement.late_rounds) + 1
    listed = {r: names for r, names in parent.due.items() if r >= oldest}
    for r in range(max(parent.round + 1, oldest), round_ + 1):
        drawn = get_contributors(parent, r, agreement)
        if drawn is not None:
            listed[r] = drawn
    return listed


_Value = TypeVar("_Value")


def _keep(cache: dict[int, _Value], round_: int, value: _Value) -> None:
    """Remember what was computed of a round. Few are asked about at a time."""
    cache[round_] = value
    if len(cache) > ROUNDS_CACHED:
        del cache[next(iter(cache))]


# --- order and assignment ------------------------------------------------------------------------


def compute_slot(state: ChainState, peer: bytes, round_: int, agreement: Agreement) -> int | None:
    """Slot in which `peer` may propose a child of `state` in `round_`; None without one.

    Rule 12: slot = rank >> s, s = rounds since the parent - 1. Rule 14: under a parent without
    members everybody has rank 0 (that the peer contributed is the proposal's to show).
    The caller compares with the manifest's number of slots; of more than any has it hears nothing.
    """
    if not get_member_names(state, agreement):
        return 0
    skipped = min(round_ - state.round - 1, 64)
    rank = _first_ranks(state, round_, agreement, SLOTS_MAX << skipped).get(peer)
    return None if rank is None or rank >> skipped >= SLOTS_MAX else rank >> skipped


def compute_rank(state: ChainState, peer: bytes, round_: int, agreement: Agreement) -> int | None:
    """Rule 11: place of `peer` among the members sorted by H(key_m, r)."""
    members = get_member_names(state, agreement)
    if not members:
        return 0
    if peer not in members:
        return None
    rank = _first_ranks(state, round_, agreement, SLOTS_MAX).get(peer)
    if rank is None:
        rank = _first_ranks(state, round_, agreement, len(members))[peer]
    return rank


def _first_ranks(
    state: ChainState, round_: int, agreement: Agreement, count: int
) -> dict[bytes, int]:
    """The first `count` members in the order of rule 11, or more, with their places."""
    derived = _derive(state, agreement)
    count = min(count, len(derived.members))
    ranks = derived.first_ranks.get(round_, {})
    if len(ranks) < count:
        known = state.known
        ordered = heapq.nsmallest(
            count, derived.members, key=lambda p: (compute_rank_hash(known[p].key, round_), p)
        )
        ranks = {peer: rank for rank, peer in enumerate(ordered)}
        _keep(derived.first_ranks, round_, ranks)
    return ranks


def compute_interval(
    state: ChainState, peer: bytes, round_: int, manifest: Manifest
) -> tuple[Interval, bytes]:
    """What `peer` trains on in `round_` as `state` deals (rule T5): running samples, probation key.

    The key is empty for a member whose turn it is. Everybody else draws samples of its own, which
    leave no trace on the chain: a candidate's work is a probe, and who has no turn sends nothing.
    With overlap the samples of a round are dealt by the newest record that is two rounds older.
    """
    intervals = _deal(state, round_, manifest)
    if peer in intervals:
        return intervals[peer], b""
    member = state.known.get(peer)
    counts = member.samples if member is not None and member.admitted_by else ()
    return Interval(0, interval_length(counts, manifest.learning.samples_start)), peer


def _deal(state: ChainState, round_: int, manifest: Manifest) -> dict[bytes, Interval]:
    """The intervals of all members whose turn it is in `round_`."""
    derived = _derive(state, manifest.agreement)
    if round_ not in derived.intervals:
        begin = _find_begin(state, round_, manifest)
        lengths = _lengths(state, round_, manifest) if begin is not None else {}
        intervals, _ = compute_intervals(
            ((p, state.known[p].key, length) for p, length in lengths.items()), round_, begin or 0
        )
        _keep(derived.intervals, round_, intervals)
    return derived.intervals[round_]


def _find_begin(state: ChainState, round_: int, manifest: Manifest) -> int | None:
    """Where the intervals of `round_` begin; None where `state` deals none: it is too new.

    With overlap one state deals for two rounds that the chain may both list, if one between them
    has no record: that record's own round and the next. One is odd and one even, so they get
    different halves of what the state deals.
    """
    overlap = manifest.agreement.overlap_rounds
    if not overlap:
        return state.cursor
    gap = round_ - state.round - 1 - overlap
    if gap < 0:
        return None
    return state.cursor + (_largest_deal(state, manifest) if gap % 2 else 0)


def _advance_cursor(parent: ChainState, round_: int, manifest: Manifest) -> int:
    """The cursor at a record of `round_` on `parent`: after all that both rounds were dealt."""
    if not manifest.agreement.overlap_rounds:
        return parent.cursor + sum(_lengths(parent, round_, manifest).values())
    return parent.cursor + _largest_deal(parent, manifest) * min(round_ - parent.round, 2)


def _largest_deal(state: ChainState, manifest: Manifest) -> int:
    """The samples of a round at most, whoever is drawn."""
    start, drawn = manifest.learning.samples_start, manifest.agreement.contributors
    members = get_member_names(state, manifest.agreement)
    lengths = (interval_length(state.known[peer].samples, start) for peer in members)
    return sum(heapq.nlargest(drawn, lengths) if drawn else lengths)


def _lengths(state: ChainState, round_: int, manifest: Manifest) -> dict[bytes, int]:
    """How many samples each member whose turn it is in `round_` is given."""
    members = get_member_names(state, manifest.agreement)
    drawn = get_contributors(state, round_, manifest.agreement)
    start = manifest.learning.samples_start
    return {
        peer: interval_length(state.known[peer].samples, start)
        for peer in (members if drawn is None else members & drawn)
    }


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
    members = get_member_names(parent, agreement)
    members_before = len(members)
    per_round = _turns_per_round(members_before, agreement)
    turns = parent.turns + (proposal.round - parent.round) * per_round
    known = dict(parent.known)
    for join in joins:
        is_early = parent.height < agreement.probation and not join.never_drawn
        joined = _joined(
            join.peer, record if is_early else b"", proposal.round, turns, known.get(join.peer)
        )
        known[join.peer] = replace(joined, never_drawn=join.never_drawn)
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
        known[header.peer] = _included(known[header.peer], header, turns)
        credits.add((header.round, header.peer))
    for header in late:
        credited_turns = turns - (proposal.round - header.round) * per_round
        known[header.peer] = _credited(known[header.peer], header.round, credited_turns)
        credits.add((header.round, header.peer))
    _admit(known, record, members_before, agreement)
    state = ChainState(
        record=record,
        parent=parent.record,
        round=proposal.round,
        height=parent.height + 1,
        cursor=_advance_cursor(parent, proposal.round, manifest),
        known=known,
        credits=frozenset(credits),
        turns=turns,
        due=_list_due(parent, proposal.round, agreement),
    )
    # Only of those who are members no longer: copying thousands for every record takes too long.
    for peer in members - get_member_names(state, agreement):
        known[peer] = replace(known[peer], member_round=parent.round)
    for peer in _list_forgotten(state, agreement):
        del known[peer]
    return state


def _list_forgotten(state: ChainState, agreement: Agreement) -> list[bytes]:
    """Whom the chain need not know any more: it would grow for ever, and strangers could make it.

    Nobody that is a member or voter, or removed, or whose old join could be listed again.
    """
    members = get_member_names(state, agreement)
    wait = 1  # rounds from one turn of a candidate to the next
    if agreement.contributors and members:
        wait = max(1, len(get_candidates(state)) // CANDIDATES_DRAWN)
    return [
        peer
        for peer, member in state.known.items()
        if peer not in members and _find_end(member, wait, agreement) <= state.round
    ]


def _find_end(member: Member, wait: int, agreement: Agreement) -> int:
    """The round in which somebody who is no member may be forgotten.

    Candidates have `expire_rounds` turns, and fewer before their first header: a crowd that never
    says anything would hold the places of those who do.
    """
    if member.left:
        rounds = agreement.late_rounds + 1  # no older join counts then
        if member.contributed:
            rounds = max(rounds, agreement.forget_rounds)
        return max(member.since_round + rounds, member.removed_until)
    if member.admitted_by:
        newest = max(member.member_round, member.credited_round, member.since_round)
        return newest + agreement.forget_rounds
    if member.credited_round > member.since_round:
        return member.credited_round + agreement.expire_rounds * wait
    return member.since_round + max(agreement.expire_rounds, TURNS_TO_SHOW_UP * wait)


def _joined(
    peer: bytes, admitted_by: bytes, round_: int, turns: int, before: Member | None
) -> Member:
    joined = Member(
        peer=peer,
        key=compute_key(admitted_by, peer),
        admitted_by=admitted_by,
        since_round=round_,
        credited_round=round_,
        credited_turns=turns,
        included=0,
        left=False,
        samples=(),
        member_round=NEVER,
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


def _credited(member: Member, round_: int, turns: int) -> Member:
    return replace(
        member,
        credited_round=max(member.credited_round, round_),
        credited_turns=max(member.credited_turns, turns),
    )


def _included(member: Member, header: Header, turns: int) -> Member:
    if header.k == 0:  # a heartbeat says nothing about speed, and brings nothing
        return replace(_credited(member, header.round, turns), included=member.included + 1)
    return replace(
        member,
        credited_round=max(member.credited_round, header.round),
        credited_turns=max(member.credited_turns, turns),
        included=member.included + 1,
        samples=(*member.samples, header.samples)[-SAMPLES_HISTORY:],
        contributed=member.contributed + 1,
        samples_total=member.samples_total + header.samples,
        first_round=header.round if member.first_round < 0 else member.first_round,
        last_round=header.round,
    )


def _admit(known: dict[bytes, Member], record: bytes, members: int, agreement: Agreement) -> None:
    """Rule 6: at most max(2, members/8) per record, longest waiting first, then lowest hash."""
    ready = [m for m in known.values() if is_candidate(m) and m.included >= agreement.probation]
    ready.sort(key=lambda m: (m.since_round, compute_waiting_hash(record, m.peer)))
    for member in ready[: max(2, members // 8)]:
        known[member.peer] = replace(
            member, admitted_by=record, key=compute_key(record, member.peer)
        )
