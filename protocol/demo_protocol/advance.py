"""One record further: what the chain says after it, from what it said before (rules 5 to 8)."""

from collections.abc import Iterable
from dataclasses import replace

from demo_protocol.identity import compute_key, compute_waiting_hash
from demo_protocol.manifest import Agreement, Manifest
from demo_protocol.messages import Header, Membership, Proposal
from demo_protocol.roster import (
    CANDIDATES_DRAWN,
    DUE_ROUNDS,
    NEVER,
    SAMPLES_HISTORY,
    TURN,
    TURNS_TO_SHOW_UP,
    ChainState,
    Member,
    compute_largest_deal,
    get_candidates,
    get_contributors,
    get_member_names,
    is_candidate,
    list_lengths,
)


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


def _advance_cursor(parent: ChainState, round_: int, manifest: Manifest) -> int:
    """The cursor at a record of `round_` on `parent`: after all that both rounds were dealt."""
    if not manifest.agreement.overlap_rounds:
        return parent.cursor + sum(list_lengths(parent, round_, manifest).values())
    return parent.cursor + compute_largest_deal(parent, manifest) * min(round_ - parent.round, 2)
