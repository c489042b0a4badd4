"""Rule 15: of a proposal over 32 KiB the notice is gossiped, and the rest pulled by its name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo_node.sim.keys import cheap_sign, cheap_verify, peer_name
from demo_protocol.effects import Effect, KeepRecord, PullHeaders, PullProposal, PullRecords
from demo_protocol.errors import Ignore, Reject
from demo_protocol.events import GossipReceived, ProposalFetched
from demo_protocol.identity import Kind
from demo_protocol.limits import (
    CONTRIBUTIONS_MAX,
    EVIDENCE_MAX,
    GOSSIP_BYTES_MAX,
    HEADER_BYTES_MAX,
    JOINS_MAX,
    MEMBERSHIP_BYTES_MAX,
    PROPOSAL_BYTES_MAX,
)
from demo_protocol.messages import (
    Evidence,
    Proposal,
    Sealed,
    check_signature,
    decode_announcement,
    decode_proposal,
    encode_announcement,
    make_notice,
    seal_proposal,
)
from demo_protocol.receive import on_gossip
from demo_protocol.recording import on_proposal
from demo_protocol.view import View
from tests.builders import RUN_ID, Tree, header, proposal, view
from tests.protocol.hearing import SENDER, bundle, give, time_of
from tests.protocol.stage import grown_tree

LONG = 1_000
"""So many header hashes are over the limit."""


def listing(count: int, author: int = 0) -> Sealed[Proposal]:
    """A proposal that lists this many headers, which nobody has."""
    peer = peer_name(author)
    body = Proposal(
        round=4,
        peer=peer,
        parent=RUN_ID,
        parent_digest=bytes(8),
        contributions=tuple(number.to_bytes(32, "big") for number in range(count)),
        late=(),
        joins=(),
        leaves=(),
    )
    return seal_proposal(body, RUN_ID, cheap_sign(peer))


# --- what travels --------------------------------------------------------------------------------


def test_a_short_proposal_is_gossiped_whole() -> None:
    sealed = listing(900)
    assert encode_announcement(sealed, RUN_ID) == sealed.raw
    assert decode_announcement(sealed.raw, RUN_ID) == (make_notice(sealed, RUN_ID), sealed)


def test_of_a_long_one_the_notice_is_gossiped() -> None:
    sealed = listing(LONG)
    raw = encode_announcement(sealed, RUN_ID)
    assert len(raw) < 250 < GOSSIP_BYTES_MAX < len(sealed.raw)
    notice, whole = decode_announcement(raw, RUN_ID)
    assert whole is None
    check_signature(notice, cheap_verify)
    assert notice.hash == sealed.hash == decode_proposal(sealed.raw, RUN_ID).hash


@given(count=st.integers(940, 965))
def test_what_an_honest_node_announces_is_taken_on_either_side_of_the_limit(count: int) -> None:
    sealed = listing(count)
    notice, whole = decode_announcement(encode_announcement(sealed, RUN_ID), RUN_ID)
    assert notice.hash == sealed.hash
    assert (whole is None) is (len(sealed.raw) > GOSSIP_BYTES_MAX)


def test_the_notice_of_a_short_proposal_is_rejected() -> None:
    """Else a liar could have everybody pull what gossip carries anyway."""
    with pytest.raises(Reject, match="short"):
        decode_announcement(make_notice(listing(100), RUN_ID).raw, RUN_ID)


def test_a_long_proposal_is_not_gossiped_whole() -> None:
    with pytest.raises(Reject, match="at most"):
        decode_announcement(listing(LONG).raw, RUN_ID)


@given(raw=st.binary(max_size=400))
def test_garbage_is_only_ever_rejected(raw: bytes) -> None:
    with pytest.raises(Reject):
        decode_announcement(raw, RUN_ID)


@given(at=st.integers(0, 10**4), flip=st.integers(1, 255))
def test_a_notice_with_one_byte_changed_is_rejected(at: int, flip: int) -> None:
    raw = bytearray(encode_announcement(listing(LONG), RUN_ID))
    raw[at % len(raw)] ^= flip
    with pytest.raises(Reject):
        check_signature(decode_announcement(bytes(raw), RUN_ID)[0], cheap_verify)


def test_the_longest_proposal_there_is_may_be_pulled() -> None:
    """Also when strangers pad their joins: else they could make honest proposers fail."""
    longest = Proposal(
        round=2**32 - 1,
        peer=peer_name(0),
        parent=bytes(32),
        parent_digest=bytes(8),
        contributions=tuple(number.to_bytes(32, "big") for number in range(CONTRIBUTIONS_MAX)),
        late=(),
        joins=(bytes(MEMBERSHIP_BYTES_MAX),) * (JOINS_MAX // 2),
        leaves=(bytes(MEMBERSHIP_BYTES_MAX),) * (JOINS_MAX // 2),
        evidence=(Evidence(Kind.HEADER, bytes(HEADER_BYTES_MAX), bytes(HEADER_BYTES_MAX)),)
        * EVIDENCE_MAX,
    )
    sealed = seal_proposal(longest, RUN_ID, cheap_sign(peer_name(0)))
    assert len(sealed.raw) <= PROPOSAL_BYTES_MAX
    assert decode_proposal(sealed.raw, RUN_ID).body == longest


# --- heard by a node -----------------------------------------------------------------------------


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """So short a limit that every proposal is long."""
    monkeypatch.setattr("demo_protocol.messages.GOSSIP_BYTES_MAX", 250)


def hear(believed: View, sealed: Sealed[Proposal]) -> list[Effect]:
    raw = encode_announcement(sealed, RUN_ID)
    assert raw != sealed.raw
    now_ms = time_of(sealed.body.round)
    return on_gossip(believed, GossipReceived(now_ms, Kind.PROPOSAL, raw, SENDER))


def fetch(believed: View, raw: bytes) -> list[Effect]:
    return on_proposal(believed, ProposalFetched(time_of(4), raw, SENDER))


def beginning(contributors: int = 4) -> tuple[Tree, View, Sealed[Proposal]]:
    """A node that has heard all headers of round 4, and a proposal that lists them."""
    tree, records = grown_tree()
    believed = view(root=tree.state(records[-1]))
    believed.round = 4
    sealed = tree.propose(records[-1], 4, range(contributors))
    for name in sealed.body.contributions:
        believed.pool.add_header(tree.headers[name])
    return tree, believed, sealed


@pytest.mark.usefixtures("short")
def test_a_notice_is_passed_on_and_the_proposal_pulled_from_its_author_first() -> None:
    _, believed, sealed = beginning()
    assert hear(believed, sealed) == [PullProposal(sealed.hash, (sealed.body.peer, SENDER))]
    assert sealed.hash not in believed.chain
    effects = fetch(believed, sealed.raw)
    assert effects[0] == KeepRecord(sealed.hash)
    assert sealed.hash in believed.chain
    assert not believed.pool.awaited


@pytest.mark.usefixtures("short")
def test_who_has_the_whole_gives_it_also_while_headers_are_missing() -> None:
    _, believed, sealed = beginning()
    believed.pool.headers.clear()
    hear(believed, sealed)
    assert believed.find_proposal(sealed.hash) is None
    (pull,) = fetch(believed, sealed.raw)
    assert isinstance(pull, PullHeaders)
    assert believed.find_proposal(sealed.hash) == sealed.raw
    assert view().find_proposal(RUN_ID) is None


@pytest.mark.usefixtures("short")
def test_a_notice_under_an_unknown_parent_has_that_pulled_as_well() -> None:
    tree, records = grown_tree(6)
    believed = view(root=tree.state(records[2]))
    believed.round = 5
    sealed = tree.chain[records[5]].proposal
    assert sealed is not None
    effects = hear(believed, sealed)
    assert effects[0] == PullProposal(sealed.hash, (sealed.body.peer, SENDER))
    assert isinstance(effects[1], PullRecords)
    fetch(believed, sealed.raw)
    give(believed, bundle(tree, records[3]), bundle(tree, records[4]))
    for name in sealed.body.contributions:
        believed.pool.add_header(tree.headers[name])
    give(believed, bundle(tree, records[5]))
    assert records[5] in believed.chain


@pytest.mark.usefixtures("short")
def test_rule_13_notice_and_proposal_are_one_and_a_second_notice_is_evidence() -> None:
    tree, believed, sealed = beginning()
    hear(believed, sealed)
    fetch(believed, sealed.raw)
    assert not believed.pool.offences
    second = tree.propose(sealed.body.parent, 4, [0, 1], by=tree.ranked(sealed.body.parent, 4)[0])
    assert hear(believed, second) == []
    assert believed.pool.offences[sealed.body.peer].round == 4
    assert second.hash not in believed.pool.awaited
    for again in (sealed, second):
        with pytest.raises(Ignore):
            hear(believed, again)


@pytest.mark.usefixtures("short")
def test_what_is_not_what_the_notice_named_is_rejected_and_asked_for_again() -> None:
    tree, believed, sealed = beginning()
    hear(believed, sealed)
    before = dict(believed.pool.awaited)
    forged = seal_proposal(sealed.body, RUN_ID, cheap_sign(peer_name(99)))
    with pytest.raises(Reject):
        fetch(believed, forged.raw)
    with pytest.raises(Reject):
        fetch(believed, sealed.raw[:-1])
    other = tree.propose(sealed.body.parent, 4, [0, 1])
    with pytest.raises(Ignore):
        fetch(believed, other.raw)
    assert believed.pool.awaited == before
    assert fetch(believed, sealed.raw)


@pytest.mark.usefixtures("short")
def test_a_proposal_that_turns_out_invalid_is_dropped_and_its_giver_not_blamed() -> None:
    tree, records = grown_tree()
    believed = view(root=tree.state(records[-1]))
    believed.round = 4
    sealed = tree.propose(records[-1], 4, [0, 1, 9])
    for name in sealed.body.contributions:
        believed.pool.add_header(tree.headers[name])
    hear(believed, sealed)
    assert fetch(believed, sealed.raw) == []
    assert sealed.hash not in {*believed.chain.records, *believed.pool.awaited}


@pytest.mark.usefixtures("short")
def test_a_notice_of_who_has_no_slot_or_did_not_sign_is_rejected() -> None:
    tree, records = grown_tree()
    believed = view(root=tree.state(records[-1]))
    believed.round = 4
    for sealed in (
        tree.propose(records[-1], 4, [0, 1], by=tree.ranked(records[-1], 4)[2]),
        seal_proposal(tree.propose(records[-1], 4, [0, 1]).body, RUN_ID, cheap_sign(peer_name(99))),
    ):
        with pytest.raises(Reject):
            hear(believed, sealed)
    assert not believed.pool.awaited
    assert not believed.pool.notices


@pytest.mark.usefixtures("short")
def test_a_record_that_came_another_way_is_not_pulled_any_more() -> None:
    tree, believed, sealed = beginning()
    hear(believed, sealed)
    give(believed, bundle(tree, tree.add(sealed).hash))
    assert sealed.hash in believed.chain
    assert not believed.pool.awaited


def test_notices_are_forgotten_with_their_round() -> None:
    believed = view()
    sealed = proposal(0, 4, RUN_ID, contributions=[header(0, 4)])
    believed.pool.await_proposal(make_notice(sealed, RUN_ID))
    believed.pool.forget_before(4, 0)
    assert believed.pool.awaited
    believed.pool.forget_before(5, 0)
    assert not believed.pool.awaited
