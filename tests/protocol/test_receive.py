"""What comes from others (rules 2, 8, 10, 13, 15, 16 and 18): taken whole, or not at all."""

from collections.abc import Callable

import pytest

from demo_node.sim.keys import cheap_sign, peer_name
from demo_protocol.effects import DigestAccused, KeepRecord, PullHeaders, PullPayload, PullRecords
from demo_protocol.errors import Ignore, Reject
from demo_protocol.events import GossipReceived
from demo_protocol.identity import Kind
from demo_protocol.limits import HEADERS_PER_ROUND_MAX
from demo_protocol.messages import Header, Proposal, Sealed, seal_proposal
from demo_protocol.receive import blames_sender
from demo_protocol.view import View
from tests.builders import RUN_ID, Tree, header, view, wish
from tests.protocol.hearing import (
    SENDER,
    bundle,
    counted,
    fetched,
    forged,
    give,
    gossip,
    snapshot,
    wrong_length,
)
from tests.protocol.stage import grown_tree

# --- headers over gossip -------------------------------------------------------------------------


def test_a_new_header_is_remembered_counted_as_a_vote_and_its_payload_pulled() -> None:
    believed, sealed = view(), header(1, 3)
    assert gossip(believed, sealed) == [
        PullPayload(
            sealed.body.payload_hash,
            sealed.body.payload_bytes,
            2,
            3,
            (peer_name(1), SENDER),
        )
    ]
    assert list(believed.pool.of_round(3)) == [sealed]
    assert counted(believed.votes, peer_name(1)) == (3, RUN_ID)


def test_rule_t4_a_heartbeat_is_a_vote_and_needs_no_pull() -> None:
    believed = view()
    assert gossip(believed, header(1, 3, k=0)) == []
    assert counted(believed.votes, peer_name(1)) == (3, RUN_ID)


def test_a_payload_that_is_here_is_not_pulled_again() -> None:
    believed, sealed = view(), header(1, 3)
    believed.pool.add_payloads(3, (sealed.body.payload_hash,))
    assert gossip(believed, sealed) == []


@pytest.mark.parametrize("in_round", [2, 10])
def test_rule_2_headers_too_early_or_too_old_for_gossip_are_ignored(in_round: int) -> None:
    believed = view()
    with pytest.raises(Ignore):
        gossip(believed, header(1, 3), round_=in_round)
    assert not believed.pool.headers


@pytest.mark.parametrize(
    "sealed",
    [forged(header(1, 3)), wrong_length(header(1, 3)), header(1, 3, k=3)],
    ids=["signature", "length", "k"],
)
def test_a_header_nobody_honest_signs_is_rejected_and_changes_nothing(
    sealed: Sealed[Header],
) -> None:
    believed = view()
    before = snapshot(believed)
    with pytest.raises(Reject):
        gossip(believed, sealed)
    assert snapshot(believed) == before


def test_rule_20_another_digest_for_our_base_is_an_accusation_and_no_more() -> None:
    believed, sealed = view(), header(1, 3, digest=b"forged!!")
    assert DigestAccused(peer_name(1), RUN_ID) in gossip(believed, sealed)
    assert sealed in believed.pool.of_round(3)
    assert counted(believed.votes, peer_name(1)) == (3, RUN_ID)


def test_strangers_headers_are_bounded_and_members_are_heard_all_the_same() -> None:
    tree, records = grown_tree()
    believed = view(root=tree.state(records[-1]))
    crowd = believed.pool.by_round.setdefault(4, {})
    for number in range(HEADERS_PER_ROUND_MAX):
        crowd[number.to_bytes(32, "big")] = header(0, 4)
    with pytest.raises(Ignore, match="strangers"):
        gossip(believed, header(9, 4))
    gossip(believed, header(3, 4))
    assert peer_name(3) in believed.pool.by_round[4]


def test_an_unknown_vote_is_pulled_once_a_round_and_as_deep_as_rounds_were_missed() -> None:
    tree, records = grown_tree(9)
    believed = view(root=tree.state(records[1]))
    believed.round = 9
    first = gossip(believed, header(1, 9, k=0, vote=records[8]))
    assert first == [PullRecords(records[8], (peer_name(1), SENDER), 8)]
    assert gossip(believed, header(2, 9, k=0, vote=records[8])) == []
    believed.round = 10
    assert gossip(believed, header(1, 10, k=0, vote=records[8])) != []


# --- rule 18: equivocators -----------------------------------------------------------------------


def test_rule_18_a_second_header_takes_its_authors_vote_away_and_is_passed_on() -> None:
    believed = view()
    gossip(believed, header(1, 3))
    assert counted(believed.votes, peer_name(1)) is not None
    second = header(1, 3, samples=9)
    gossip(believed, second)  # no Ignore: gossip forwards it, and everybody knows
    assert counted(believed.votes, peer_name(1)) is None
    assert list(believed.pool.of_round(3)) == [header(1, 3)]
    with pytest.raises(Ignore):
        gossip(believed, second)


def test_an_equivocator_cannot_flood_gossip_with_more_headers_of_the_round() -> None:
    believed = view()
    for round_ in (3, 4):
        gossip(believed, header(1, round_), round_=4)
        gossip(believed, header(1, round_, samples=9), round_=4)
    for round_ in (3, 4):
        with pytest.raises(Ignore):
            gossip(believed, header(1, round_, samples=10), round_=4)
    gossip(believed, header(1, 5))  # its next contribution is a contribution


def test_rule_18_two_headers_of_which_one_came_inside_a_record_are_an_equivocation() -> None:
    tree, records = grown_tree()
    believed = view(root=tree.state(records[2]))
    gossip(believed, header(1, 3, samples=9))
    give(believed, bundle(tree, records[3]))
    assert records[3] in believed.chain
    assert counted(believed.votes, peer_name(1)) is None


def test_an_equivocation_without_a_signature_is_none() -> None:
    believed = view()
    gossip(believed, header(1, 3))
    with pytest.raises(Reject):
        gossip(believed, forged(header(1, 3, samples=9)))
    assert counted(believed.votes, peer_name(1)) == (3, RUN_ID)


# --- proposals over gossip -----------------------------------------------------------------------


def with_headers(believed: View, tree: Tree, sealed: Sealed[Proposal]) -> None:
    for name in (*sealed.body.contributions, *sealed.body.late):
        believed.pool.add_header(tree.headers[name])


def test_a_proposal_becomes_a_record_when_parent_and_headers_are_here() -> None:
    tree, records = grown_tree()
    believed = view(root=tree.state(records[-1]))
    sealed = tree.propose(records[-1], 4, range(4))
    with_headers(believed, tree, sealed)
    effects = gossip(believed, sealed)
    assert effects[0] == KeepRecord(sealed.hash)
    pulls = [e for e in effects if isinstance(e, PullPayload)]
    assert {p.payload_hash for p in pulls} == {header(a, 4).body.payload_hash for a in range(4)}
    assert all(sealed.body.peer in pull.holders for pull in pulls)
    assert sealed.hash in believed.chain


def test_a_proposal_waits_for_its_headers_which_are_pulled_by_hash() -> None:
    tree, records = grown_tree()
    believed = view(root=tree.state(records[-1]))
    sealed = tree.propose(records[-1], 4, range(4))
    (pull,) = gossip(believed, sealed)
    assert isinstance(pull, PullHeaders)
    assert pull.hashes == sealed.body.contributions
    assert sealed.hash not in believed.chain
    effects = fetched(believed, *(tree.headers[h] for h in pull.hashes))
    assert KeepRecord(sealed.hash) in effects


def test_a_proposal_waits_for_its_parent_which_is_pulled() -> None:
    tree, records = grown_tree(6)
    believed = view(root=tree.state(records[2]))
    believed.round = 5
    sealed = tree.chain[records[5]].proposal
    assert sealed is not None
    with_headers(believed, tree, sealed)
    assert gossip(believed, sealed) == [
        PullRecords(records[4], (sealed.body.peer, SENDER), 3),
    ]
    give(believed, bundle(tree, records[3]), bundle(tree, records[4]))
    assert records[5] in believed.chain


def test_rule_13_a_second_proposal_inside_a_chain_is_valid() -> None:
    tree, records = grown_tree()
    believed = view(root=tree.state(records[-1]))
    by = tree.ranked(records[-1], 4)[0]
    first, second = (tree.propose(records[-1], 4, authors, by=by) for authors in ([0], [0, 1]))
    with_headers(believed, tree, first)
    gossip(believed, first)
    give(believed, bundle(tree, tree.add(second).hash))
    assert {first.hash, second.hash} <= set(believed.chain.records)


def without_slot(tree: Tree, parent: bytes) -> Sealed[Proposal]:
    return tree.propose(parent, 4, [0, 1], by=tree.ranked(parent, 4)[2])


def of_a_stranger(tree: Tree, parent: bytes) -> Sealed[Proposal]:
    return tree.propose(parent, 4, [0, 1], by=9)


def with_a_stranger(tree: Tree, parent: bytes) -> Sealed[Proposal]:
    return tree.propose(parent, 4, [0, 9])


@pytest.mark.parametrize("made", [without_slot, of_a_stranger, with_a_stranger])
def test_rule_15_an_invalid_proposal_is_not_passed_on_and_changes_nothing(
    made: Callable[[Tree, bytes], Sealed[Proposal]],
) -> None:
    tree, records = grown_tree()
    believed = view(root=tree.state(records[-1]))
    sealed = made(tree, records[-1])
    with_headers(believed, tree, sealed)
    before = snapshot(believed)
    with pytest.raises(Reject):
        gossip(believed, sealed)
    assert snapshot(believed) == before


@pytest.mark.parametrize("made", [without_slot, of_a_stranger, with_a_stranger])
def test_who_passes_on_what_it_cannot_tell_is_not_to_blame_and_its_author_is(
    made: Callable[[Tree, bytes], Sealed[Proposal]],
) -> None:
    tree, records = grown_tree()
    believed = view(root=tree.state(records[-1]))
    sealed = made(tree, records[-1])
    for sender, is_to_blame in ((SENDER, False), (sealed.body.peer, True)):
        event = GossipReceived(0, Kind.PROPOSAL, sealed.raw, sender)
        assert blames_sender(believed, event) is is_to_blame


@pytest.mark.parametrize("kind", Kind)
def test_who_passes_on_what_is_no_message_is_to_blame(kind: Kind) -> None:
    assert blames_sender(view(), GossipReceived(0, kind, b"\xff" * 9, SENDER))


def test_who_passes_on_what_nobody_signed_is_to_blame() -> None:
    tree, records = grown_tree()
    body = tree.propose(records[-1], 4, [0, 1]).body
    sealed = seal_proposal(body, RUN_ID, cheap_sign(peer_name(99)))
    believed = view(root=tree.state(records[-1]))
    assert blames_sender(believed, GossipReceived(0, Kind.PROPOSAL, sealed.raw, SENDER))


def test_a_waiting_proposal_that_turns_out_invalid_is_dropped_and_nobody_is_blamed() -> None:
    tree, records = grown_tree()
    believed = view(root=tree.state(records[-1]))
    sealed = with_a_stranger(tree, records[-1])
    gossip(believed, sealed)
    assert fetched(believed, *(tree.headers[h] for h in sealed.body.contributions)) == []
    assert sealed.hash not in believed.chain
    assert not believed.pool.pending


# --- joins and leaves ----------------------------------------------------------------------------


def test_a_join_is_remembered_and_an_older_or_equal_wish_is_ignored() -> None:
    believed = view()
    assert gossip(believed, wish(1, 3), round_=4) == []
    for other in (wish(1, 3), wish(1, 2, joins=False)):
        with pytest.raises(Ignore):
            gossip(believed, other, round_=4)
    gossip(believed, wish(1, 4, joins=False), round_=4)
    assert not list(believed.pool.newest_wishes(joins=True))


def test_a_leave_in_the_round_of_the_join_is_heard_and_the_join_then_is_not() -> None:
    believed = view()
    gossip(believed, wish(1, 3))
    gossip(believed, wish(1, 3, joins=False))
    for again in (wish(1, 3), wish(1, 3, joins=False)):
        with pytest.raises(Ignore):
            gossip(believed, again)
    assert list(believed.pool.newest_wishes(joins=False)) == [wish(1, 3, joins=False)]


def test_strangers_fill_no_memory_with_leaves() -> None:
    tree, records = grown_tree()
    believed = view(root=tree.state(records[-1]))
    with pytest.raises(Ignore, match="not in"):
        gossip(believed, wish(9, 4, joins=False))
    gossip(believed, wish(3, 4, joins=False))
    assert list(believed.pool.wishes) == [peer_name(3)]
