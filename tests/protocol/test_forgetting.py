"""Whom the chain forgets, so that nobody can make it grow; who votes is not touched by it."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demo_node.sim.keys import cheap_verify, peer_name
from demo_protocol.advance import _list_forgotten
from demo_protocol.errors import Reject
from demo_protocol.evidence import make_offence
from demo_protocol.limits import CANDIDATES_MAX, JOINS_MAX
from demo_protocol.manifest import Agreement
from demo_protocol.roster import ChainState, count_places, get_voters
from demo_protocol.validate import is_wish_usable, validate_proposal
from tests.builders import Tree, header, manifest, names, run_id_of, wish

SHORT = manifest(agreement=Agreement(expire_rounds=5, forget_rounds=100, contributors=0))


def known(tree: Tree, record: bytes) -> set[bytes]:
    return set(tree.state(record).known)


def test_a_candidate_that_never_contributes_is_forgotten_after_expire_rounds() -> None:
    tree = Tree(SHORT)
    record = tree.extend(tree.start(2), 3, [0, 1])
    record = tree.grow(record, 4, [0, 1], joins=[9])
    record = tree.extend(record, 4, [0, 1])
    assert peer_name(9) in known(tree, record)
    record = tree.extend(record, 1, [0, 1])
    assert tree.state(record).round == 4 + SHORT.agreement.expire_rounds
    assert known(tree, record) == names(0, 1)
    record = tree.grow(record, 10, [0, 1], joins=[9])  # and it may join again
    assert peer_name(9) in known(tree, record)


def test_a_candidate_that_contributes_now_and_then_is_not_forgotten() -> None:
    tree = Tree(manifest(agreement=replace(SHORT.agreement, probation=9)))
    record = tree.extend(tree.start(2), 9, [0, 1])
    record = tree.grow(record, 10, [0, 1, 9], joins=[9])
    for _ in range(4):
        record = tree.extend(record, 4, [0, 1])
        record = tree.extend(record, 1, [0, 1, 9])
    assert tree.member(record, 9).included == 5
    record = tree.extend(record, 5, [0, 1])
    assert known(tree, record) == names(0, 1)


def test_who_left_is_forgotten_when_no_old_join_of_it_counts_any_more() -> None:
    tree = Tree(SHORT)
    late = SHORT.agreement.late_rounds
    record = tree.extend(tree.start(2), 3, [0, 1])
    record = tree.grow(record, 4, [0, 1], joins=[9])
    record = tree.grow(record, 5, [0, 1], leaves=[9])
    for round_ in range(6, 6 + late):
        assert peer_name(9) in known(tree, record)
        usable = is_wish_usable(wish(9, 4, run=tree.run).body, tree.state(record), round_, late)
        assert not usable
        record = tree.grow(record, round_, [0, 1])
    assert peer_name(9) in known(tree, record)
    record = tree.extend(record, 1, [0, 1])
    assert peer_name(9) not in known(tree, record)
    state = tree.state(record)
    assert not any(
        is_wish_usable(wish(9, signed, run=tree.run).body, state, state.round + 1, late)
        for signed in range(6)
    )


def test_who_contributed_and_is_no_voter_any_more_is_forgotten() -> None:
    tree = Tree(SHORT)
    record = tree.extend(tree.start(3), 104, [0, 1])  # 2 was a member in round 4 for the last time
    assert get_voters(tree.state(record), SHORT.agreement) == names(0, 1) == known(tree, record)
    left = tree.grow(tree.start(3), 1, [0, 1], leaves=[2])
    left = tree.extend(left, 99, [0, 1])
    assert peer_name(2) in known(tree, left)
    assert known(tree, tree.extend(left, 1, [0, 1])) == names(0, 1)


def test_who_is_removed_is_known_until_it_may_join_again() -> None:
    tree = Tree(SHORT)
    one, other = (header(2, 1, run=tree.run, samples=count) for count in (8, 9))
    record = tree.grow(tree.start(3), 1, [0, 1], evidence=[make_offence(one, other).evidence])
    until = tree.member(record, 2).removed_until
    record = tree.extend(record, until - 2, [0, 1])
    assert peer_name(2) in known(tree, record)
    record = tree.extend(record, 1, [0, 1])
    assert tree.state(record).round == until
    assert peer_name(2) not in known(tree, record)


def crowded(candidates: int, *, contributors: int = 0) -> ChainState:
    """Two members, and so many candidates that joined in round 8."""
    tree = Tree(manifest(agreement=replace(SHORT.agreement, contributors=contributors)))
    record = tree.extend(tree.start(2), 9, [0, 1])
    state = tree.state(record)
    silent = state.known[peer_name(0)]
    crowd = {
        number.to_bytes(32, "big"): replace(
            silent,
            peer=number.to_bytes(32, "big"),
            admitted_by=b"",
            since_round=8,
            credited_round=8,
        )
        for number in range(candidates)
    }
    return replace(state, known={**state.known, **crowd})


def test_candidates_are_bounded_by_the_places_there_are_for_joins() -> None:
    agreement = SHORT.agreement
    assert count_places(crowded(0), agreement) == JOINS_MAX
    assert count_places(crowded(CANDIDATES_MAX - 5), agreement) == 5
    assert count_places(crowded(CANDIDATES_MAX), agreement) == 0
    beginning = replace(crowded(CANDIDATES_MAX), height=2)
    assert count_places(beginning, agreement) == JOINS_MAX  # they are members at once


def test_a_record_with_more_joins_than_places_is_rejected_and_nobody_proposes_one() -> None:
    tree = Tree(SHORT)
    record = tree.extend(tree.start(2), 4, [0, 1])
    state = tree.state(record)
    full = replace(state, known={**state.known, **crowded(CANDIDATES_MAX - 1).known})
    sealed = {n: tree.propose(record, 5, [0, 1], joins=range(9, 9 + n)) for n in (1, 2)}

    def check(joins: int) -> None:
        validate_proposal(
            sealed[joins],
            full,
            tree.headers,
            manifest=tree.run,
            run_id=run_id_of(tree.run),
            verify=cheap_verify,
        )

    check(1)
    with pytest.raises(Reject, match="places"):
        check(2)


@pytest.mark.parametrize(("candidates", "rounds"), [(4, 5), (40, 30), (400, 300)])
def test_where_candidates_are_drawn_they_have_turns_not_rounds(
    candidates: int, rounds: int
) -> None:
    """4 of them a round: who is never heard has three turns, at least `expire_rounds`."""
    agreement = replace(SHORT.agreement, contributors=2)
    state = crowded(candidates, contributors=2)
    for later in (rounds - 1, rounds):
        gone = _list_forgotten(replace(state, round=8 + later), agreement)
        assert len(gone) == (candidates if later == rounds else 0)


def test_rule_7_candidates_are_no_voters_not_even_in_the_first_rounds_of_a_run() -> None:
    """Once they were, for `forget_rounds` after the genesis: the property below found it."""
    tree = Tree(SHORT)
    record = tree.extend(tree.start(2), 3, [0, 1])
    record = tree.grow(record, 4, [0, 1], joins=[9])
    assert get_voters(tree.state(record), SHORT.agreement) == names(0, 1)


def grow_at_random(
    tree: Tree, record: bytes, step: tuple[int, set[int], int, bool]
) -> tuple[bytes, int | None]:
    """(a child of `record`, or itself where nobody may propose one; who joined or left in it)."""
    skip, heard, whom, joins = step
    state = tree.state(record)
    round_ = state.round + skip
    change = wish(whom, round_, joins=joins, run=tree.run).body
    may = is_wish_usable(change, state, round_, tree.run.agreement.late_rounds)
    there = [
        a
        for a in sorted(heard)
        if (member := state.known.get(peer_name(a))) is not None and not member.left
    ]
    changed = [whom] if may else []
    if not joins and may:
        there = [a for a in there if a != whom]
    if not there:
        return record, None
    return tree.grow(
        record,
        round_,
        there,
        joins=changed if joins else [],
        leaves=[] if joins else changed,
    ), whom if may else None


@settings(max_examples=20, deadline=None)
@given(
    steps=st.lists(
        st.tuples(
            st.integers(1, 3),
            st.sets(st.integers(0, 6), min_size=1),
            st.integers(0, 6),
            st.booleans(),
        ),
        min_size=10,
        max_size=50,
    )
)
def test_rule_7_voters_are_who_was_a_member_at_a_record_of_the_last_forget_rounds(
    steps: list[tuple[int, set[int], int, bool]],
) -> None:
    """Against the sentence itself: of members that stay nothing is written at a record."""
    tree = Tree(
        manifest(
            agreement=Agreement(expire_rounds=3, forget_rounds=12, probation=2, contributors=0)
        )
    )
    record = tree.start(4)
    was_member = dict.fromkeys(tree.members(record), 0)
    for step in steps:
        before = record
        record, changed = grow_at_random(tree, record, step)
        if changed is not None:
            was_member.pop(peer_name(changed), None)  # left, or begins anew
        state = tree.state(record)
        was_member |= dict.fromkeys(tree.members(record), state.round)
        expected = {p for p, round_ in was_member.items() if round_ > state.round - 12}
        assert get_voters(state, tree.run.agreement) == expected
        if before != record:
            assert expected <= state.known.keys()


@settings(max_examples=20, deadline=None)
@given(joins=st.lists(st.sets(st.integers(20, 200), max_size=6), min_size=30, max_size=30))
def test_strangers_that_come_and_say_nothing_leave_nothing_behind(joins: list[set[int]]) -> None:
    tree = Tree(SHORT)
    record = tree.extend(tree.start(2), 4, [0, 1])
    for crowd in joins:
        state = tree.state(record)
        new = [a for a in crowd if peer_name(a) not in state.known]
        record = tree.grow(record, state.round + 1, [0, 1], joins=new)
        assert len(known(tree, record)) <= 2 + SHORT.agreement.expire_rounds * 6
    assert known(tree, tree.extend(record, SHORT.agreement.expire_rounds, [0, 1])) == names(0, 1)
