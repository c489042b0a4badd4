"""Rules 2, 8, 12, 14, 15 and T8: what is taken, what is ignored, what nobody honest sends."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from demo_node.sim.keys import cheap_sign, peer_name
from demo_protocol.errors import Ignore, Reject
from demo_protocol.messages import Membership, Proposal, Sealed, seal_membership, seal_proposal
from demo_protocol.validate import (
    accepted_rounds,
    is_wish_usable,
    validate_payload_size,
    validate_round,
)
from tests.builders import RUN_ID, Tree, header, proposal, schedule, wish

GENESIS = schedule().genesis_ms

# --- rule 2 --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now_ms", "round_", "is_taken"),
    [
        (30_000, 10, True),
        (30_000 - 100, 10, True),  # as early as skew_max_ms allows
        (30_000 - 101, 10, False),
        (30_000, 11, False),
        (30_000, 4, True),  # L = 6 rounds old
        (30_000, 3, False),
        (32_999, 4, True),
        (33_000, 4, False),
        (-100, 0, True),
        (-101, 0, False),
    ],
)
def test_rule_2_gossip_carries_the_last_rounds_and_what_is_early_by_the_skew(
    now_ms: int, round_: int, is_taken: bool
) -> None:
    def ask() -> None:
        validate_round(round_, accepted_rounds(schedule(), 6, GENESIS + now_ms))

    if is_taken:
        ask()
    else:
        with pytest.raises(Ignore):
            ask()


def test_rule_t8_a_header_states_a_length_that_its_k_can_have() -> None:
    body = header().body
    at = body.payload_bytes
    validate_payload_size(body, range(at, at + 1))
    for lengths in (range(at), range(at + 1, 2 * at)):
        with pytest.raises(Reject, match="k 2 has"):
            validate_payload_size(body, lengths)


# --- rule 15: a proposal is valid by content alone -----------------------------------------------


def grown() -> tuple[Tree, bytes]:
    """Four members after round 5; what node 3 sent in round 3 is not credited yet."""
    tree = Tree()
    record = tree.start(4)
    for round_ in range(1, 6):
        record = tree.grow(record, round_, [0, 1, 2] if round_ == 3 else [0, 1, 2, 3])
    return tree, record


def test_rule_15_an_honest_proposal_is_a_record() -> None:
    tree, parent = grown()
    record = tree.grow(parent, 6, [0, 1, 2, 3, 9], joins=[9], leaves=[2], late=[header(3, 3)])
    assert tree.state(record).height == 7


def only_a_late_header(tree: Tree, parent: bytes) -> Sealed[Proposal]:
    return tree.propose(parent, 6, [], by=tree.ranked(parent, 6)[0], late=[header(3, 3)])


def with_the_parents_round(tree: Tree, parent: bytes) -> Sealed[Proposal]:
    return tree.propose(parent, 5, [0, 1], by=0)


def with_an_earlier_round(tree: Tree, parent: bytes) -> Sealed[Proposal]:
    return tree.propose(parent, 4, [0, 1], by=0)


def by_rank_2_of_two_slots(tree: Tree, parent: bytes) -> Sealed[Proposal]:
    return tree.propose(parent, 6, [0, 1], by=tree.ranked(parent, 6)[2])


def by_a_stranger(tree: Tree, parent: bytes) -> Sealed[Proposal]:
    return tree.propose(parent, 6, [0, 1], by=9)


def by_a_candidate(tree: Tree, parent: bytes) -> Sealed[Proposal]:
    record = tree.grow(parent, 6, [0, 1, 9], joins=[9])
    return tree.propose(record, 7, [0, 1, 9], by=9)


def with_a_contribution_of_another_round(tree: Tree, parent: bytes) -> Sealed[Proposal]:
    other = header(0, 5)
    tree.headers[other.hash] = other
    return proposal(tree.ranked(parent, 6)[0], 6, parent, contributions=[other])


def with_two_contributions_of_one_peer(tree: Tree, parent: bytes) -> Sealed[Proposal]:
    two = [header(0, 6), header(0, 6, samples=9)]
    tree.headers.update({h.hash: h for h in two})
    return proposal(tree.ranked(parent, 6)[0], 6, parent, contributions=two)


def with_a_contribution_of_a_stranger(tree: Tree, parent: bytes) -> Sealed[Proposal]:
    return tree.propose(parent, 6, [0, 9])


def with_a_contribution_of_who_left(tree: Tree, parent: bytes) -> Sealed[Proposal]:
    return tree.propose(tree.grow(parent, 6, [0, 1], leaves=[2]), 7, [0, 2])


def with_a_late_header_of_this_round(tree: Tree, parent: bytes) -> Sealed[Proposal]:
    return tree.propose(parent, 6, [0], late=[header(1, 6)])


def with_a_late_header_older_than_late_rounds(tree: Tree, parent: bytes) -> Sealed[Proposal]:
    parent = tree.grow(parent, 9, [0, 1, 2])
    return tree.propose(parent, 10, [0], late=[header(3, 3)])


def with_a_late_header_credited_by_the_parent(tree: Tree, parent: bytes) -> Sealed[Proposal]:
    return tree.propose(parent, 6, [0], late=[header(3, 4)])


def with_a_late_header_credited_late_before(tree: Tree, parent: bytes) -> Sealed[Proposal]:
    parent = tree.grow(parent, 6, [0, 1], late=[header(3, 3)])
    return tree.propose(parent, 7, [0], late=[header(3, 3)])


def with_two_late_headers_of_one_peer_and_round(tree: Tree, parent: bytes) -> Sealed[Proposal]:
    return tree.propose(parent, 6, [0], late=[header(3, 3), header(3, 3, samples=9)])


def with_a_late_header_of_a_stranger(tree: Tree, parent: bytes) -> Sealed[Proposal]:
    return tree.propose(parent, 6, [0], late=[header(9, 5)])


def with_a_late_header_of_who_joins_in_it(tree: Tree, parent: bytes) -> Sealed[Proposal]:
    return tree.propose(parent, 6, [0], joins=[9], late=[header(9, 5)])


def with_a_join_of_a_member(tree: Tree, parent: bytes) -> Sealed[Proposal]:
    return tree.propose(parent, 6, [0], joins=[1])


def with_a_leave_of_a_stranger(tree: Tree, parent: bytes) -> Sealed[Proposal]:
    return tree.propose(parent, 6, [0], leaves=[9])


def with_joins_among_the_leaves(tree: Tree, parent: bytes) -> Sealed[Proposal]:
    body = replace(tree.propose(parent, 6, [0]).body, leaves=(wish(9, 6).raw,))
    return resealed(body)


def with_unsorted_joins(tree: Tree, parent: bytes) -> Sealed[Proposal]:
    honest = tree.propose(parent, 6, [0], joins=[8, 9]).body
    return resealed(replace(honest, joins=honest.joins[::-1]))


def with_a_join_twice(tree: Tree, parent: bytes) -> Sealed[Proposal]:
    honest = tree.propose(parent, 6, [0], joins=[9]).body
    return resealed(replace(honest, joins=honest.joins * 2))


def with_a_forged_join(tree: Tree, parent: bytes) -> Sealed[Proposal]:
    forged = seal_membership(
        Membership(joins=True, peer=peer_name(9), round=6), RUN_ID, cheap_sign(peer_name(0))
    )
    return resealed(replace(tree.propose(parent, 6, [0]).body, joins=(forged.raw,)))


def with_garbage_for_a_join(tree: Tree, parent: bytes) -> Sealed[Proposal]:
    return resealed(replace(tree.propose(parent, 6, [0]).body, joins=(b"garbage",)))


def with_a_join_and_a_leave_of_one_peer(tree: Tree, parent: bytes) -> Sealed[Proposal]:
    parent = tree.grow(parent, 6, [0, 1], leaves=[2])
    return tree.propose(parent, 7, [0], joins=[2], leaves=[2])


def with_a_join_signed_too_long_ago(tree: Tree, parent: bytes) -> Sealed[Proposal]:
    parent = tree.grow(parent, 9, [0, 1])
    honest = tree.propose(parent, 10, [0]).body
    return resealed(replace(honest, joins=(wish(9, 3).raw,)))


def resealed(body: Proposal) -> Sealed[Proposal]:
    return seal_proposal(body, RUN_ID, cheap_sign(body.peer))


@pytest.mark.parametrize(
    "made",
    [
        only_a_late_header,
        with_the_parents_round,
        with_an_earlier_round,
        by_rank_2_of_two_slots,
        by_a_stranger,
        by_a_candidate,
        with_a_contribution_of_another_round,
        with_two_contributions_of_one_peer,
        with_a_contribution_of_a_stranger,
        with_a_contribution_of_who_left,
        with_a_late_header_of_this_round,
        with_a_late_header_older_than_late_rounds,
        with_a_late_header_credited_by_the_parent,
        with_a_late_header_credited_late_before,
        with_two_late_headers_of_one_peer_and_round,
        with_a_late_header_of_a_stranger,
        with_a_late_header_of_who_joins_in_it,
        with_a_join_of_a_member,
        with_a_leave_of_a_stranger,
        with_joins_among_the_leaves,
        with_unsorted_joins,
        with_a_join_twice,
        with_a_forged_join,
        with_garbage_for_a_join,
        with_a_join_and_a_leave_of_one_peer,
        with_a_join_signed_too_long_ago,
    ],
)
def test_rule_15_a_proposal_with_this_content_is_rejected_by_everybody(
    made: Callable[[Tree, bytes], Sealed[Proposal]],
) -> None:
    tree, parent = grown()
    sealed = made(tree, parent)
    records = dict(tree.chain.records)
    with pytest.raises(Reject):
        tree.add(sealed)
    assert tree.chain.records == records


def test_rule_12_a_skipped_round_gives_rank_2_a_slot() -> None:
    tree, parent = grown()
    third, fourth = tree.ranked(parent, 7)[2:]
    tree.grow(parent, 7, [0, 1], by=third)
    tree.grow(parent, 7, [0, 1], by=fourth)


def test_rule_14_under_a_parent_without_members_a_contributor_may_propose_and_nobody_else() -> None:
    tree = Tree()
    everybody = range(3)
    for author in everybody:
        tree.grow(tree.genesis, 0, everybody, joins=everybody, by=author)
    with pytest.raises(Reject, match="rule 14"):
        tree.grow(tree.genesis, 0, everybody, joins=everybody, by=3)


# --- rules 6 and 7: joins and leaves cannot be replayed ------------------------------------------


@pytest.mark.parametrize(
    ("signed", "in_round", "is_usable"),
    [(6, 6, True), (6, 12, True), (6, 13, False), (7, 6, False)],
)
def test_a_join_is_usable_for_late_rounds(signed: int, in_round: int, is_usable: bool) -> None:
    tree, record = grown()
    body = wish(9, signed).body
    assert is_wish_usable(body, tree.state(record), in_round, late_rounds=6) is is_usable


def test_a_join_that_was_signed_before_a_leave_is_not_usable_after_it() -> None:
    tree, record = grown()
    record = tree.grow(record, 6, [0, 1], joins=[9])
    record = tree.grow(record, 8, [0, 1], leaves=[9])
    state = tree.state(record)
    for signed in (6, 7, 8):
        assert not is_wish_usable(wish(9, signed).body, state, 9, late_rounds=6)
    assert is_wish_usable(wish(9, 9).body, state, 9, late_rounds=6)


def test_a_leave_that_was_signed_before_a_join_is_not_usable_after_it() -> None:
    tree, record = grown()
    record = tree.grow(record, 6, [0, 1], joins=[9])
    record = tree.grow(record, 7, [0, 1], leaves=[9])
    record = tree.grow(record, 9, [0, 1], joins=[9])
    state = tree.state(record)
    assert not is_wish_usable(wish(9, 7, joins=False).body, state, 10, late_rounds=6)
    assert is_wish_usable(wish(9, 10, joins=False).body, state, 10, late_rounds=6)
