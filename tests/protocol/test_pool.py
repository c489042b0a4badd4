"""What a node has heard: bounded, the first of a peer and round is the one used."""

from dataclasses import replace

import pytest

from demo_node.sim.keys import peer_name
from demo_protocol.evidence import Offence, make_offence
from demo_protocol.limits import EVIDENCE_KEPT_MAX, JOINS_KEPT_MAX, PENDING_MAX
from demo_protocol.messages import Membership, Sealed, make_notice
from demo_protocol.pool import Pool
from tests.builders import RUN_ID, header, proposal, wish


def test_the_first_header_of_a_peer_and_round_is_used_and_others_are_known_by_hash() -> None:
    pool = Pool()
    first, second, other = header(0, 5), header(0, 5, samples=9), header(1, 5)
    for sealed in (first, second, other):
        pool.add_header(sealed)
    assert list(pool.of_round(5)) == [first, other]
    assert set(pool.headers) == {first.hash, second.hash, other.hash}
    assert list(pool.of_round(6)) == []


def test_rule_t4_a_heartbeat_needs_no_payload() -> None:
    pool = Pool()
    assert pool.is_held(header(0, 5, k=0).body)
    assert not pool.is_held(header(0, 5).body)
    pool.add_payloads(5, (header(0, 5).body.payload_hash,))
    assert pool.is_held(header(0, 5).body)


def test_the_oldest_of_too_many_waiting_proposals_makes_room() -> None:
    pool = Pool()
    waiting = [proposal(0, round_, RUN_ID) for round_ in range(PENDING_MAX + 3)]
    for sealed in waiting:
        pool.add_pending(sealed)
    assert list(pool.pending.values()) == waiting[3:]


def test_the_newest_wish_of_a_peer_counts() -> None:
    pool = Pool()
    join, leave = wish(0, 5), wish(0, 7, joins=False)
    pool.add_wish(leave)
    pool.add_wish(join)  # older: came late
    assert list(pool.newest_wishes(joins=False)) == [leave]
    assert list(pool.newest_wishes(joins=True)) == []


@pytest.mark.parametrize("first", ["join", "leave"])
def test_of_a_join_and_a_leave_of_one_round_the_leave_counts_whichever_came_first(
    first: str,
) -> None:
    pool = Pool()
    both = [wish(0, 5), wish(0, 5, joins=False)]
    for sealed in both if first == "join" else both[::-1]:
        pool.add_wish(sealed)
    assert list(pool.newest_wishes(joins=False)) == [wish(0, 5, joins=False)]
    assert list(pool.newest_wishes(joins=True)) == []
    pool.add_wish(wish(0, 6))  # who wants in after all says so in the next round
    assert list(pool.newest_wishes(joins=True)) == [wish(0, 6)]


def joining(number: int, round_: int) -> Sealed[Membership]:
    """A join by one of any number of peers; the signature does not matter here."""
    peer = number.to_bytes(32, "big")
    sealed = wish(0, round_)
    return replace(sealed, body=replace(sealed.body, peer=peer))


def test_joins_are_bounded_and_sorted_by_peer() -> None:
    pool = Pool()
    for number in range(JOINS_KEPT_MAX + 50):
        pool.add_wish(joining(number, 5))
    kept = list(pool.newest_wishes(joins=True))
    assert len(kept) == len(pool.lots) == JOINS_KEPT_MAX
    assert [w.body.peer for w in kept] == sorted(w.body.peer for w in kept)


def test_who_wants_in_and_out_again_takes_no_more_room() -> None:
    pool = Pool()
    for number in range(2 * JOINS_KEPT_MAX):
        join = joining(number, 5)
        pool.add_wish(join)
        if join.body.peer in pool.wishes:  # of others `receive` takes no leave
            pool.add_wish(replace(join, body=replace(join.body, joins=False)))
    assert len(pool.wishes) == len(pool.lots) <= JOINS_KEPT_MAX


def test_a_crowd_of_joins_keeps_none_out_for_long_nor_everywhere() -> None:
    """Whoever comes first or last, by its name or by its turn."""
    crowd, rounds, holders = 2 * JOINS_KEPT_MAX, range(5, 25), range(3)
    kept: dict[int, set[tuple[int, int]]] = {0: set(), crowd - 1: set()}
    for holder in holders:
        for round_ in rounds:
            pool = Pool(peer_name(holder))
            for number in range(crowd):
                pool.add_wish(joining(number, round_))
            for number, where in kept.items():
                if number.to_bytes(32, "big") in pool.wishes:
                    where.add((holder, round_))
    for where in kept.values():
        assert {holder for holder, _ in where} == set(holders)
        assert 20 < len(where) < 40  # a half of them, as chance has it


def test_rule_26_of_each_peer_the_newest_offence_is_kept_and_the_oldest_peer_makes_room() -> None:
    pool = Pool()
    for round_ in (5, 7, 6):
        pool.add_offence(make_offence(header(0, round_), header(0, round_, samples=9)))
    assert [o.round for o in pool.offences.values()] == [7]
    one, other = header(0, 5), header(0, 5, samples=9)
    for number in range(EVIDENCE_KEPT_MAX):
        pool.add_offence(Offence(number.to_bytes(32, "big"), 8, one, other))
    assert len(pool.offences) == EVIDENCE_KEPT_MAX
    assert header(0, 7).body.peer not in pool.offences
    pool.forget_offences(8)
    assert len(pool.offences) == EVIDENCE_KEPT_MAX
    pool.forget_offences(9)
    assert not pool.offences


def test_rounds_that_are_over_are_forgotten() -> None:
    pool = Pool()
    for round_ in range(10):
        pool.add_header(header(0, round_))
        pool.add_payloads(round_, (header(0, round_).body.payload_hash,))
        pool.add_wish(wish(round_, round_))
        pool.add_pending(proposal(0, round_, RUN_ID))
        pool.add_pending(proposal(1, round_, RUN_ID), [header(1, round_)])  # part of a chain
        pool.notices[round_, b""] = make_notice(proposal(0, round_, RUN_ID), RUN_ID)
        pool.repeated.add((round_, b""))
        pool.add_header(header(0, round_, samples=9))
        pool.fingerprint(round_)
    pool.forget_before(4, payload_round=2)
    assert set(pool.second) == set(pool.fingerprints) == set(range(4, 10))
    assert {h.body.round for h in pool.headers.values()} == set(pool.by_round) == set(range(4, 10))
    assert {w.body.round for w in pool.wishes.values()} == set(range(4, 10))
    assert {round_ for round_, _ in pool.notices} == set(range(4, 10))
    assert {round_ for round_, _ in pool.repeated} == set(range(4, 10))
    assert set(pool.payloads) == set(range(2, 10))
    assert set(pool.names) == set(range(4, 10))
    walked = {p.hash for p in pool.pending.values() if p.body.peer == peer_name(1)}
    assert {pool.pending[p].body.round for p in walked} == set(range(2, 10))
    assert {pool.pending[p].body.round for p in pool.pending.keys() - walked} == set(range(4, 10))
    assert pool.brought.keys() == walked


def test_a_payload_two_headers_share_is_held_for_each_until_its_round_is_over() -> None:
    pool = Pool()
    early = replace(header(0, 3).body, payload_hash=b"hash")
    late = replace(header(0, 7).body, payload_hash=b"hash")
    pool.add_payloads(3, (b"hash",))
    assert pool.is_held(early)
    assert not pool.is_held(late)  # it is asked for, and found on the disk: kept as one of round 7
    pool.add_payloads(7, (b"hash",))
    pool.forget_before(4, payload_round=4)
    assert not pool.is_held(early)
    assert pool.is_held(late)
    pool.drop_payload(b"hash")
    assert not pool.is_held(late)
