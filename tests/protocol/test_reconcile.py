"""Rule 23: what two nodes tell each other of what they know, and what is pulled then."""

import random
from dataclasses import replace

import pytest

from demo_node.sim.keys import peer_name
from demo_protocol.effects import Effect, PullHeaders, PullPayload, PullRecords
from demo_protocol.errors import Ignore, Reject
from demo_protocol.events import SetsCompared
from demo_protocol.identity import Kind
from demo_protocol.limits import (
    FINGERPRINT_BYTES,
    HEADERS_LISTED_MAX,
    RECORDS_LISTED_MAX,
    RECORDS_PER_REPLY_MAX,
)
from demo_protocol.messages import Header, Sealed
from demo_protocol.reconcile import compare, on_compared, summarise
from demo_protocol.sets import Difference
from demo_protocol.view import View
from tests.builders import MANIFEST, RUN_ID, Tree, header, view
from tests.protocol.hearing import (
    SENDER,
    bundle,
    counted,
    fetched,
    forged,
    give,
    gossip,
    time_of,
)
from tests.protocol.stage import grown_tree

LATE = MANIFEST.agreement.late_rounds


def ask(asking: View, asked: View) -> list[Effect]:
    """One comparison, as the node that asks sees it."""
    difference = compare(asked, summarise(asking))
    return on_compared(asking, SetsCompared(time_of(asking.round), difference, SENDER))


def knowing(*headers: Sealed[Header], me: int = 0, round_: int = 9) -> View:
    """A view in `round_` that has heard these."""
    believed = view(me=me)
    believed.round = round_
    for sealed in headers:
        believed.pool.add_header(sealed)
    return believed


ALL = [header(author, round_) for round_ in range(3, 10) for author in range(1, 6)]


def test_nodes_that_know_the_same_ask_for_nothing_in_whatever_order_they_heard_it() -> None:
    one = knowing(*ALL)
    other = knowing(*random.Random(1).sample(ALL, len(ALL)), me=1)
    assert summarise(one) == summarise(other)
    assert compare(other, summarise(one)) == Difference(RUN_ID, 0, (), ())
    assert ask(one, other) == []


def test_what_one_lacks_is_pulled_from_the_other_alone() -> None:
    lost = ALL[7], ALL[20]
    one = knowing(*(h for h in ALL if h not in lost))
    effects = ask(one, knowing(*ALL, me=1))
    # The newest round first; of a round that differs everything is listed, what is here not pulled.
    assert effects == [PullHeaders((lost[1].hash, lost[0].hash), (SENDER,), only=True)]


def test_only_rounds_that_differ_are_listed() -> None:
    difference = compare(knowing(*ALL), summarise(knowing(*ALL[1:])))
    assert set(difference.headers) == {h.hash for h in ALL if h.body.round == 3}


def test_who_knows_more_asks_for_nothing() -> None:
    assert ask(knowing(*ALL), knowing(*ALL[5:], me=1)) == []


def test_a_pulled_header_is_taken_as_one_of_gossip() -> None:
    """Though no proposal names it: its vote counts, its payload and its record are pulled."""
    _, records = grown_tree()
    believed, sealed = knowing(), header(3, 8, vote=records[-1])
    effects = fetched(believed, sealed, round_=9)
    assert list(believed.pool.of_round(8)) == [sealed]
    assert counted(believed.votes, peer_name(3)) == (8, records[-1])
    size = sealed.body.payload_bytes
    named = (peer_name(3), SENDER)
    assert effects == [
        PullPayload(sealed.body.payload_hash, size, 2, 8, named),
        PullRecords(records[-1], named, 9),
    ]
    assert summarise(believed) == summarise(knowing(sealed))


@pytest.mark.parametrize("round_", [9 - LATE - 1, 10])
def test_rule_2_one_of_another_round_is_neither_listed_nor_taken(round_: int) -> None:
    stranger = header(1, round_)
    assert compare(knowing(stranger), summarise(knowing())).headers == ()
    believed = knowing()
    assert fetched(believed, stranger, round_=9) == []
    assert not believed.pool.headers


def test_nothing_is_listed_of_a_round_that_is_not_over_for_who_asks() -> None:
    """Clocks differ: it would ignore what is of a round that has not begun."""
    late = knowing(round_=8)
    assert compare(knowing(*ALL), summarise(late)).headers == tuple(
        h.hash for r in range(8, 2, -1) for h in ALL if h.body.round == r
    )
    assert compare(late, summarise(knowing(*ALL))).headers == ()


def test_what_its_author_did_not_sign_is_not_taken() -> None:
    believed = knowing()
    with pytest.raises(Reject):
        fetched(believed, header(1, 8), forged(header(2, 8)), round_=9)
    assert not believed.pool.headers


def test_a_second_header_goes_round_too_and_a_third_one_does_not() -> None:
    first, second, third = (header(1, 8, samples=samples) for samples in (8, 7, 6))
    one, other = knowing(first), knowing(first, second, me=1)
    assert ask(one, other) == [PullHeaders((second.hash,), (SENDER,), only=True)]
    fetched(one, second, round_=9)
    assert counted(one.votes, peer_name(1)) is None
    # Each node may have heard another two: what all know is that there are two.
    assert ask(one, knowing(second, third, me=2)) == []
    assert fetched(one, third, round_=9) == []
    assert third.hash not in one.pool.headers
    with pytest.raises(Ignore):
        gossip(one, third, round_=9)


def test_two_of_one_author_in_one_answer_are_evidence_and_three_are_no_more() -> None:
    believed = knowing()
    headers = [header(1, 8, samples=samples) for samples in (8, 7, 6)]
    fetched(believed, *headers, round_=9)
    assert len(believed.pool.headers) == 2
    assert peer_name(1) in believed.votes.equivocators


def test_a_proposal_that_gossip_lost_is_pulled_as_a_record() -> None:
    tree, records = grown_tree()
    sibling = tree.grow(records[2], 3, [0, 1], by=tree.ranked(records[2], 3)[1])
    one, other = (view(root=tree.state(records[2]), me=me) for me in (0, 1))
    one.round = other.round = 3
    give(one, bundle(tree, records[3]), round_=3)
    give(other, bundle(tree, records[3]), bundle(tree, sibling), round_=3)
    assert ask(one, other) == [PullRecords(sibling, (SENDER,), 1, only=True)]
    give(one, bundle(tree, sibling), round_=3)
    assert ask(one, other) == []


def test_an_unknown_head_is_pulled_with_what_lies_between() -> None:
    tree, records = grown_tree(rounds=6)
    one, other = (view(root=tree.state(records[1]), me=me) for me in (0, 1))
    one.round = other.round = 5
    give(other, *(bundle(tree, record) for record in records[2:]))
    other.head = records[5]
    pulls = [effect for effect in ask(one, other) if isinstance(effect, PullRecords)]
    assert pulls[0] == PullRecords(records[5], (SENDER,), 4, only=True)
    # What came whole and waits for its parent is not asked for again; its parent is.
    give(one, bundle(tree, records[5]))
    pulls = [effect for effect in ask(one, other) if isinstance(effect, PullRecords)]
    assert records[5] not in [pull.record for pull in pulls]
    assert pulls[0] == PullRecords(records[4], (SENDER,), 4, only=True)


def test_a_peer_that_claims_to_be_far_ahead_is_asked_for_no_more_than_an_answer_holds() -> None:
    far = Difference(bytes(32), 2**31, (), ())
    assert on_compared(knowing(), SetsCompared(time_of(9), far, SENDER)) == [
        PullRecords(bytes(32), (SENDER,), RECORDS_PER_REPLY_MAX, only=True)
    ]


def test_what_a_liar_names_is_no_obstacle_to_asking_others_in_the_same_round() -> None:
    """It names what it does not give. A proposal that lists the same is not held up by that."""
    tree = Tree()
    sealed = tree.propose(tree.start(4), 1, [0, 1, 2])
    named = Difference(sealed.body.parent, 0, sealed.body.contributions, (sealed.hash,))
    believed = view()
    give(believed, bundle(tree, sealed.body.parent))
    believed.round = 1
    before = dict(believed.pulled)
    assert on_compared(believed, SetsCompared(time_of(1), named, peer_name(66)))
    assert believed.pulled == before
    effects = gossip(believed, sealed)
    assert sealed.body.contributions in [e.hashes for e in effects if isinstance(e, PullHeaders)]


def test_an_answer_is_bounded_and_holds_the_newest() -> None:
    one = knowing()
    for number in range(HEADERS_LISTED_MAX // 2 + 1):
        for round_ in (7, 8, 9):
            body = replace(header(1, round_).body, peer=number.to_bytes(32))
            name = number.to_bytes(31) + bytes([round_])
            one.pool.add_header(Sealed(body, Kind.HEADER, name, b"", b"", b""))
    listed = compare(one, summarise(knowing())).headers
    assert len(listed) == HEADERS_LISTED_MAX
    assert {name[-1] for name in listed} == {9, 8}
    assert RECORDS_LISTED_MAX >= LATE + 1  # a chain of its own fits


def test_a_rounds_fingerprint_is_computed_again_only_when_its_set_changed() -> None:
    believed = knowing(*ALL[:-1])
    assert {len(mark) for mark in summarise(believed).headers} == {FINGERPRINT_BYTES}
    kept = {round_: bytes([round_]) * FINGERPRINT_BYTES for round_ in range(3, 10)}
    believed.pool.fingerprints.update(kept)
    assert summarise(believed).headers == tuple(kept.values())
    believed.pool.add_header(ALL[-1])
    assert ALL[-1].body.round == 9
    assert summarise(believed).headers[:-1] == tuple(kept.values())[:-1]
    assert summarise(believed).headers[-1] == knowing(*ALL).pool.fingerprint(9)
