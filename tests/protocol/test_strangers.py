"""Keys cost nothing: what strangers say costs a node no requests, no memory and no voices."""

import pytest

from demo_node.sim.keys import peer_name
from demo_protocol.effects import Effect, PullHeaders, PullPayload, PullRecords
from demo_protocol.errors import Ignore
from demo_protocol.events import Bundle
from demo_protocol.limits import HEADERS_PER_ROUND_MAX, HEADERS_WAITING_MAX
from demo_protocol.pool import Pool
from demo_protocol.view import View
from tests.builders import Tree, header, proposal, view, wish
from tests.protocol.hearing import SENDER, bundle, counted, fetched, give, gossip
from tests.protocol.stage import grown_tree

NOWHERE = b"?" * 32


def standing(rounds: int = 6, members: int = 4) -> tuple[View, Tree, list[bytes]]:
    """A node on the newest of these records, one a round, in the round after it."""
    tree, records = grown_tree(rounds, members)
    believed = view()
    give(believed, *(bundle(tree, record) for record in records), round_=rounds)
    stand(believed, records[-1])
    return believed, tree, records


def stand(believed: View, record: bytes) -> None:
    believed.head, believed.round = record, believed.chain[record].round + 1


def asked(effects: list[Effect]) -> list[Effect]:
    return [e for e in effects if isinstance(e, PullPayload | PullRecords)]


# --- what a header makes a node ask for ----------------------------------------------------------


def test_a_strangers_header_is_counted_and_nothing_it_names_is_asked_for() -> None:
    believed, _, _ = standing()
    assert asked(gossip(believed, header(9, 6, vote=NOWHERE))) == []
    assert counted(believed.votes, peer_name(9)) == (6, NOWHERE)  # astray.py weighs it


def test_a_members_payload_and_vote_are_asked_for() -> None:
    believed, _, _ = standing()
    pulls = asked(gossip(believed, header(2, 6, vote=NOWHERE)))
    assert [type(pull) for pull in pulls] == [PullPayload, PullRecords]


def test_who_asks_to_join_is_followed_whether_its_header_comes_before_or_after() -> None:
    believed, _, records = standing()
    gossip(believed, wish(8, 6))
    assert len(asked(gossip(believed, header(8, 6, vote=records[-1])))) == 1
    sealed = header(9, 6, vote=records[-1])
    assert asked(gossip(believed, sealed)) == []
    (pull,) = asked(gossip(believed, wish(9, 6)))
    assert isinstance(pull, PullPayload)
    assert pull.payload_hash == sealed.body.payload_hash
    assert pull.holders == (peer_name(9), SENDER)


@pytest.mark.parametrize("wishes", [(), (True,)], ids=["left", "joins again"])
def test_who_left_is_a_stranger_until_it_asks_to_join_again(wishes: tuple[bool, ...]) -> None:
    believed, tree, records = standing()
    gone = tree.grow(records[-1], 6, range(3), leaves=[3])
    give(believed, bundle(tree, gone))
    stand(believed, gone)
    assert believed.head_state.known[peer_name(3)].left
    for joins in wishes:
        gossip(believed, wish(3, 7, joins=joins))
    assert len(asked(gossip(believed, header(3, 7, vote=gone)))) == len(wishes)


def test_before_anybody_is_in_everybody_is_followed() -> None:
    believed = view()
    assert len(asked(gossip(believed, header(9, 0, vote=NOWHERE)))) == 2


# --- proposals that wait -------------------------------------------------------------------------


def test_a_strangers_proposal_on_a_record_that_is_not_here_is_ignored() -> None:
    believed, _, _ = standing()
    listed = [header(author, 6) for author in range(4)]
    with pytest.raises(Ignore, match="stranger"):
        gossip(believed, proposal(9, 6, NOWHERE, contributions=listed))
    assert not believed.pool.pending
    assert (6, peer_name(9)) not in believed.pool.notices
    (pull,) = gossip(believed, proposal(3, 6, NOWHERE, contributions=listed))
    assert isinstance(pull, PullRecords)


def test_the_parent_is_asked_for_before_the_headers() -> None:
    """They would be of no use where it is nobody's record."""
    believed, tree, records = standing()
    parent = tree.grow(records[-1], 6, range(4))
    believed.round = 7
    sealed = tree.propose(parent, 7, range(4))
    (pull,) = gossip(believed, sealed)
    assert isinstance(pull, PullRecords)
    effects = give(believed, bundle(tree, parent))
    (headers,) = [e for e in effects if isinstance(e, PullHeaders)]
    assert headers.hashes == sealed.body.contributions
    fetched(believed, *(tree.headers[name] for name in headers.hashes))
    assert sealed.hash in believed.chain


def test_what_waits_for_its_parent_is_dropped_once_that_tells_that_its_author_has_no_slot() -> None:
    believed, tree, records = standing()
    parent = tree.grow(records[-1], 6, range(4))
    believed.round = 7
    without = tree.ranked(parent, 7)[-1]
    gossip(believed, tree.propose(parent, 7, range(4), by=without))
    effects = give(believed, bundle(tree, parent))
    assert not [e for e in effects if isinstance(e, PullHeaders)]
    assert not believed.pool.pending


def test_a_pulled_record_whose_author_has_no_slot_does_not_wait() -> None:
    believed, tree, records = standing()
    sealed = tree.propose(records[-1], 6, range(4), by=9)
    give(believed, Bundle(sealed.raw, ()))
    assert not believed.pool.pending


# --- headers that come with records --------------------------------------------------------------


def made_up() -> Bundle:
    listed = [header(author, 6, digest=b"FORGED!!", k=0) for author in range(20, 24)]
    sealed = proposal(19, 6, NOWHERE, contributions=listed)
    return Bundle(sealed.raw, tuple(h.raw for h in listed))


def test_headers_of_a_record_that_is_on_no_chain_are_not_remembered_and_do_not_vote() -> None:
    believed, _, _ = standing()
    voters = set(believed.votes.newest)
    give(believed, made_up())
    assert not believed.pool.by_round.get(6)
    assert set(believed.votes.newest) == voters
    believed.forget_before(7, 7)
    assert not believed.pool.brought


def test_headers_of_a_record_that_is_invalid_are_not_remembered() -> None:
    believed, tree, records = standing()
    sealed = tree.propose(records[-1], 6, [0, 1, 9])
    give(
        believed, Bundle(sealed.raw, tuple(tree.headers[h].raw for h in sealed.body.contributions))
    )
    assert sealed.hash not in {*believed.chain.records, *believed.pool.pending}
    assert not believed.pool.by_round.get(6)
    assert not believed.pool.brought


def test_headers_that_wait_with_their_records_are_bounded() -> None:
    pool, each = Pool(), HEADERS_WAITING_MAX // 4
    for author in range(9):
        waiting = proposal(author, 6, NOWHERE)
        pool.add_pending(waiting)
        pool.brought[waiting.hash] = dict.fromkeys(
            (bytes([author]) + n.to_bytes(31, "big") for n in range(each)), header()
        )
    pool.add_pending(proposal(9, 6, NOWHERE), [header(9, 6)])
    assert sum(map(len, pool.brought.values())) == 3 * each + 1
    assert pool.brought.keys() <= pool.pending.keys()


# --- room ----------------------------------------------------------------------------------------


def crowd(believed: View, round_: int) -> None:
    heard = believed.pool.by_round.setdefault(round_, {})
    for number in range(HEADERS_PER_ROUND_MAX):
        heard[number.to_bytes(32, "big")] = header(0, round_)


def test_candidates_are_heard_though_strangers_have_filled_the_round() -> None:
    believed, tree, records = standing()
    record = tree.grow(records[-1], 6, range(4), joins=[7])
    give(believed, bundle(tree, record))
    stand(believed, record)
    assert peer_name(7) not in believed.chain[record].members
    crowd(believed, 7)
    gossip(believed, header(7, 7, vote=record))
    with pytest.raises(Ignore, match="strangers"):
        gossip(believed, header(9, 7, vote=record))


def test_pulled_headers_of_strangers_find_no_room_either() -> None:
    believed, tree, records = standing()
    gossip(believed, tree.propose(records[-1], 6, [0, 1, 9]))
    crowd(believed, 6)
    fetched(
        believed, *(tree.headers[header(a, 6, vote=records[-1]).hash] for a in (0, 9)), round_=6
    )
    assert peer_name(0) in believed.pool.by_round[6]
    assert peer_name(9) not in believed.pool.by_round[6]


# --- claims --------------------------------------------------------------------------------------


def test_strangers_do_not_say_what_a_state_is() -> None:
    believed, _, records = standing()
    for author in range(20, 30):
        gossip(believed, header(author, 6, vote=records[-1], base=records[-1], digest=b"FORGED!!"))
    assert believed.claimed_digest(records[-1]) is None
    gossip(believed, header(1, 6, vote=records[-1], base=records[-1], digest=b"of four."))
    assert believed.claimed_digest(records[-1]) == b"of four."
