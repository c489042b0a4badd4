"""Who is in, whose turn it is, who trains on what: functions of a record (rules 5, 7, 11, 12, T5).

`ChainState` is everything the chain says at one record: its roster, its place, how far the data
has been dealt out, and whose headers of the last rounds are already credited.
"""

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar

from demo_protocol.assignment import Interval, compute_draw, compute_intervals, interval_length
from demo_protocol.identity import compute_rank_hash
from demo_protocol.limits import CANDIDATES_MAX, JOINS_MAX, SLOTS_MAX
from demo_protocol.manifest import Agreement, Manifest

SAMPLES_HISTORY = 8
"""Sample counts remembered per member: rule T2 takes their median."""

GENESIS_ROUND = -1
"""The genesis record stands before round 0."""

NEVER: Final = GENESIS_ROUND - 1
"""`member_round` of who never was a member."""

CANDIDATES_DRAWN: Final = 4
"""Candidates, and members that expired, that contribute in one round beside the members drawn."""

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


def count_offered_places(state: ChainState, agreement: Agreement) -> int:
    """How many joins an honest child of `state` lists at most: half are kept for leaves."""
    return min(JOINS_MAX // 2, count_places(state, agreement))


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
            if peer not in derived.members and not (member.left or member.never_drawn)
        ]
        _keep(
            derived.contributors,
            round_,
            frozenset(_draw(state, derived.members, round_, agreement.contributors))
            | frozenset(_draw(state, waiting, round_, CANDIDATES_DRAWN)),
        )
    return derived.contributors[round_]


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
        lengths = list_lengths(state, round_, manifest) if begin is not None else {}
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
    return state.cursor + (compute_largest_deal(state, manifest) if gap % 2 else 0)


def compute_largest_deal(state: ChainState, manifest: Manifest) -> int:
    """The samples of a round at most, whoever is drawn."""
    start, drawn = manifest.learning.samples_start, manifest.agreement.contributors
    members = get_member_names(state, manifest.agreement)
    lengths = (interval_length(state.known[peer].samples, start) for peer in members)
    return sum(heapq.nlargest(drawn, lengths) if drawn else lengths)


def list_lengths(state: ChainState, round_: int, manifest: Manifest) -> dict[bytes, int]:
    """How many samples each member whose turn it is in `round_` is given."""
    members = get_member_names(state, manifest.agreement)
    drawn = get_contributors(state, round_, manifest.agreement)
    start = manifest.learning.samples_start
    return {
        peer: interval_length(state.known[peer].samples, start)
        for peer in (members if drawn is None else members & drawn)
    }
