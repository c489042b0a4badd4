"""Keys cost nothing: what strangers say costs a node no requests, no memory and no member's voice."""

import pytest

from demo_node.sim.keys import peer_name
from demo_protocol.effects import Effect, PullPayload, PullRecords
from demo_protocol.view import View
from tests.builders import Tree, header, view, wish
from tests.protocol.hearing import SENDER, bundle, give, gossip, grown

NOWHERE = b"?" * 32


def standing(rounds: int = 6, members: int = 4) -> tuple[View, Tree, list[bytes]]:
    """A node on the newest of these records, one a round, in the round after it."""
    tree, records = grown(rounds, members)
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
    assert believed.votes.get(peer_name(9)) == (6, NOWHERE)  # astray.py weighs it


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
