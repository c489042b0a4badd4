"""What was pulled from others (rules 8, 15 and 16): checked whole before any of it is taken."""

from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo_node.sim.keys import peer_name
from demo_protocol.effects import Effect, KeepRecord, PullHeaders, PullPayload, PullRecords
from demo_protocol.errors import Ignore, Reject
from demo_protocol.events import Bundle, GossipReceived, HeadersFetched
from demo_protocol.forkchoice import Votes
from demo_protocol.identity import Kind
from demo_protocol.limits import RECORDS_PER_REPLY_MAX
from demo_protocol.pulling import find_missing, pull_again
from demo_protocol.receive import on_gossip, on_headers
from tests.builders import RUN_ID, Tree, header, proposal, view
from tests.protocol.hearing import (
    SENDER,
    bundle,
    counted,
    fetched,
    forged,
    give,
    gossip,
    snapshot,
    time_of,
    wrong_length,
)
from tests.protocol.stage import grown_tree

# --- pulled headers ------------------------------------------------------------------------------


def test_pulled_headers_nobody_waits_for_are_not_taken() -> None:
    believed = view()
    assert fetched(believed, header(1, 3)) == []
    assert not believed.pool.headers
    assert counted(believed.votes, peer_name(1)) is None


def test_pulled_headers_are_all_checked_before_one_is_taken() -> None:
    tree, records = grown_tree()
    believed = view(root=tree.state(records[-1]))
    good = header(1, 4, vote=records[-1])
    bad = wrong_length(header(2, 4))
    gossip(
        believed,
        proposal(tree.ranked(records[-1], 4)[0], 4, records[-1], contributions=[good, bad]),
    )
    before = snapshot(believed)
    with pytest.raises(Reject):
        fetched(believed, good, bad)
    assert snapshot(believed) == before


def test_rule_2_a_pulled_header_of_a_round_that_has_not_begun_is_not_taken() -> None:
    tree, records = grown_tree()
    believed = view(root=tree.state(records[-1]))
    early = header(1, 10**6, vote=records[-1])
    gossip(
        believed, proposal(tree.ranked(records[-1], 4)[0], 4, records[-1], contributions=[early])
    )
    assert fetched(believed, early) == []
    assert counted(believed.votes, peer_name(1)) is None


# --- pulled records ------------------------------------------------------------------------------


def test_rule_15_records_are_valid_whenever_they_come() -> None:
    """Rule 2 bounds gossip; a chain is as old as it is."""
    tree, records = grown_tree(12)
    believed = view()
    effects = give(believed, *(bundle(tree, r) for r in records), round_=10**6)
    assert set(records) <= set(believed.chain.records)
    assert [e.record for e in effects if isinstance(e, KeepRecord)] == records


def test_the_vote_of_every_header_in_a_record_counts() -> None:
    tree, records = grown_tree()
    believed = view()
    give(believed, *(bundle(tree, r) for r in records))
    assert counted(believed.votes, peer_name(2)) == (3, records[2])


def test_an_answer_is_checked_whole_before_any_of_it_is_taken() -> None:
    tree, records = grown_tree()
    believed = view()
    before = snapshot(believed)
    other = bundle(tree, records[1])
    bad = [
        Bundle(b"garbage", ()),
        Bundle(other.proposal, (b"garbage",)),
        Bundle(other.proposal, (*other.headers, header(1, 0).raw)),  # not its own
        Bundle(other.proposal, (forged(header(0, 1)).raw,)),
    ]
    for last in bad:
        with pytest.raises(Reject):
            give(believed, bundle(tree, records[0]), last)
        assert snapshot(believed) == before


def test_records_of_rounds_that_have_not_begun_do_not_enter() -> None:
    tree = Tree()
    record = tree.grow(tree.start(2), 10**6, [0, 1])
    believed = view()
    give(believed, bundle(tree, tree.chain[record].parent), bundle(tree, record), round_=50)
    assert record not in believed.chain
    assert not believed.pool.pending
    assert counted(believed.votes, peer_name(0)) == (0, RUN_ID)


def test_records_older_than_the_chains_first_do_not_enter() -> None:
    tree, records = grown_tree(6)
    believed = view(root=tree.state(records[3]))
    assert give(believed, *(bundle(tree, r) for r in records[:4])) == []
    assert not believed.pool.pending


def test_a_part_that_does_not_reach_our_chain_is_continued_below_and_only_there() -> None:
    tree, records = grown_tree(9)
    believed = view()
    effects = give(believed, *(bundle(tree, r) for r in records[5:]))
    assert [e for e in effects if isinstance(e, PullRecords)] == [
        PullRecords(
            records[4],
            (tree.chain[records[5]].proposal.body.peer, SENDER),  # type: ignore[union-attr]  # it has one
            RECORDS_PER_REPLY_MAX,
        )
    ]
    give(believed, *(bundle(tree, r) for r in records[:5]))
    assert records[-1] in believed.chain


def test_whoever_is_led_from_parent_to_parent_comes_to_an_end() -> None:
    """A liar can sign records without end; not such that each is of an older round."""
    believed = view()
    parent = proposal(1, 20, b"g" * 32, contributions=[header(1, 20)])
    followed = proposal(1, 21, parent.hash, contributions=[header(1, 21)])
    gossip(believed, followed)
    give(believed, Bundle(parent.raw, (header(1, 20).raw,)))
    endless = proposal(1, 20, b"e" * 32, contributions=[header(1, 20)])
    gossip(believed, proposal(2, 20, endless.hash, contributions=[header(2, 20)]))
    before = snapshot(believed)
    with pytest.raises(Reject, match="follows"):
        give(believed, Bundle(endless.raw, (header(1, 20).raw,)))
    assert snapshot(believed) == before


def test_a_chain_that_is_walked_back_keeps_its_headers_over_rounds_and_goes_on_below() -> None:
    tree, records = grown_tree(9)
    believed = view()
    believed.round = 9
    give(believed, *(bundle(tree, r) for r in records[5:]))
    believed.round = 10
    believed.forget_before(9, 0)
    vote = header(1, 10, k=0, vote=records[8])
    (pull,) = [e for e in gossip(believed, vote) if isinstance(e, PullRecords)]
    assert pull.record == records[4]
    give(believed, *(bundle(tree, r) for r in records[:5]))
    assert records[8] in believed.chain


def test_a_record_that_came_without_its_headers_is_asked_for_again_once_its_parent_is_here() -> (
    None
):
    tree, records = grown_tree(4)
    believed = view()
    believed.round = 4
    give(believed, replace(bundle(tree, records[2]), headers=()))
    vote = header(1, 4, k=0, vote=records[2])
    assert records[2] not in {
        e.record for e in gossip(believed, vote) if isinstance(e, PullRecords)
    }
    effects = give(believed, *(bundle(tree, r) for r in records[:2]))
    (pull,) = [e for e in effects if isinstance(e, PullHeaders)]
    assert pull.hashes == tree.chain[records[2]].proposal.body.contributions  # type: ignore[union-attr]  # it has one
    assert find_missing(believed, records[2]) == records[2]
    give(believed, bundle(tree, records[2]))
    assert records[2] in believed.chain


# --- rule 16: payloads that votes build on -------------------------------------------------------


def payloads_pulled(effects: Iterable[Effect]) -> set[bytes]:
    return {e.payload_hash for e in effects if isinstance(e, PullPayload)}


def test_rule_16_what_a_vote_builds_on_is_pulled_again_until_it_is_here() -> None:
    tree, records = grown_tree()
    believed = view()
    for record in records:
        give(believed, bundle(tree, record))
    believed.votes = Votes()
    assert pull_again(believed) == []  # nobody votes for any of it
    believed.votes.add(peer_name(0), 3, records[1])
    wanted = {header(a, r).body.payload_hash for a in range(4) for r in (0, 1)}
    assert payloads_pulled(pull_again(believed)) == wanted
    held = header(0, 0).body.payload_hash
    believed.pool.add_payloads(0, (held,))
    assert payloads_pulled(pull_again(believed)) == wanted - {held}
    believed.digests[records[1]] = b"applied!"
    assert pull_again(believed) == []


def test_the_record_a_member_voted_for_last_is_asked_for_though_the_member_be_gone() -> None:
    """Its vote for an orphan of one branch may decide a tie: everybody must be able to count it."""
    tree, records = grown_tree(6)
    orphan = tree.grow(records[3], 4, [0, 1], by=tree.ranked(records[3], 4)[1])
    believed = view(root=tree.state(records[3]))
    believed.round = 6
    believed.votes.add(peer_name(2), 5, orphan)
    believed.votes.add(peer_name(9), 5, b"x" * 32)  # a stranger's vote counts nowhere
    assert pull_again(believed) == [PullRecords(orphan, (peer_name(2),), 2)]
    give(believed, bundle(tree, orphan))
    assert not [e for e in pull_again(believed) if isinstance(e, PullRecords)]


def test_a_vote_from_before_the_chains_first_record_is_not_asked_for() -> None:
    tree, records = grown_tree(6)
    believed = view(root=tree.state(records[3]))
    believed.votes.add(peer_name(2), 3, b"x" * 32)
    assert pull_again(believed) == []


# --- garbage -------------------------------------------------------------------------------------


@given(kind=st.sampled_from(list(Kind)), raw=st.binary(max_size=300))
def test_garbage_over_gossip_is_rejected_and_changes_nothing(kind: Kind, raw: bytes) -> None:
    before = snapshot(GARBAGED)
    with pytest.raises((Ignore, Reject)):
        on_gossip(GARBAGED, GossipReceived(time_of(3), kind, raw, SENDER))
    assert snapshot(GARBAGED) == before


@given(raws=st.lists(st.binary(max_size=200), min_size=1, max_size=3))
def test_garbage_that_was_pulled_is_rejected_and_changes_nothing(raws: list[bytes]) -> None:
    before = snapshot(GARBAGED)
    with pytest.raises(Reject):
        on_headers(GARBAGED, HeadersFetched(time_of(3), tuple(raws), SENDER))
    with pytest.raises(Reject):
        give(GARBAGED, *(Bundle(raw, (raw,)) for raw in raws))
    assert snapshot(GARBAGED) == before


GARBAGED = view()
