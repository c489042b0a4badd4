"""Rule 26: two headers or two proposals of one peer and round, in a record, remove the peer."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo_node.sim.keys import cheap_sign, cheap_verify, peer_name
from demo_protocol.answers import decode_chain_state, encode_chain_state
from demo_protocol.effects import KeepRecord
from demo_protocol.errors import Ignore, Reject
from demo_protocol.evidence import (
    check_offence,
    is_offence_usable,
    make_offence,
    open_evidence,
)
from demo_protocol.identity import Kind
from demo_protocol.limits import EVIDENCE_MAX
from demo_protocol.manifest import Agreement
from demo_protocol.messages import (
    Evidence,
    Proposal,
    Sealed,
    decode_proposal,
    make_notice,
    seal_header,
    seal_proposal,
)
from demo_protocol.roster import get_candidates, get_voters
from demo_protocol.validate import is_wish_usable
from demo_protocol.view import View
from tests.builders import RUN_ID, Tree, header, manifest, proposal, view, wish
from tests.protocol.hearing import bundle, counted, give, gossip
from tests.protocol.stage import grown_tree

SHORT = Agreement(contributors=0, expire_rounds=2, forget_rounds=40)


def twice(author: int, round_: int) -> Evidence:
    """Two headers."""
    return make_offence(header(author, round_), header(author, round_, samples=9)).evidence


def proposed_twice(author: int, round_: int, parent: bytes = RUN_ID) -> Evidence:
    """Two proposals."""
    one, other = (proposal(author, round_, parent, contributions=[header(a)]) for a in (1, 2))
    return make_offence(make_notice(one, RUN_ID), make_notice(other, RUN_ID)).evidence


# --- what shows something ------------------------------------------------------------------------


@pytest.mark.parametrize("shown", [twice(1, 3), proposed_twice(1, 3)], ids=["headers", "proposals"])
def test_two_messages_of_one_peer_and_round_show_who_and_when(shown: Evidence) -> None:
    offence = open_evidence(shown, RUN_ID)
    check_offence(offence, cheap_verify)
    assert (offence.peer, offence.round) == (peer_name(1), 3)
    assert offence.evidence == shown


def test_it_is_the_same_in_whatever_order_they_came() -> None:
    one, other = header(1, 3), header(1, 3, samples=9)
    assert make_offence(one, other) == make_offence(other, one)


def test_evidence_of_proposals_is_short_however_much_they_list() -> None:
    headers = [header(a, 3) for a in range(200)]
    one, other = (proposal(1, 3, RUN_ID, contributions=headers[a:]) for a in (0, 1))
    shown = make_offence(make_notice(one, RUN_ID), make_notice(other, RUN_ID)).evidence
    assert len(one.raw) > 6_000
    assert len(shown.first) + len(shown.second) < 500


def of_two_peers() -> Evidence:
    return make_offence(header(1, 3), header(2, 3)).evidence


def of_two_rounds() -> Evidence:
    return make_offence(header(1, 3), header(1, 4)).evidence


def of_one_message() -> Evidence:
    return Evidence(Kind.HEADER, header(1, 3).raw, header(1, 3).raw)


def in_the_other_order() -> Evidence:
    shown = twice(1, 3)
    return Evidence(shown.kind, shown.second, shown.first)


def of_a_header_and_a_notice() -> Evidence:
    return Evidence(Kind.HEADER, header(1, 3).raw, proposed_twice(1, 3).first)


@pytest.mark.parametrize(
    "made",
    [of_two_peers, of_two_rounds, of_one_message, in_the_other_order, of_a_header_and_a_notice],
)
def test_what_shows_nothing_is_rejected(made: Callable[[], Evidence]) -> None:
    with pytest.raises(Reject):
        open_evidence(made(), RUN_ID)


def test_what_its_author_did_not_sign_shows_nothing() -> None:
    forged = seal_header(header(1, 3, samples=9).body, RUN_ID, cheap_sign(peer_name(2)))
    offence = make_offence(header(1, 3), forged)
    with pytest.raises(Reject, match="bad signature"):
        check_offence(offence, cheap_verify)
    with pytest.raises(Reject, match="bad signature"):
        check_offence(make_offence(forged, header(1, 3)), cheap_verify)


@given(
    kind=st.sampled_from([Kind.HEADER, Kind.PROPOSAL]),
    first=st.binary(max_size=400),
    second=st.binary(max_size=400),
)
def test_garbage_is_only_ever_rejected(kind: Kind, first: bytes, second: bytes) -> None:
    with pytest.raises(Reject):
        open_evidence(Evidence(kind, first, second), RUN_ID)


@given(at=st.integers(0, 10**4), flip=st.integers(1, 255), which=st.booleans())
def test_evidence_with_one_byte_changed_is_rejected(at: int, flip: int, which: bool) -> None:
    shown = twice(1, 3)
    raw = bytearray(shown.first if which else shown.second)
    raw[at % len(raw)] ^= flip
    changed = replace(shown, first=bytes(raw)) if which else replace(shown, second=bytes(raw))
    with pytest.raises(Reject):
        check_offence(open_evidence(changed, RUN_ID), cheap_verify)


# --- in a record ---------------------------------------------------------------------------------


def test_a_record_with_evidence_removes_the_peer() -> None:
    tree, records = grown_tree()
    for shown in (twice(3, 2), proposed_twice(3, 2)):
        record = tree.grow(records[-1], 4, [0, 1, 2], evidence=[shown])
        assert tree.members(record) == {peer_name(a) for a in range(3)}
        assert peer_name(3) not in get_voters(tree.state(record), tree.run.agreement)
        assert peer_name(3) not in get_candidates(tree.state(record))
        assert tree.member(record, 3).removed_until == 4 + tree.run.agreement.forget_rounds


def test_a_candidate_is_removed_as_well() -> None:
    tree, records = grown_tree()
    record = tree.grow(records[-1], 4, range(4), joins=[9])
    assert peer_name(9) in get_candidates(tree.state(record))
    record = tree.grow(record, 5, range(4), evidence=[twice(9, 5)])
    assert peer_name(9) not in get_candidates(tree.state(record))


def test_it_may_neither_propose_nor_be_listed_afterwards() -> None:
    tree, records = grown_tree()
    record = tree.grow(records[-1], 4, [0, 1, 2], evidence=[twice(3, 2)])
    with pytest.raises(Reject, match="no slot"):
        tree.grow(record, 5, [0, 1], by=3)
    with pytest.raises(Reject, match="not joined"):
        tree.grow(record, 5, [0, 1, 3])
    with pytest.raises(Reject, match="not joined"):
        tree.grow(record, 5, [0, 1], late=[header(3, 4)])


def test_no_join_of_it_counts_until_forget_rounds_later() -> None:
    tree = Tree(manifest(agreement=SHORT))
    record = tree.start(4)
    for round_ in range(1, 4):
        record = tree.grow(record, round_, range(4))
    shown = make_offence(header(3, 3, run=tree.run), header(3, 3, samples=9, run=tree.run)).evidence
    record = tree.grow(record, 4, [0, 1, 2], evidence=[shown])
    for round_ in range(5, 60):
        usable = is_wish_usable(wish(3, round_, run=tree.run).body, tree.state(record), round_, 6)
        assert usable is (round_ >= 44)
        record = tree.grow(record, round_, [0, 1, 2])
    record = tree.grow(record, 60, [0, 1, 2, 3], joins=[3])
    assert not tree.member(record, 3).left
    assert peer_name(3) not in tree.members(record)  # it waits like everybody


def test_a_removal_is_part_of_what_a_snapshot_says_of_the_chain() -> None:
    tree, records = grown_tree()
    record = tree.grow(records[-1], 4, [0, 1, 2], evidence=[twice(3, 2)])
    state = tree.state(record)
    assert decode_chain_state(encode_chain_state(state)) == state


def test_evidence_is_good_for_forget_rounds() -> None:
    tree, records = grown_tree()
    offence = open_evidence(twice(3, 2), RUN_ID)
    state = tree.state(records[-1])
    for round_, usable in ((1, False), (2, True), (401, True), (402, False)):
        assert is_offence_usable(offence, state, round_, 400) is usable


def test_what_was_listed_in_its_own_round_is_too_old_once_the_removal_ends() -> None:
    tree = Tree(manifest(agreement=SHORT))
    start, again = tree.start(4), 3 + SHORT.forget_rounds
    offence = make_offence(header(3, 3, run=tree.run), header(3, 3, samples=9, run=tree.run))
    record = tree.grow(start, 3, [0, 1, 2], evidence=[offence.evidence])
    record = tree.grow(record, again - 1, [0, 1, 2])
    state = tree.state(record)
    assert state.known[peer_name(3)].removed_until <= again
    assert not is_offence_usable(offence, state, again, SHORT.forget_rounds)


def test_what_was_used_on_a_chain_is_never_usable_on_it_again() -> None:
    tree, records = grown_tree()
    offence = open_evidence(twice(3, 2), RUN_ID)
    record = tree.grow(records[-1], 4, [0, 1, 2], evidence=[offence.evidence])
    state = tree.state(record)
    assert not any(is_offence_usable(offence, state, round_, 400) for round_ in range(5, 1_000))


def against_somebody_unknown(tree: Tree, parent: bytes) -> Sealed[Proposal]:
    return tree.propose(parent, 4, [0, 1], evidence=[twice(9, 2)])


def of_a_round_to_come(tree: Tree, parent: bytes) -> Sealed[Proposal]:
    return tree.propose(parent, 4, [0, 1], evidence=[twice(3, 5)])


def against_one_peer_twice(tree: Tree, parent: bytes) -> Sealed[Proposal]:
    return tree.propose(parent, 4, [0, 1], evidence=[twice(3, 2), twice(3, 2)])


def unsorted(tree: Tree, parent: bytes) -> Sealed[Proposal]:
    shown = sorted((twice(a, 2) for a in (2, 3)), key=lambda e: open_evidence(e, RUN_ID).peer)
    return tree.propose(parent, 4, [0, 1], evidence=shown[::-1])


def forged(tree: Tree, parent: bytes) -> Sealed[Proposal]:
    other = seal_header(header(3, 2, samples=9).body, RUN_ID, cheap_sign(peer_name(2)))
    return tree.propose(parent, 4, [0, 1], evidence=[make_offence(header(3, 2), other).evidence])


def with_its_contribution(tree: Tree, parent: bytes) -> Sealed[Proposal]:
    return tree.propose(parent, 4, [0, 1, 3], evidence=[twice(3, 2)])


def with_its_late_header(tree: Tree, parent: bytes) -> Sealed[Proposal]:
    parent = tree.grow(parent, 5, [0, 1])
    return tree.propose(parent, 6, [0, 1], late=[header(3, 5)], evidence=[twice(3, 2)])


def with_its_leave(tree: Tree, parent: bytes) -> Sealed[Proposal]:
    return tree.propose(parent, 4, [0, 1], leaves=[3], evidence=[twice(3, 2)])


@pytest.mark.parametrize(
    "made",
    [
        against_somebody_unknown,
        of_a_round_to_come,
        against_one_peer_twice,
        unsorted,
        forged,
        with_its_contribution,
        with_its_late_header,
        with_its_leave,
    ],
)
def test_a_record_with_such_evidence_is_rejected_by_everybody(
    made: Callable[[Tree, bytes], Sealed[Proposal]],
) -> None:
    tree, records = grown_tree()
    sealed = made(tree, records[-1])
    before = dict(tree.chain.records)
    with pytest.raises(Reject):
        tree.add(sealed)
    if made is not with_its_late_header:
        assert tree.chain.records == before


# --- heard by a node -----------------------------------------------------------------------------


def beginning() -> tuple[Tree, list[bytes], View]:
    tree, records = grown_tree()
    believed = view(root=tree.state(records[-1]))
    believed.round = 4
    return tree, records, believed


def test_a_second_header_is_kept_as_evidence() -> None:
    _, _, believed = beginning()
    gossip(believed, header(3, 4))
    assert not believed.pool.offences
    gossip(believed, header(3, 4, samples=9))
    assert believed.pool.offences[peer_name(3)].evidence == twice(3, 4)


def test_a_second_header_inside_a_record_is_evidence_as_well() -> None:
    tree, records = grown_tree()
    believed = view(root=tree.state(records[2]))
    gossip(believed, header(1, 3, samples=9))
    give(believed, bundle(tree, records[3]))
    assert believed.pool.offences[peer_name(1)].round == 3


def test_a_second_proposal_is_passed_on_once_kept_as_evidence_and_not_taken() -> None:
    tree, records, believed = beginning()
    by = tree.ranked(records[-1], 4)[0]
    first, second, third = (
        tree.propose(records[-1], 4, authors, by=by) for authors in ([0], [1], [2])
    )
    gossip(believed, first)
    assert gossip(believed, second) == []  # no Ignore: gossip forwards it, and everybody knows
    assert second.hash not in {*believed.chain.records, *believed.pool.pending}
    offence = believed.pool.offences[peer_name(by)]
    assert {offence.first.hash, offence.second.hash} == {first.hash, second.hash}
    for again in (first, second, third):
        with pytest.raises(Ignore):
            gossip(believed, again)


def test_a_forged_second_proposal_shows_nothing() -> None:
    tree, records, believed = beginning()
    by = tree.ranked(records[-1], 4)[0]
    gossip(believed, tree.propose(records[-1], 4, [0], by=by))
    body = tree.propose(records[-1], 4, [1], by=by).body
    with pytest.raises(Reject):
        gossip(believed, seal_proposal(body, RUN_ID, cheap_sign(peer_name(99))))
    assert not believed.pool.offences


def test_two_proposals_inside_chains_are_evidence() -> None:
    tree, records, believed = beginning()
    by = tree.ranked(records[-1], 4)[0]
    for authors in ([0], [0, 1]):
        give(believed, bundle(tree, tree.grow(records[-1], 4, authors, by=by)))
    assert believed.pool.offences[peer_name(by)].round == 4


def test_the_same_proposal_by_gossip_and_inside_a_chain_is_one() -> None:
    tree, records, believed = beginning()
    sealed = tree.propose(records[-1], 4, [0])
    gossip(believed, sealed)
    give(believed, bundle(tree, tree.add(sealed).hash))
    assert sealed.hash in believed.chain
    assert not believed.pool.offences


def test_strangers_fill_no_memory_with_what_they_signed_twice() -> None:
    _, _, believed = beginning()
    for author in range(20, 60):
        gossip(believed, header(author, 4))
        gossip(believed, header(author, 4, samples=9))
    assert not believed.pool.offences


def test_rule_18_evidence_in_a_record_takes_the_vote_also_where_nobody_heard_both_headers() -> None:
    tree, records, believed = beginning()
    gossip(believed, header(3, 4))
    assert counted(believed.votes, peer_name(3)) is not None
    record = tree.grow(records[-1], 5, [0, 1, 2], evidence=[twice(3, 4)])
    effects = give(believed, bundle(tree, record))
    assert KeepRecord(record) in effects
    assert counted(believed.votes, peer_name(3)) is None


def test_a_join_of_who_is_removed_is_not_passed_on() -> None:
    tree, records = grown_tree()
    record = tree.grow(records[-1], 4, [0, 1, 2], evidence=[twice(3, 2)])
    believed = view(root=tree.state(record))
    with pytest.raises(Ignore, match="removed"):
        gossip(believed, wish(3, 5))
    assert not believed.pool.wishes


def test_at_most_so_many_peers_are_removed_by_one_record() -> None:
    tree = Tree()
    record = tree.start(EVIDENCE_MAX + 2)
    shown = sorted(
        (twice(a, 0) for a in range(EVIDENCE_MAX + 1)),
        key=lambda e: open_evidence(e, RUN_ID).peer,
    )
    last = EVIDENCE_MAX + 1
    tree.grow(record, 1, [last], evidence=shown[:-1], by=tree.ranked(record, 1)[0])
    with pytest.raises(Reject):
        decode_proposal(tree.propose(record, 1, [last], evidence=shown).raw, RUN_ID)
