"""Rules 5 to 8, 11, 12 and 14: who is in, and in which order, as a function of a record."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo_node.sim.keys import peer_name
from demo_protocol.advance import advance
from demo_protocol.identity import compute_key, compute_rank_hash, compute_waiting_hash
from demo_protocol.manifest import Agreement
from demo_protocol.messages import Header, Membership
from demo_protocol.roster import (
    GENESIS_ROUND,
    SAMPLES_HISTORY,
    ChainState,
    compute_interval,
    compute_rank,
    compute_slot,
    get_candidates,
    get_member_names,
    get_voters,
)
from tests.builders import MANIFEST, Tree, header, manifest, names, proposal, wish

AGREEMENT = MANIFEST.agreement


def test_rule_5_the_genesis_record_is_the_manifests_hash_and_knows_nobody() -> None:
    state = Tree().state(Tree().genesis)
    assert (state.round, state.height, state.cursor) == (GENESIS_ROUND, 0, 0)
    assert not get_member_names(state, AGREEMENT)
    assert not state.known


# --- rule 6: admission ---------------------------------------------------------------------------


def test_rule_6_while_the_chain_is_shorter_than_probation_joins_are_members() -> None:
    tree = Tree()
    record = tree.start(2)
    for round_, newcomer in ((1, 2), (2, 3)):
        record = tree.grow(record, round_, [0, 1, newcomer], joins=[newcomer])
    assert tree.members(record) == names(0, 1, 2, 3)
    record = tree.grow(record, 3, [0, 1, 4], joins=[4])
    assert tree.members(record) == names(0, 1, 2, 3)
    assert set(get_candidates(tree.state(record))) == names(4)


def test_rule_6_a_candidate_is_a_member_once_probation_contributions_are_included() -> None:
    tree = Tree()
    record = tree.extend(tree.start(2), 3, [0, 1])
    record = tree.grow(record, 4, [0, 1, 9], joins=[9])
    for included in (1, 2):
        assert tree.member(record, 9).included == included
        assert tree.members(record) == names(0, 1)
        record = tree.extend(record, 1, [0, 1, 9])
    assert tree.members(record) == names(0, 1, 9)
    assert tree.member(record, 9).admitted_by == record


def test_rule_6_late_headers_do_not_count_for_probation() -> None:
    tree = Tree()
    record = tree.extend(tree.start(2), 3, [0, 1])
    record = tree.grow(record, 4, [0, 1, 9], joins=[9])
    for round_ in range(5, 9):
        record = tree.grow(record, round_, [0, 1], late=[header(9, round_ - 1)] * (round_ > 5))
    assert tree.member(record, 9).included == 1
    assert tree.members(record) == names(0, 1)


@pytest.mark.parametrize(("members", "per_record"), [(2, 2), (21, 2), (24, 3), (32, 4)])
def test_rule_6_at_most_two_or_an_eighth_of_the_members_become_members_per_record(
    members: int, per_record: int
) -> None:
    tree = Tree()
    old, new = range(members), range(100, 106)
    record = tree.extend(tree.start(members), 3, old)
    record = tree.grow(record, 4, [*old, *new], joins=new)
    record = tree.extend(record, 2, [*old, *new])
    assert len(tree.members(record)) == members + per_record
    record = tree.extend(record, 1, [*old, *new])
    assert len(tree.members(record)) == members + min(2 * per_record, len(new))


def test_rule_6_who_waits_longest_is_admitted_first_and_the_hash_breaks_ties() -> None:
    tree = Tree()
    record = tree.extend(tree.start(2), 3, [0, 1])
    record = tree.grow(record, 4, [0, 1], joins=[9])  # the first to wait
    record = tree.grow(record, 5, [0, 1], joins=[5, 6, 7, 8])
    record = tree.extend(record, 3, [0, 1, 5, 6, 7, 8, 9])
    among_equals = min(names(5, 6, 7, 8), key=lambda peer: compute_waiting_hash(record, peer))
    assert tree.members(record) == names(0, 1, 9) | {among_equals}


def test_rule_6_a_peer_that_left_waits_again_under_a_new_key() -> None:
    tree = Tree()
    record = tree.extend(tree.start(3), 3, [0, 1, 2])
    key = tree.member(record, 2).key
    record = tree.grow(record, 4, [0, 1, 2], leaves=[2])
    assert tree.members(record) == names(0, 1)
    record = tree.grow(record, 5, [0, 1, 2], joins=[2])
    assert tree.members(record) == names(0, 1)
    record = tree.extend(record, 2, [0, 1, 2])
    assert tree.members(record) == names(0, 1, 2)
    assert tree.member(record, 2).key == compute_key(record, peer_name(2)) != key


# --- rule 7: expiry ------------------------------------------------------------------------------

SHORT = manifest(agreement=Agreement(expire_rounds=5, forget_rounds=100))


def test_rule_7_a_member_expires_after_expire_rounds_without_a_header() -> None:
    tree = Tree(SHORT)
    record = tree.extend(tree.start(3), 4, [0, 1])  # 2 was last credited in round 0
    assert tree.members(record) == names(0, 1, 2)
    record = tree.extend(record, 1, [0, 1])
    assert tree.state(record).round == 5
    assert tree.members(record) == names(0, 1)


def test_rule_7_expiry_counts_rounds_of_the_chain_not_records() -> None:
    tree = Tree(SHORT)
    record = tree.grow(tree.start(3), 5, [0, 1])  # one record later, five rounds later
    assert tree.members(record) == names(0, 1)


def test_rule_7_a_header_credited_late_keeps_a_member_alive() -> None:
    tree = Tree(SHORT)
    record = tree.extend(tree.start(3), 4, [0, 1])
    record = tree.grow(record, 5, [0, 1], late=[header(2, 3)])
    assert tree.members(record) == names(0, 1, 2)
    assert tree.member(record, 2).credited_round == 3


def test_rule_7_who_expired_and_contributes_again_is_a_member_again_with_the_old_key() -> None:
    tree = Tree(SHORT)
    record = tree.extend(tree.start(3), 5, [0, 1])
    key = tree.member(record, 2).key
    record = tree.grow(record, 6, [0, 1, 2])
    assert tree.members(record) == names(0, 1, 2)
    assert tree.member(record, 2).key == key


def test_rule_7_an_expired_member_stays_a_voter_until_forget_rounds_have_passed() -> None:
    tree = Tree(SHORT)
    record = tree.extend(tree.start(3), 103, [0, 1])
    assert tree.members(record) == names(0, 1)
    assert get_voters(tree.state(record), SHORT.agreement) == names(0, 1, 2)
    record = tree.extend(record, 1, [0, 1])  # 2 was a member in round 4 for the last time
    assert get_voters(tree.state(record), SHORT.agreement) == names(0, 1)


def test_rule_7_a_candidate_is_no_voter_however_young_the_run_is() -> None:
    tree = Tree()
    record = tree.grow(tree.extend(tree.start(3), 4, [0, 1, 2]), 5, [0, 1, 2], joins=[3])
    assert set(get_candidates(tree.state(record))) == names(3)
    assert get_voters(tree.state(record), AGREEMENT) == names(0, 1, 2)


def test_rule_7_who_signed_a_leave_is_neither_member_nor_voter() -> None:
    tree = Tree()
    record = tree.grow(tree.start(3), 1, [0, 1, 2], leaves=[2])
    assert tree.members(record) == names(0, 1)
    assert get_voters(tree.state(record), AGREEMENT) == names(0, 1)


# --- rule 8 and T2: what a header is credited with -----------------------------------------------


def test_rule_8_credits_are_remembered_for_late_rounds() -> None:
    tree = Tree()
    record = tree.extend(tree.start(1), 9, [0])
    assert tree.state(record).credits == {(r, peer_name(0)) for r in range(4, 10)}


def test_rule_t2_the_last_eight_sample_counts_are_remembered_and_heartbeats_are_not() -> None:
    tree = Tree()
    record = tree.extend(tree.start(2), 4, [0, 1])
    beat = header(0, 5, k=0)
    tree.headers[beat.hash] = beat
    sealed = proposal(tree.ranked(record, 5)[0], 5, record, contributions=[beat])
    record = tree.add(sealed).hash
    assert tree.member(record, 0).samples == (8,) * 5
    record = tree.extend(record, 9, [0, 1])
    assert tree.member(record, 0).samples == (8,) * SAMPLES_HISTORY


def test_rule_t5_members_train_on_disjoint_intervals_from_the_cursor_and_candidates_apart() -> None:
    tree = Tree()
    record = tree.extend(tree.start(3), 3, [0, 1, 2])
    record = tree.grow(record, 4, [0, 1, 2], joins=[9])
    state = tree.state(record)
    dealt = [compute_interval(state, peer_name(a), 5, tree.run) for a in range(3)]
    assert [probation for _, probation in dealt] == [b""] * 3
    numbers = [n for i, _ in dealt for n in range(i.first, i.first + i.count)]
    assert sorted(numbers) == list(range(state.cursor, state.cursor + len(numbers)))
    interval, probation = compute_interval(state, peer_name(9), 5, tree.run)
    assert probation == peer_name(9)
    assert (interval.first, interval.count) == (0, tree.run.learning.samples_start)
    child = tree.state(tree.extend(record, 1, [0, 1, 2]))
    assert child.cursor == state.cursor + len(numbers)


# --- rules 11, 12 and 14: order ------------------------------------------------------------------


def test_rule_11_members_are_ordered_by_the_hash_of_their_key_and_the_round() -> None:
    tree = Tree()
    record = tree.extend(tree.start(5), 1, range(5))
    keys = {a: tree.member(record, a).key for a in range(5)}
    for round_ in range(2, 12):
        expected = sorted(range(5), key=lambda a: compute_rank_hash(keys[a], round_))
        assert tree.ranked(record, round_) == expected


def test_rule_11_nothing_a_proposer_writes_moves_the_order() -> None:
    """Seeded by the parent, a proposer could try contents until its own id comes next."""
    tree = Tree()
    parent = tree.extend(tree.start(6), 1, range(6))
    first, second = tree.ranked(parent, 2)[:2]
    siblings = [
        tree.grow(parent, 2, range(6), by=first),
        tree.grow(parent, 2, range(5), by=first),
        tree.grow(parent, 2, range(6), by=second),
    ]
    for round_ in range(3, 20):
        assert len({tuple(tree.ranked(sibling, round_)) for sibling in siblings}) == 1


@pytest.mark.parametrize(
    ("skipped", "slots"),
    [
        (0, [0, 1, 2, 3, 4, 5, 6, 7]),
        (1, [0, 0, 1, 1, 2, 2, 3, 3]),
        (2, [0, 0, 0, 0, 1, 1, 1, 1]),
        (3, [0, 0, 0, 0, 0, 0, 0, 0]),
        (10**6, [0, 0, 0, 0, 0, 0, 0, 0]),
    ],
)
def test_rule_12_the_slot_is_the_rank_halved_for_every_round_without_a_record(
    skipped: int, slots: list[int]
) -> None:
    tree = Tree()
    parent = tree.start(8)
    round_ = 1 + skipped
    state = tree.state(parent)
    found = [
        compute_slot(state, peer_name(a), round_, AGREEMENT) for a in tree.ranked(parent, round_)
    ]
    assert found == slots


def test_rule_12_who_is_no_member_has_no_slot() -> None:
    tree = Tree()
    state = tree.state(tree.start(2))
    assert compute_rank(state, peer_name(9), 1, AGREEMENT) is None
    assert compute_slot(state, peer_name(9), 1, AGREEMENT) is None


def test_rule_14_under_a_parent_without_members_everybody_has_rank_0() -> None:
    state = Tree().state(Tree().genesis)
    assert compute_rank(state, peer_name(9), 7, AGREEMENT) == 0
    assert compute_slot(state, peer_name(9), 7, AGREEMENT) == 0


# --- a function of the record, and of nothing else -----------------------------------------------


@pytest.fixture(scope="module")
def admitting() -> tuple[ChainState, Callable[[Sequence[int], Sequence[int]], ChainState]]:
    """A parent with ready candidates, and how it advances with things given in some order."""
    tree = Tree()
    record = tree.extend(tree.start(4), 3, range(4))
    record = tree.grow(record, 4, range(4), joins=[4, 5, 6, 7])
    record = tree.extend(record, 2, range(8))
    parent = tree.state(record)
    sealed = proposal(0, 8, record)
    lates: list[Header] = [header(a, 6 + a % 2).body for a in range(4)]
    joins: list[Membership] = [wish(a, 8).body for a in range(8, 12)]

    def advanced(order: Sequence[int], other: Sequence[int]) -> ChainState:
        return advance(
            parent,
            sealed.hash,
            sealed.body,
            contributions=[header(a, 8).body for a in order],
            late=[lates[a] for a in other],
            joins=[joins[a] for a in other],
            leaves=[wish(0, 8, joins=False).body],
            removed=[peer_name(a) for a in other if a < 2],
            manifest=tree.run,
        )

    return parent, advanced


@given(order=st.permutations(range(8)), other=st.permutations(range(4)))
def test_the_next_state_does_not_depend_on_the_order_things_are_given_in(
    admitting: tuple[ChainState, Callable[[Sequence[int], Sequence[int]], ChainState]],
    order: list[int],
    other: list[int],
) -> None:
    parent, advanced = admitting
    before = replace(parent, known=dict(parent.known))
    assert advanced(order, other) == advanced(range(8), range(4))
    assert parent == before  # and the parent's state is left as it was
