"""Whom each asks for a payload: a tree, whatever part of the peers anybody knows."""

import random
from collections import Counter

import pytest

from demo_node.sim.keys import peer_name
from demo_node.spreading import DIRECT_MAX, order_holders

PEERS = [peer_name(number) for number in range(16)]
AUTHOR = PEERS[3]


def others(peers: list[bytes], me: bytes) -> list[bytes]:
    return [peer for peer in peers if peer != me]


def ask_first(round_: int, author: bytes, peers: list[bytes]) -> dict[bytes, bytes]:
    """Whom everybody asks first, where all know each other."""
    return {
        me: order_holders(round_, (author,), me, others(peers, me))[0]
        for me in others(peers, author)
    }


def test_two_ask_the_author_and_two_each_of_those_who_ask_them() -> None:
    for round_ in range(5):
        asked = Counter(ask_first(round_, AUTHOR, PEERS).values())
        assert asked[AUTHOR] == 2
        assert max(asked.values()) == 2


def test_the_way_to_the_author_is_short() -> None:
    for round_ in range(5):
        first = ask_first(round_, AUTHOR, PEERS)
        for peer in first:
            way = 0
            while peer != AUTHOR:
                peer, way = first[peer], way + 1
            assert way <= 4


def test_where_all_are_authors_each_serves_as_many_as_the_others() -> None:
    asked = Counter(holder for author in PEERS for holder in ask_first(7, author, PEERS).values())
    assert set(asked.values()) == {len(PEERS) - 1}


def test_each_round_has_a_tree_of_its_own() -> None:
    """Else one that gives nothing would be in the way of the same ones for ever."""
    heads = {
        frozenset(p for p, holder in ask_first(r, AUTHOR, PEERS).items() if holder == AUTHOR)
        for r in range(20)
    }
    assert len(heads) > 10


@pytest.mark.parametrize("count", range(2, DIRECT_MAX + 2))
def test_so_few_ask_the_author(count: int) -> None:
    assert set(ask_first(0, AUTHOR, PEERS[3 : 3 + count]).values()) == {AUTHOR}


def test_everybody_who_is_connected_is_asked_once_and_nobody_else() -> None:
    for me in others(PEERS, AUTHOR):
        order = order_holders(2, (AUTHOR, PEERS[0], b"unknown"), me, others(PEERS, me))
        assert sorted(order) == sorted(others(PEERS, me))


def test_an_author_that_lost_its_payload_asks_who_is_said_to_have_it_then_all_others() -> None:
    order = order_holders(2, (AUTHOR, PEERS[5]), AUTHOR, others(PEERS, AUTHOR))
    assert order[0] == PEERS[5]
    assert sorted(order) == sorted(others(PEERS, AUTHOR))


def test_who_does_not_reach_the_author_asks_who_told_of_it() -> None:
    """Where nobody it knows comes before it: the header's way leads to the author."""
    for round_ in range(20):
        first = ask_first(round_, AUTHOR, PEERS)
        for me in first:
            known = others(others(PEERS, me), AUTHOR)
            sender = random.Random(round_).choice(known)
            order = order_holders(round_, (AUTHOR, sender), me, known)
            assert AUTHOR not in order
            assert order[0] == (sender if first[me] == AUTHOR else first[me])


def test_nobody_waits_in_a_circle_whatever_part_of_the_others_each_knows() -> None:
    """Who is asked first stands nearer to the author, in everybody's eyes."""
    dice = random.Random(5)
    for round_ in range(200):
        links = {p: {q for q in PEERS if q != p and dice.random() < 0.5} for p in PEERS}
        known = {p: {q for q in PEERS if q in links[p] or p in links[q]} for p in PEERS}
        first = {
            me: order_holders(round_, (AUTHOR,), me, known[me])
            for me in others(PEERS, AUTHOR)
            if AUTHOR in known[me] or len(known[me]) > DIRECT_MAX
        }
        for peer in first:
            seen = {peer}
            while peer in first and (AUTHOR in known[peer] or _waits(round_, peer, known[peer])):
                peer = first[peer][0]
                assert peer not in seen
                seen.add(peer)


def _waits(round_: int, me: bytes, known: set[bytes]) -> bool:
    """Is there anybody before it, of those that it knows?"""
    above = order_holders(round_, (AUTHOR,), me, known | {AUTHOR})
    return above[0] != AUTHOR
