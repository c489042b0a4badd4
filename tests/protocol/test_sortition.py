"""Contributor sortition: whose turn it is, as a function of a record; nobody else is listed."""

import time
from collections import Counter
from dataclasses import replace

import pytest

from demo_node.sim.keys import cheap_sign, peer_name
from demo_protocol.answers import decode_chain_state, encode_chain_state
from demo_protocol.assignment import compute_draw
from demo_protocol.errors import Reject
from demo_protocol.manifest import Agreement
from demo_protocol.messages import Membership, Sealed, decode_membership, seal_membership
from demo_protocol.roster import (
    CANDIDATES_DRAWN,
    DUE_ROUNDS,
    TURN,
    ChainState,
    Member,
    compute_interval,
    compute_rank,
    compute_slot,
    get_candidates,
    get_contributors,
    get_member_names,
    get_voters,
    was_due,
)
from demo_protocol.validate import is_wish_usable
from tests.builders import Tree, header, proposal, run_id_of
from tests.protocol.turns import AGREEMENT, RUN, C, drawn, grow, outsider


def crowd(members: int, candidates: int = 0) -> ChainState:
    """A state with so many members, and candidates."""
    known = {}
    for number in range(members + candidates):
        peer = number.to_bytes(32, "big")
        known[peer] = Member(
            peer=peer,
            key=bytes(31) + peer,
            admitted_by=b"r" * 32 if number < members else b"",
            since_round=0,
            credited_round=9,
            credited_turns=10 * TURN,
            included=3,
            left=False,
            samples=(),
            member_round=9 if number < members else -2,
        )
    return ChainState(
        record=b"r" * 32,
        parent=b"p" * 32,
        round=9,
        height=10,
        cursor=0,
        known=known,
        credits=frozenset(),
        turns=10 * TURN,
    )


# --- who is drawn --------------------------------------------------------------------------------


def test_the_first_c_members_by_the_hash_of_their_key_and_the_round_contribute() -> None:
    tree = Tree(RUN)
    record = tree.start(8)
    keys = {n: tree.member(record, n).key for n in range(8)}
    for round_ in range(1, 30):
        expected = sorted(range(8), key=lambda n: compute_draw(b"c", keys[n], round_))[:C]
        assert drawn(tree, record, round_) == sorted(expected)


def test_draws_are_fair_and_differ_from_round_to_round() -> None:
    state = crowd(40)
    turns = Counter(
        peer for r in range(10, 410) for peer in get_contributors(state, r, AGREEMENT) or ()
    )
    assert len(turns) == 40
    assert 400 * C / 40 / 2 < min(turns.values()) <= max(turns.values()) < 400 * C / 40 * 2


def test_nothing_a_proposer_writes_moves_the_draw() -> None:
    tree = Tree(RUN)
    parent = tree.start(8)
    first, second = tree.ranked(parent, 1)[:2]
    due = drawn(tree, parent, 1)
    siblings = [
        tree.grow(parent, 1, due, by=first),
        tree.grow(parent, 1, due[:2], by=first),
        tree.grow(parent, 1, due, by=second),
    ]
    for round_ in range(2, 20):
        assert len({tuple(drawn(tree, sibling, round_)) for sibling in siblings}) == 1


def test_some_candidates_contribute_beside_the_members_and_no_more_than_four() -> None:
    state = crowd(10, candidates=7)
    members = get_member_names(state, AGREEMENT)
    seen: set[bytes] = set()
    for round_ in range(10, 40):
        due = get_contributors(state, round_, AGREEMENT)
        assert due is not None
        assert len(due & members) == C
        assert len(due - members) == CANDIDATES_DRAWN
        seen |= due - members
    assert len(seen) == 7  # so that all of them get through probation


def test_where_members_are_few_all_of_them_contribute() -> None:
    state = crowd(C)
    assert get_contributors(state, 10, AGREEMENT) == get_member_names(state, AGREEMENT)


def test_zero_contributors_and_a_parent_without_members_leave_it_to_everybody() -> None:
    assert get_contributors(crowd(40), 10, Agreement(contributors=0)) is None
    tree = Tree(RUN)
    assert get_contributors(tree.state(tree.genesis), 0, AGREEMENT) is None


def test_ten_thousand_members_are_cheap() -> None:
    """Everything that sorts or hashes all of them is done once for a record and round."""
    state = crowd(10_000)
    begin_s = time.process_time()
    for round_ in (10, 11):
        for number in range(2_000):
            peer = number.to_bytes(32, "big")
            was_due(state, peer, round_, AGREEMENT)
            compute_slot(state, peer, round_, AGREEMENT)
            compute_interval(state, peer, round_, RUN)
            get_voters(state, AGREEMENT)
    # One pass over all members takes some 30 ms; 4,000 of them would take minutes.
    assert time.process_time() - begin_s < 5


def test_a_rank_beyond_all_slots_is_still_told_and_its_slot_is_none() -> None:
    state = crowd(100)
    ranks = {p: compute_rank(state, p, 10, AGREEMENT) for p in state.known}
    assert sorted(r for r in ranks.values() if r is not None) == list(range(100))
    for peer, rank in ranks.items():
        assert rank is not None
        assert compute_slot(state, peer, 10, AGREEMENT) == (rank if rank < 16 else None)


def test_a_state_asked_by_another_manifest_answers_by_that_one() -> None:
    state = crowd(40)
    assert len(get_contributors(state, 10, AGREEMENT) or ()) == C
    wider = replace(AGREEMENT, contributors=9)
    assert len(get_contributors(state, 10, wider) or ()) == 9


# --- what a record may list ----------------------------------------------------------------------


def test_a_record_lists_contributions_of_its_parents_contributors_only() -> None:
    tree = Tree(RUN)
    record = tree.start(8)
    due = drawn(tree, record, 1)
    tree.grow(record, 1, due)
    with pytest.raises(Reject, match="whose turn it is not"):
        tree.grow(record, 1, [*due, outsider(tree, record, 1)])


def test_a_join_and_its_first_contribution_do_not_stand_in_one_record() -> None:
    tree = Tree(RUN)
    record = grow(tree, tree.start(8), range(1, 5))[-1]
    with pytest.raises(Reject, match="whose turn it is not"):
        tree.grow(record, 5, [*drawn(tree, record, 5), 9], joins=[9])
    record = tree.grow(record, 5, drawn(tree, record, 5), joins=[9])
    assert 9 in drawn(tree, record, 6)


def test_late_headers_are_of_those_whose_turn_it_was_in_their_round() -> None:
    """By the chain of that round: the record before it, not the one they are listed on."""
    tree = Tree(RUN)
    record = tree.start(8)
    due = drawn(tree, record, 1)
    after = tree.grow(record, 1, due[:2])
    late = header(due[2], 1, run=RUN)
    tree.grow(after, 2, drawn(tree, after, 2), late=[late])
    stranger = header(outsider(tree, record, 1), 1, run=RUN)
    with pytest.raises(Reject, match="whose turn it was not"):
        tree.grow(after, 2, drawn(tree, after, 2), late=[stranger])


def test_late_headers_of_a_round_without_a_record_are_judged_by_the_record_before() -> None:
    tree = Tree(RUN)
    record = tree.start(8)
    due = drawn(tree, record, 1)
    tree.grow(record, 2, drawn(tree, record, 2), late=[header(due[0], 1, run=RUN)])
    stranger = header(outsider(tree, record, 1), 1, run=RUN)
    with pytest.raises(Reject, match="whose turn it was not"):
        tree.grow(record, 2, drawn(tree, record, 2), late=[stranger])


def test_whose_turn_it_was_is_remembered_for_as_long_as_it_is_asked() -> None:
    tree = Tree(RUN)
    records = grow(tree, tree.start(8), range(1, 30))
    state = tree.state(records[-1])
    assert sorted(state.due) == list(range(29 - DUE_ROUNDS + 1, 30))
    for step in (tree.chain[r] for r in records[-DUE_ROUNDS:]):
        assert state.due[step.round] == get_contributors(
            tree.state(step.parent), step.round, AGREEMENT
        )
    assert decode_chain_state(encode_chain_state(state)) == state  # a joiner judges alike


# --- who is never drawn --------------------------------------------------------------------------


def never_drawn(author: int, round_: int, *, is_never: bool = True) -> Sealed[Membership]:
    peer = peer_name(author)
    wished = Membership(joins=True, peer=peer, round=round_, never_drawn=is_never)
    return seal_membership(wished, run_id_of(RUN), cheap_sign(peer))


def test_who_says_so_in_its_join_is_never_drawn_and_no_candidate() -> None:
    tree = Tree(RUN)
    parent = grow(tree, tree.start(8), range(1, 5))[-1]
    due = [header(n, 5, run=RUN, vote=parent) for n in drawn(tree, parent, 5)]
    tree.headers.update({h.hash: h for h in due})
    by = tree.ranked(parent, 5)[0]
    joins = [never_drawn(9, 5)]
    record = tree.add(proposal(by, 5, parent, run=RUN, contributions=due, joins=joins)).hash
    assert tree.member(record, 9).never_drawn
    assert peer_name(9) not in get_candidates(tree.state(record))
    assert not any(9 in drawn(tree, record, r) for r in range(6, 60))
    state = tree.state(record)
    assert decode_chain_state(encode_chain_state(state)) == state
    # It may think better of it, and a member may find that it cannot any more.
    assert is_wish_usable(never_drawn(9, 6, is_never=False).body, state, 6, 6)
    assert not is_wish_usable(never_drawn(9, 6).body, state, 6, 6)
    assert is_wish_usable(never_drawn(1, 6).body, state, 6, 6)


def test_even_in_a_young_run_it_becomes_no_member() -> None:
    tree = Tree(RUN)
    record = tree.start(3)
    due = [header(n, 1, run=RUN, vote=record) for n in range(3)]
    tree.headers.update({h.hash: h for h in due})
    made = proposal(
        tree.ranked(record, 1)[0], 1, record, run=RUN, contributions=due, joins=[never_drawn(9, 1)]
    )
    assert peer_name(9) not in tree.members(tree.add(made).hash)


def test_a_leave_does_not_say_how_its_author_joins() -> None:
    peer = peer_name(1)
    odd = Membership(joins=False, peer=peer, round=1, never_drawn=True)
    sealed = seal_membership(odd, run_id_of(RUN), cheap_sign(peer))
    with pytest.raises(Reject, match="a leave that says"):
        decode_membership(sealed.raw, run_id_of(RUN))
