"""Contributor sortition: whose turn it is, as a function of a record; nobody else is heard."""

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import pytest

from demo_node.sim.keys import cheap_sign, peer_name
from demo_protocol.answers import decode_chain_state, encode_chain_state
from demo_protocol.assignment import compute_draw
from demo_protocol.effects import Announce, Restore, Train
from demo_protocol.errors import Ignore, Reject
from demo_protocol.events import Tick
from demo_protocol.forkchoice import Votes, choose_head
from demo_protocol.identity import Kind
from demo_protocol.manifest import Agreement
from demo_protocol.messages import Membership, Sealed, decode_membership, seal_membership
from demo_protocol.propose import make_proposal
from demo_protocol.roster import (
    CANDIDATES_DRAWN,
    DUE_ROUNDS,
    TURN,
    ChainState,
    Member,
    compute_interval,
    compute_rank,
    compute_slot,
    get_candidates,
    get_committee,
    get_contributors,
    get_member_names,
    get_voters,
    was_due,
)
from demo_protocol.round import Round
from demo_protocol.validate import is_wish_usable
from tests.builders import Tree, header, manifest, proposal, run_id_of, view
from tests.protocol.stage import SLOT_0, TRAIN_END, Stage, announced_headers, only, time_of

C = 3
RUN = manifest(agreement=Agreement(contributors=C, expire_rounds=5, forget_rounds=200))
AGREEMENT = RUN.agreement
USUAL = manifest(agreement=Agreement(contributors=C))
NUMBERS = {peer_name(n): n for n in range(64)}


def drawn(tree: Tree, parent: bytes, round_: int) -> list[int]:
    """Who contributes in a round on top of a record."""
    due = get_contributors(tree.state(parent), round_, tree.run.agreement)
    assert due is not None
    return sorted(NUMBERS[peer] for peer in due)


def grow(
    tree: Tree, record: bytes, rounds: Iterable[int], *, silent: Iterable[int] = ()
) -> list[bytes]:
    """A record for each of these rounds; all whose turn it is contribute, the silent not."""
    records = [record]
    for round_ in rounds:
        heard = [n for n in drawn(tree, records[-1], round_) if n not in silent]
        if heard:
            records.append(tree.grow(records[-1], round_, heard))
    return records[1:]


def crowd(members: int, candidates: int = 0, run: Agreement = AGREEMENT) -> ChainState:
    """A state with so many members, and candidates."""
    known = {}
    for number in range(members + candidates):
        peer = number.to_bytes(32, "big")
        known[peer] = Member(
            peer=peer,
            key=bytes(31) + peer,
            admitted_by=b"r" * 32 if number < members else b"",
            since_round=0,
            credited_round=9,
            credited_turns=10 * TURN,
            included=3,
            left=False,
            samples=(),
            member_round=9 if number < members else -2,
        )
    return ChainState(
        record=b"r" * 32,
        parent=b"p" * 32,
        round=9,
        height=10,
        cursor=0,
        known=known,
        credits=frozenset(),
        turns=10 * TURN,
    )


# --- who is drawn --------------------------------------------------------------------------------


def test_the_first_c_members_by_the_hash_of_their_key_and_the_round_contribute() -> None:
    tree = Tree(RUN)
    record = tree.start(8)
    keys = {n: tree.member(record, n).key for n in range(8)}
    for round_ in range(1, 30):
        expected = sorted(range(8), key=lambda n: compute_draw(b"c", keys[n], round_))[:C]
        assert drawn(tree, record, round_) == sorted(expected)


def test_draws_are_fair_and_differ_from_round_to_round() -> None:
    state = crowd(40)
    turns = Counter(
        peer for r in range(10, 410) for peer in get_contributors(state, r, AGREEMENT) or ()
    )
    assert len(turns) == 40
    assert 400 * C / 40 / 2 < min(turns.values()) <= max(turns.values()) < 400 * C / 40 * 2


def test_nothing_a_proposer_writes_moves_the_draw() -> None:
    tree = Tree(RUN)
    parent = tree.start(8)
    first, second = tree.ranked(parent, 1)[:2]
    due = drawn(tree, parent, 1)
    siblings = [
        tree.grow(parent, 1, due, by=first),
        tree.grow(parent, 1, due[:2], by=first),
        tree.grow(parent, 1, due, by=second),
    ]
    for round_ in range(2, 20):
        assert len({tuple(drawn(tree, sibling, round_)) for sibling in siblings}) == 1


def test_some_candidates_contribute_beside_the_members_and_no_more_than_four() -> None:
    state = crowd(10, candidates=7)
    members = get_member_names(state, AGREEMENT)
    seen: set[bytes] = set()
    for round_ in range(10, 40):
        due = get_contributors(state, round_, AGREEMENT)
        assert due is not None
        assert len(due & members) == C
        assert len(due - members) == CANDIDATES_DRAWN
        seen |= due - members
    assert len(seen) == 7  # so that all of them get through probation


def test_where_members_are_few_all_of_them_contribute() -> None:
    state = crowd(C)
    assert get_contributors(state, 10, AGREEMENT) == get_member_names(state, AGREEMENT)


def test_zero_contributors_and_a_parent_without_members_leave_it_to_everybody() -> None:
    assert get_contributors(crowd(40), 10, Agreement(contributors=0)) is None
    tree = Tree(RUN)
    assert get_contributors(tree.state(tree.genesis), 0, AGREEMENT) is None


def test_ten_thousand_members_are_cheap() -> None:
    """Everything that sorts or hashes all of them is done once for a record and round."""
    state = crowd(10_000)
    begin_s = time.process_time()
    for round_ in (10, 11):
        for number in range(2_000):
            peer = number.to_bytes(32, "big")
            was_due(state, peer, round_, AGREEMENT)
            compute_slot(state, peer, round_, AGREEMENT)
            compute_interval(state, peer, round_, RUN)
            get_voters(state, AGREEMENT)
    # One pass over all members takes some 30 ms; 4,000 of them would take minutes.
    assert time.process_time() - begin_s < 5


def test_a_rank_beyond_all_slots_is_still_told_and_its_slot_is_none() -> None:
    state = crowd(100)
    ranks = {p: compute_rank(state, p, 10, AGREEMENT) for p in state.known}
    assert sorted(r for r in ranks.values() if r is not None) == list(range(100))
    for peer, rank in ranks.items():
        assert rank is not None
        assert compute_slot(state, peer, 10, AGREEMENT) == (rank if rank < 16 else None)


# --- what a record may list ----------------------------------------------------------------------


def outsider(tree: Tree, parent: bytes, round_: int, members: int = 8) -> int:
    """A member whose turn it is not."""
    return next(n for n in range(members) if n not in drawn(tree, parent, round_))


def test_a_record_lists_contributions_of_its_parents_contributors_only() -> None:
    tree = Tree(RUN)
    record = tree.start(8)
    due = drawn(tree, record, 1)
    tree.grow(record, 1, due)
    with pytest.raises(Reject, match="whose turn it is not"):
        tree.grow(record, 1, [*due, outsider(tree, record, 1)])


def test_a_join_and_its_first_contribution_do_not_stand_in_one_record() -> None:
    tree = Tree(RUN)
    record = grow(tree, tree.start(8), range(1, 5))[-1]
    with pytest.raises(Reject, match="whose turn it is not"):
        tree.grow(record, 5, [*drawn(tree, record, 5), 9], joins=[9])
    record = tree.grow(record, 5, drawn(tree, record, 5), joins=[9])
    assert 9 in drawn(tree, record, 6)


def test_late_headers_are_of_those_whose_turn_it_was_in_their_round() -> None:
    """By the chain of that round: the record before it, not the one they are listed on."""
    tree = Tree(RUN)
    record = tree.start(8)
    due = drawn(tree, record, 1)
    after = tree.grow(record, 1, due[:2])
    late = header(due[2], 1, run=RUN)
    tree.grow(after, 2, drawn(tree, after, 2), late=[late])
    stranger = header(outsider(tree, record, 1), 1, run=RUN)
    with pytest.raises(Reject, match="whose turn it was not"):
        tree.grow(after, 2, drawn(tree, after, 2), late=[stranger])


def test_late_headers_of_a_round_without_a_record_are_judged_by_the_record_before() -> None:
    tree = Tree(RUN)
    record = tree.start(8)
    due = drawn(tree, record, 1)
    tree.grow(record, 2, drawn(tree, record, 2), late=[header(due[0], 1, run=RUN)])
    stranger = header(outsider(tree, record, 1), 1, run=RUN)
    with pytest.raises(Reject, match="whose turn it was not"):
        tree.grow(record, 2, drawn(tree, record, 2), late=[stranger])


def test_whose_turn_it_was_is_remembered_for_as_long_as_it_is_asked() -> None:
    tree = Tree(RUN)
    records = grow(tree, tree.start(8), range(1, 30))
    state = tree.state(records[-1])
    assert sorted(state.due) == list(range(29 - DUE_ROUNDS + 1, 30))
    for step in (tree.chain[r] for r in records[-DUE_ROUNDS:]):
        assert state.due[step.round] == get_contributors(
            tree.state(step.parent), step.round, AGREEMENT
        )
    assert decode_chain_state(encode_chain_state(state)) == state  # a joiner judges alike


# --- membership ----------------------------------------------------------------------------------


def test_rule_7_expiry_counts_a_members_own_turns() -> None:
    """8 members, 3 a round: twenty turns take 53 rounds and a third, whoever is drawn when."""
    tree = Tree(USUAL)
    records = grow(tree, tree.start(8), range(1, 100), silent=[7])
    assert tree.state(records[0]).turns == TURN + TURN * C // 8
    for record in records:
        turns = tree.state(record).turns - TURN  # 7 was credited in round 0
        assert (peer_name(7) in tree.members(record)) == (turns < 20 * TURN)
    gone = next(r for r in records if peer_name(7) not in tree.members(r))
    assert tree.state(gone).round == 54
    assert {peer_name(n) for n in range(7)} <= tree.members(records[-1])


def test_a_member_that_expired_is_drawn_like_a_candidate_and_so_comes_back() -> None:
    tree = Tree(USUAL)
    records = grow(tree, tree.start(8), range(1, 60), silent=[7])
    assert peer_name(7) not in tree.members(records[-1])
    assert 7 in drawn(tree, records[-1], 60)
    assert peer_name(7) in tree.members(grow(tree, records[-1], [60])[0])


def test_who_expired_long_ago_is_forgotten_and_joins_again() -> None:
    tree = Tree(RUN)
    forgotten = RUN.agreement.forget_rounds + 60
    record = grow(tree, tree.start(8), range(1, forgotten), silent=[7])[-1]
    assert peer_name(7) not in tree.state(record).known
    again = tree.grow(record, forgotten, drawn(tree, record, forgotten), joins=[7])
    assert any(7 in drawn(tree, again, forgotten + later) for later in range(1, 20))
    assert tree.member(again, 7).admitted_by == b""


def test_rule_7_that_a_swarm_shrinks_expires_nobody_sooner() -> None:
    """Were turns told from today's members alone, those not drawn lately would all be gone."""
    tree = Tree(RUN)
    record = tree.start(30)
    record = grow(tree, record, range(1, 30))[-1]
    staying = tree.members(record)
    leaves = [n for n in range(30) if n % 6 and peer_name(n) in staying]
    record = tree.grow(record, 30, drawn(tree, record, 30), leaves=leaves)
    rest = {peer_name(n) for n in range(0, 30, 6)} & staying
    assert tree.members(record) == rest
    assert len(rest) >= 4


def test_a_candidate_gets_through_probation_by_its_own_turns() -> None:
    tree = Tree(RUN)
    record = grow(tree, tree.start(8), range(1, 5))[-1]
    record = tree.grow(record, 5, drawn(tree, record, 5), joins=[9])
    records = grow(tree, record, range(6, 9))
    assert [tree.member(r, 9).included for r in records] == [1, 2, 3]
    assert peer_name(9) in tree.members(records[-1])


def test_rule_t5_the_cursor_moves_by_the_intervals_of_those_whose_turn_it_is() -> None:
    tree = Tree(RUN)
    record = grow(tree, tree.start(8), range(1, 6))[-1]
    state = tree.state(record)
    due = drawn(tree, record, 6)
    dealt = [compute_interval(state, peer_name(n), 6, RUN) for n in due]
    assert {key for _, key in dealt} == {b""}
    numbers = sorted(n for i, _ in dealt for n in range(i.first, i.first + i.count))
    assert numbers == list(range(state.cursor, state.cursor + len(numbers)))
    child = tree.grow(record, 6, due)
    assert tree.state(child).cursor == state.cursor + len(numbers)
    _, key = compute_interval(state, peer_name(outsider(tree, record, 6)), 6, RUN)
    assert key  # it trains on samples of its own, as on probation


# --- rule 19 -------------------------------------------------------------------------------------


def test_rule_19_the_committee_is_whoever_was_due_in_the_last_eight_rounds() -> None:
    tree = Tree(RUN)
    records = grow(tree, tree.start(30), range(1, 12))
    state = tree.state(records[-1])
    expected = {
        peer_name(n)
        for r in range(4, 12)
        for n in drawn(tree, tree.chain[records[r - 1]].parent, r)
    }
    committee = get_committee(state, AGREEMENT)
    assert committee.peers == expected
    assert committee.size == len(expected) < len(get_voters(state, AGREEMENT))


def test_rule_19_voters_beyond_a_cut_count_though_nobody_draws_them_any_more() -> None:
    """A side that the others have expired on would else be final alone."""
    tree = Tree(RUN)
    records = grow(tree, tree.start(30), range(1, 90), silent=range(12, 30))
    state = tree.state(records[-1])
    assert get_member_names(state, AGREEMENT) == {peer_name(n) for n in range(12)}
    assert len(get_voters(state, AGREEMENT)) == 30
    committee = get_committee(state, AGREEMENT)
    assert len(committee.peers) <= 12
    assert committee.size == -(-len(committee.peers) * 30 // 12)
    assert 3 * len(committee.peers) < 2 * committee.size


def test_rule_19_where_everybody_contributes_the_committee_is_all_voters() -> None:
    tree = Tree(manifest(agreement=Agreement(contributors=0)))
    record = tree.grow(tree.start(4), 1, range(4))
    voters = get_voters(tree.state(record), tree.run.agreement)
    committee = get_committee(tree.state(record), tree.run.agreement)
    assert (committee.peers, committee.size) == (voters, 4)


# --- what a node does ----------------------------------------------------------------------------


@pytest.mark.parametrize("is_due", [True, False])
def test_who_has_no_turn_trains_and_sends_no_header_at_all(is_due: bool) -> None:
    tree = Tree(RUN)
    record = tree.start(8)
    me = drawn(tree, record, 1)[0] if is_due else outsider(tree, record, 1)
    stage = Stage(tree, record, me)
    (order,) = only(Train, stage.tick(1))
    assert order.sends == is_due
    assert (order.probation_key == b"") == is_due
    effects = stage.trained(1)
    assert bool(announced_headers(effects)) == is_due
    assert bool(only(Restore, effects)) != is_due
    assert not announced_headers(stage.tick(1, TRAIN_END + 100))


def test_who_has_no_turn_sends_no_heartbeat_either() -> None:
    tree = Tree(RUN)
    record = tree.start(8)
    for number in range(8):
        stage = Stage(tree, record, number)
        stage.machine.paused = True
        beats = announced_headers(stage.tick(1, TRAIN_END + 1))
        assert bool(beats) == (number in drawn(tree, record, 1))


def test_a_header_out_of_turn_is_ignored_where_its_vote_is_known_and_heard_where_not() -> None:
    tree = Tree(RUN)
    record = tree.start(8)
    stage = Stage(tree, record, drawn(tree, record, 1)[0])
    stranger = outsider(tree, record, 1)
    with pytest.raises(Ignore, match="no turn"):
        stage.hear(header(stranger, 1, run=RUN, vote=record), TRAIN_END)
    stage.hear(header(stranger, 1, run=RUN, vote=b"?" * 32), TRAIN_END)
    other = drawn(tree, record, 1)[1]
    stage.hear(header(other, 1, run=RUN, vote=record), TRAIN_END)


def test_a_proposal_lists_those_whose_turn_it_was_and_no_others() -> None:
    tree = Tree(RUN)
    record = tree.start(8)
    due = drawn(tree, record, 1)
    proposer = tree.ranked(record, 1)[0]
    believed = view(RUN, proposer, tree.state(record))
    believed.round = 1
    for number in range(8):
        sealed = header(number, 1, run=RUN, vote=record)
        believed.pool.add_header(sealed)
        believed.pool.add_payload(sealed.body.payload_hash, 1)
    made = make_proposal(believed, time_of(1, SLOT_0))
    assert made is not None
    listed = {believed.pool.headers[h].body.peer for h in made.body.contributions}
    assert listed == {peer_name(n) for n in due}


def test_rule_17_coverage_asks_for_those_whose_turn_it_was() -> None:
    tree = Tree(RUN)
    record = tree.start(8)
    due = drawn(tree, record, 1)
    child = tree.chain[tree.grow(record, 1, due[:2])]
    believed = view(RUN, 0, tree.state(record))
    held = [header(n, 1, run=RUN, vote=record) for n in range(8)]
    for sealed in held:
        believed.pool.add_header(sealed)
    believed.held_at_cut[1] = frozenset(h.hash for h in held)
    assert believed.is_covered(child)  # two of three; of all eight it would be a quarter
    lesser = tree.chain[tree.grow(record, 1, due[:1])]
    assert not believed.is_covered(lesser)


@pytest.mark.parametrize(("staying", "stays"), [(1, False), (2, True)])
def test_rule_18_most_of_one_rounds_contributors_are_enough_to_stay(
    staying: int, stays: bool
) -> None:
    """Of twenty members three are heard of in a round: ten cannot have spoken yet."""
    tree = Tree(RUN)
    parent = tree.start(20)
    child = tree.grow(parent, 1, drawn(tree, parent, 1))
    votes = Votes()
    for number in drawn(tree, parent, 2)[:staying]:
        votes.add(peer_name(number), 2, parent)
    chosen = choose_head(tree.chain, parent, votes, usable=lambda _: True, covered=lambda _: True)
    assert chosen == (parent if stays else child)


def test_a_state_asked_by_another_manifest_answers_by_that_one() -> None:
    state = crowd(40)
    assert len(get_contributors(state, 10, AGREEMENT) or ()) == C
    wider = replace(AGREEMENT, contributors=9)
    assert len(get_contributors(state, 10, wider) or ()) == 9


# --- who is never drawn --------------------------------------------------------------------------


def never_drawn(author: int, round_: int, *, is_never: bool = True) -> Sealed[Membership]:
    peer = peer_name(author)
    wished = Membership(joins=True, peer=peer, round=round_, never_drawn=is_never)
    return seal_membership(wished, run_id_of(RUN), cheap_sign(peer))


def test_who_says_so_in_its_join_is_never_drawn_and_no_candidate() -> None:
    tree = Tree(RUN)
    parent = grow(tree, tree.start(8), range(1, 5))[-1]
    due = [header(n, 5, run=RUN, vote=parent) for n in drawn(tree, parent, 5)]
    tree.headers.update({h.hash: h for h in due})
    by = tree.ranked(parent, 5)[0]
    joins = [never_drawn(9, 5)]
    record = tree.add(proposal(by, 5, parent, run=RUN, contributions=due, joins=joins)).hash
    assert tree.member(record, 9).never_drawn
    assert peer_name(9) not in get_candidates(tree.state(record))
    assert not any(9 in drawn(tree, record, r) for r in range(6, 60))
    state = tree.state(record)
    assert decode_chain_state(encode_chain_state(state)) == state
    # It may think better of it, and a member may find that it cannot any more.
    assert is_wish_usable(never_drawn(9, 6, is_never=False).body, state, 6, 6)
    assert not is_wish_usable(never_drawn(9, 6).body, state, 6, 6)
    assert is_wish_usable(never_drawn(1, 6).body, state, 6, 6)


def test_even_in_a_young_run_it_becomes_no_member() -> None:
    tree = Tree(RUN)
    record = tree.start(3)
    due = [header(n, 1, run=RUN, vote=record) for n in range(3)]
    tree.headers.update({h.hash: h for h in due})
    made = proposal(
        tree.ranked(record, 1)[0], 1, record, run=RUN, contributions=due, joins=[never_drawn(9, 1)]
    )
    assert peer_name(9) not in tree.members(tree.add(made).hash)


def test_a_leave_does_not_say_how_its_author_joins() -> None:
    peer = peer_name(1)
    odd = Membership(joins=False, peer=peer, round=1, never_drawn=True)
    sealed = seal_membership(odd, run_id_of(RUN), cheap_sign(peer))
    with pytest.raises(Reject, match="a leave that says"):
        decode_membership(sealed.raw, run_id_of(RUN))


@pytest.mark.parametrize(("contributors", "says_so"), [(C, True), (0, False)])
def test_a_node_that_does_not_train_says_so_where_contributors_are_drawn(
    contributors: int, says_so: bool
) -> None:
    """Where everybody contributes in every round, its heartbeats make it a member."""
    run = manifest(agreement=Agreement(contributors=contributors))
    believed = view(run, me=5)
    machine = Round(believed, contributes=False)
    wishes = [
        decode_membership(e.raw, believed.run_id).body
        for e in only(Announce, machine.step(Tick(time_of(0))))
        if e.kind is Kind.MEMBERSHIP
    ]
    assert [w.never_drawn for w in wishes] == [says_so]
