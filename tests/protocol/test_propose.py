"""Rules 8, 10 and 12 to 15: who proposes, when, and what a proposal lists."""

from collections.abc import Iterable

import pytest

from demo_node.sim.keys import cheap_verify, peer_name
from demo_protocol.limits import JOINS_MAX
from demo_protocol.messages import Header, Sealed, decode_membership
from demo_protocol.propose import make_proposal
from demo_protocol.schedule import settle_start_ms, slot_start_ms
from demo_protocol.view import View
from tests.builders import MANIFEST, RUN_ID, STATE_0, Tree, header, names, view, wish

TIMING = MANIFEST.schedule
SLOT_0, SLOT_1 = (slot_start_ms(TIMING, 4, slot) for slot in (0, 1))


@pytest.fixture(scope="module")
def grown() -> tuple[Tree, bytes]:
    """Four members after round 3."""
    tree = Tree()
    record = tree.start(4)
    for round_ in range(1, 4):
        record = tree.grow(record, round_, range(4))
    return tree, record


Grown = tuple[Tree, bytes]


def seated(grown: Grown, rank: int, *, round_: int = 4, hears: Iterable[int] = range(4)) -> View:
    """What the member of this rank believes after it got these contributions, with payloads."""
    tree, record = grown
    believed = view(me=tree.ranked(record, round_)[rank], root=tree.state(record))
    believed.round = round_
    for author in hears:
        hear(believed, header(author, round_, vote=record))
    believed.held_at_cut[round_] = frozenset(h.hash for h in believed.pool.of_round(round_))
    return believed


def hear(believed: View, sealed: Sealed[Header], *, held: bool = True) -> None:
    believed.pool.add_header(sealed)
    if held and sealed.body.k:
        believed.pool.add_payloads(sealed.body.round, (sealed.body.payload_hash,))


def learn(believed: View, tree: Tree, parent: bytes, listed: list[int], by: int) -> None:
    """A valid proposal of round 4 came, with headers and payloads."""
    sealed = tree.propose(parent, 4, listed, by=by)
    for author in listed:
        hear(believed, header(author, 4, vote=parent))
    believed.chain.add(sealed, believed.pool.headers, cheap_verify)


def authors(believed: View, hashes: Iterable[bytes]) -> set[bytes]:
    return {believed.pool.headers[h].body.peer for h in hashes}


# --- rule 12: when -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rank", "now_ms", "proposes"),
    [
        (0, SLOT_0 - 1, False),
        (0, SLOT_0, True),
        (0, settle_start_ms(TIMING, 4) - 1, True),
        (0, settle_start_ms(TIMING, 4), False),
        (1, SLOT_1 - 1, False),
        (1, SLOT_1, True),
        (2, SLOT_1 + 100, False),
        (3, SLOT_1 + 100, False),
    ],
)
def test_rule_12_a_member_proposes_from_its_slot_on_until_settling(
    grown: Grown, rank: int, now_ms: int, proposes: bool
) -> None:
    assert (make_proposal(seated(grown, rank), now_ms) is not None) is proposes


@pytest.mark.parametrize(("rank", "slot"), [(0, 0), (1, 0), (2, 1), (3, 1)])
def test_rule_12_after_a_skipped_round_the_slots_are_half_as_many(
    grown: Grown, rank: int, slot: int
) -> None:
    begin_ms = slot_start_ms(TIMING, 5, slot)
    assert make_proposal(seated(grown, rank, round_=5), begin_ms - 1) is None
    assert make_proposal(seated(grown, rank, round_=5), begin_ms) is not None


def test_rule_12_who_is_no_member_does_not_propose(grown: Grown) -> None:
    tree, record = grown
    stranger = view(me=9, root=tree.state(record))
    stranger.round = 4
    hear(stranger, header(0, 4))
    assert make_proposal(stranger, SLOT_1) is None


def test_rule_12_a_covered_proposal_with_all_payloads_here_is_enough(grown: Grown) -> None:
    tree, record = grown
    second = seated(grown, 1)
    learn(second, tree, record, [0, 1], by=tree.ranked(record, 4)[0])  # half of four
    assert make_proposal(second, SLOT_1) is None


def test_rule_12_a_proposal_that_hides_most_contributions_is_not_enough(grown: Grown) -> None:
    """Falling back only when nothing came would let rank 0 alone decide who takes part."""
    tree, record = grown
    second = seated(grown, 1)
    learn(second, tree, record, [0], by=tree.ranked(record, 4)[0])
    assert make_proposal(second, SLOT_1) is not None


def test_rule_12_a_proposal_whose_payloads_are_not_here_is_not_enough(grown: Grown) -> None:
    tree, record = grown
    second = seated(grown, 1, hears=[0, 1, 2])
    hidden = header(3, 4, vote=record)
    hear(second, hidden, held=False)
    learned = tree.propose(record, 4, [0, 1, 2, 3], by=tree.ranked(record, 4)[0])
    second.chain.add(learned, second.pool.headers, cheap_verify)
    assert make_proposal(second, SLOT_1) is not None
    second.pool.add_payloads(4, (hidden.body.payload_hash,))
    assert make_proposal(second, SLOT_1) is None


def test_rule_12_a_proposal_of_another_round_is_not_enough(grown: Grown) -> None:
    tree, record = grown
    second = view(me=tree.ranked(record, 4)[1], root=tree.state(tree.state(record).parent))
    last = tree.chain[record].proposal
    assert last is not None
    second.chain.add(last, tree.headers, cheap_verify)
    second.head, second.digests[record], second.round = record, STATE_0, 4
    hear(second, header(0, 4, vote=record))
    assert second.is_covered(second.chain[record])
    assert make_proposal(second, SLOT_1) is not None


def test_rule_13_the_parent_is_the_head_and_of_an_earlier_round(grown: Grown) -> None:
    _, record = grown
    first = seated(grown, 0)
    made = make_proposal(first, SLOT_0)
    assert made is not None
    assert (made.body.parent, made.body.round) == (record, 4)
    assert made.body.parent_digest == STATE_0
    first.round = 3  # the head is of this round already
    assert make_proposal(first, slot_start_ms(TIMING, 3, 0)) is None


# --- rule 14 -------------------------------------------------------------------------------------


def test_rule_14_at_the_genesis_a_contributor_proposes_and_lists_the_joins() -> None:
    first = view(me=0)
    first.round = 0
    for author in (0, 1):
        hear(first, header(author))
        first.pool.add_wish(wish(author))
    hear(first, header(2))  # has not joined
    made = make_proposal(first, slot_start_ms(TIMING, 0, 0))
    assert made is not None
    assert authors(first, made.body.contributions) == names(0, 1)
    assert [decode_membership(raw, RUN_ID) for raw in made.body.joins] == [
        wish(a) for a in sorted((0, 1), key=peer_name)
    ]
    first.chain.add(made, first.pool.headers, cheap_verify)


def test_rule_14_who_has_no_contribution_does_not_propose_under_a_parent_without_members() -> None:
    first = view(me=0)
    first.round = 0
    hear(first, header(1))
    first.pool.add_wish(wish(1))
    assert make_proposal(first, slot_start_ms(TIMING, 0, 0)) is None


def test_rule_14_holds_again_when_every_member_has_left() -> None:
    tree = Tree()
    record = tree.grow(tree.start(2), 1, [0, 1], leaves=[0, 1])
    newcomer = view(me=9, root=tree.state(record))
    newcomer.round = 2
    newcomer.pool.add_wish(wish(8, 2))
    newcomer.pool.add_wish(wish(9, 2))
    hear(newcomer, header(8, 2))
    begin_ms = slot_start_ms(TIMING, 2, 0)
    assert make_proposal(newcomer, begin_ms) is None
    hear(newcomer, header(9, 2))
    made = make_proposal(newcomer, begin_ms)
    assert made is not None
    newcomer.chain.add(made, newcomer.pool.headers, cheap_verify)


# --- what it lists -------------------------------------------------------------------------------


def test_a_proposal_lists_the_contributions_whose_payloads_are_here(grown: Grown) -> None:
    first = seated(grown, 0, hears=[0, 1])
    hear(first, header(2, 4), held=False)
    hear(first, header(3, 4, k=0))  # a heartbeat needs no payload
    hear(first, header(9, 4))  # a stranger
    made = make_proposal(first, SLOT_0)
    assert made is not None
    assert authors(first, made.body.contributions) == names(0, 1, 3)
    assert list(made.body.contributions) == sorted(made.body.contributions)


def test_nothing_is_proposed_where_nothing_can_be_listed(grown: Grown) -> None:
    assert make_proposal(seated(grown, 0, hears=[]), SLOT_0) is None


def test_rule_8_headers_not_credited_yet_are_listed_as_late_whoever_has_their_payload() -> None:
    tree = Tree()
    record = tree.start(4)
    for round_ in range(1, 8):
        record = tree.grow(record, round_, [0, 1, 2])
    first = view(me=tree.ranked(record, 8)[0], root=tree.state(record))
    first.round = 8
    for author in range(4):
        hear(first, header(author, 8))
    for round_ in range(8):
        hear(first, header(3, round_, vote=record), held=False)
        hear(first, header(0, round_, vote=record))  # credited by the chain already
    hear(first, header(9, 7))  # a stranger
    made = make_proposal(first, slot_start_ms(TIMING, 8, 0))
    assert made is not None
    late = [first.pool.headers[h].body for h in made.body.late]
    assert {h.peer for h in late} == names(3)
    assert {h.round for h in late} == set(range(2, 8))  # L = 6
    assert list(made.body.late) == sorted(made.body.late)
    first.chain.add(made, first.pool.headers, cheap_verify)


def test_rule_15_joins_and_leaves_are_bounded_and_only_those_that_fit_the_parent(
    grown: Grown,
) -> None:
    first = seated(grown, 0)
    for author in range(50, 50 + JOINS_MAX):
        first.pool.add_wish(wish(author, 4))
    first.pool.add_wish(wish(1, 4))  # is in already
    first.pool.add_wish(wish(2, 4, joins=False))
    first.pool.add_wish(wish(40, 4, joins=False))  # never was in
    made = make_proposal(first, SLOT_0)
    assert made is not None
    assert len(made.body.joins) == JOINS_MAX // 2
    assert [decode_membership(raw, RUN_ID).body.peer for raw in made.body.leaves] == [peer_name(2)]
    first.chain.add(made, first.pool.headers, cheap_verify)


def test_rule_6_of_many_joins_others_are_listed_under_every_parent() -> None:
    """Else a crowd of strangers, with names that come first, would keep everybody out."""
    crowd = range(20, 20 + 3 * JOINS_MAX)
    listed: list[frozenset[bytes]] = []
    for absent in range(4):
        tree = Tree()
        record = tree.grow(tree.start(5), 1, [a for a in range(5) if a != absent])
        first = view(me=tree.ranked(record, 2)[0], root=tree.state(record))
        first.round = 2
        hear(first, header(3, 2, vote=record))
        for author in crowd:
            first.pool.add_wish(wish(author, 2))
        made = make_proposal(first, slot_start_ms(TIMING, 2, 0))
        assert made is not None
        peers = [decode_membership(raw, RUN_ID).body.peer for raw in made.body.joins]
        assert peers == sorted(peers)
        listed.append(frozenset(peers))
    assert [len(peers) for peers in listed] == [JOINS_MAX // 2] * 4
    assert len(frozenset.union(*listed)) > 2 * JOINS_MAX // 2


def test_rule_6_who_joins_may_contribute_in_the_same_record(grown: Grown) -> None:
    first = seated(grown, 0)
    first.pool.add_wish(wish(9, 4))
    hear(first, header(9, 4))
    made = make_proposal(first, SLOT_0)
    assert made is not None
    assert authors(first, made.body.contributions) == names(0, 1, 2, 3, 9)
    first.chain.add(made, first.pool.headers, cheap_verify)


# --- rule 17 -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("held", "listed", "is_covered"),
    [
        ([0, 1, 2, 3], [0, 1], True),
        ([0, 1, 2, 3], [0], False),
        ([0, 1, 2], [0, 3], False),
        ([0, 1, 2], [0, 1], True),
        ([], [0], True),
        ([9], [0], True),  # strangers' contributions do not count
    ],
)
def test_rule_17_covered_means_half_of_the_members_contributions_held_at_the_cut(
    grown: Grown, held: list[int], listed: list[int], is_covered: bool
) -> None:
    tree, record = grown
    believed = seated(grown, 1, hears=held)
    learn(believed, tree, record, listed, by=tree.ranked(record, 4)[0])
    (child,) = believed.chain.children[record]
    assert believed.is_covered(believed.chain[child]) is is_covered


def test_rule_17_what_came_after_the_cut_does_not_make_a_proposal_uncovered(grown: Grown) -> None:
    tree, record = grown
    believed = seated(grown, 1, hears=[0])
    for author in (1, 2, 3):
        hear(believed, header(author, 4, vote=record))
    learn(believed, tree, record, [0], by=tree.ranked(record, 4)[0])
    (child,) = believed.chain.children[record]
    assert believed.is_covered(believed.chain[child])


def test_rule_20_headers_with_another_digest_than_ours_do_not_count_for_coverage(
    grown: Grown,
) -> None:
    tree, record = grown
    believed = seated(grown, 1, hears=[0])
    forged = [header(a, 4, base=record, vote=record, digest=b"forged!!") for a in (1, 2, 3)]
    for sealed in forged:
        hear(believed, sealed)
    believed.held_at_cut[4] = frozenset(h.hash for h in believed.pool.of_round(4))
    learn(believed, tree, record, [0], by=tree.ranked(record, 4)[0])
    (child,) = believed.chain.children[record]
    assert believed.is_covered(believed.chain[child])
