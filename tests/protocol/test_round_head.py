"""The head: settling, rollback from kept states, what was sent (rules 16, 18, 24 and 25)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo_node.sim.keys import peer_name
from demo_protocol.effects import (
    Announce,
    Apply,
    Effect,
    ForgetStates,
    HeadChanged,
    PullPayload,
    Release,
    Restore,
    Resync,
    Train,
)
from demo_protocol.errors import Ignore, Reject
from demo_protocol.events import GossipReceived, PayloadsLost, StartMoved, StatesLost, Tick
from demo_protocol.identity import Kind
from demo_protocol.limits import STATES_KEPT
from demo_protocol.messages import Header, Proposal, Sealed
from demo_protocol.roster import genesis_state
from tests.builders import RUN_ID, Tree, header, proposal, wish
from tests.protocol.stage import (
    CUT,
    SENDER,
    SETTLE,
    SLOT_0,
    TRAIN_END,
    Stage,
    announced_headers,
    digest_after,
    grown_tree,
    only,
    time_of,
)

# --- settling ------------------------------------------------------------------------------------


def test_a_record_of_the_running_round_is_applied_when_it_settles_and_not_before() -> None:
    tree, records = grown_tree(5)
    stage = Stage(tree, records[3], 9)
    stage.hear_all(records[4])
    sealed = tree.chain[records[4]].proposal
    assert sealed is not None
    assert not only(Apply, stage.hear(sealed, SLOT_0) + stage.tick(4, SETTLE - 1))
    (order,) = only(Apply, stage.tick(4, SETTLE))
    assert (order.record, order.parent, order.round) == (records[4], records[3], 4)
    assert stage.head == records[4]


def test_payloads_are_applied_in_the_order_of_the_header_hashes_without_heartbeats() -> None:
    tree, records = grown_tree(4)
    listed = [header(a, 4, vote=records[3]) for a in (0, 1, 2)] + [header(3, 4, k=0)]
    tree.headers.update({h.hash: h for h in listed})
    sealed = proposal(tree.ranked(records[3], 4)[0], 4, records[3], contributions=listed)
    record = tree.add(sealed).hash
    stage = Stage(tree, records[3], 9)
    stage.hear_all(record)
    stage.hear(sealed, SLOT_0)
    (order,) = only(Apply, stage.tick(4, SETTLE))
    by_hash = sorted(listed, key=lambda h: h.hash)
    assert list(order.payload_hashes) == [h.body.payload_hash for h in by_hash if h.body.k]


def test_rule_16_without_a_payload_a_node_stays_on_the_parent_and_trains() -> None:
    tree, records = grown_tree(5)
    stage = Stage(tree, records[3], 9)
    missing = tree.chain[records[4]].contributions[0]
    for sealed in tree.chain[records[4]].contributions:
        stage.hear(sealed, 2_000)
        if sealed is not missing:
            stage.hold(sealed, 2_000)
    sealed_proposal = tree.chain[records[4]].proposal
    assert sealed_proposal is not None
    pulls = only(PullPayload, stage.hear(sealed_proposal, SLOT_0))
    assert [p.payload_hash for p in pulls] == [missing.body.payload_hash]
    stage.tick(4, SETTLE)
    assert stage.head == records[3]
    assert [order.base for order in only(Train, stage.tick(5))] == [records[3]]
    # Somebody builds on it: it is asked for in every round, and when it comes the node follows.
    stage.hear(header(1, 5, k=0, vote=records[4]), 2_000)
    assert missing.body.payload_hash in {p.payload_hash for p in only(PullPayload, stage.tick(6))}
    stage.hold(missing, 100, round_=6)
    assert stage.head == records[4]


def test_the_head_only_moves_once_the_state_is_there() -> None:
    tree, records = grown_tree(6)
    stage = Stage(tree, records[3], 9)
    stage.tick(6)
    changes = only(HeadChanged, stage.give(records[4], records[5], round_=6))
    assert [(c.previous, c.head) for c in changes][-1][1] == records[5]
    assert stage.machine.view.digests[records[5]] == digest_after(records[5])
    assert [a.record for a in only(Apply, stage.effects)] == records[4:6]


# --- rollback ------------------------------------------------------------------------------------


def branched(depth: int) -> tuple[Stage, list[bytes], list[bytes]]:
    """Node 0 is `depth` records down a branch of its own; the others' branch is longer."""
    tree, records = grown_tree(4)
    own, others = [records[3]], [records[3]]
    for round_ in range(4, 4 + depth):
        own.append(tree.grow(own[-1], round_, [0], by=tree.ranked(own[-1], round_)[0]))
        by = tree.ranked(others[-1], round_)[1]
        others.append(tree.grow(others[-1], round_, [1, 2, 3], by=by))
    stage = Stage(tree, records[3], 0)
    for round_, record in enumerate(own[1:], start=4):
        stage.give(record, round_=round_ + 1)
    assert stage.head == own[-1]
    return stage, own, others


@pytest.mark.parametrize("depth", [1, 4, STATES_KEPT])
def test_rule_18_a_rollback_starts_from_a_kept_state(depth: int) -> None:
    stage, own, others = branched(depth)
    effects = stage.give(*others[1:], round_=5 + depth)
    for author in (1, 2, 3):
        effects += stage.hear(header(author, 5 + depth, k=0, vote=others[-1]), 2_000)
    assert stage.head == others[-1]
    changes = [c for c in only(HeadChanged, effects) if c.rolled_back]
    assert [(c.previous, c.rolled_back) for c in changes] == [(own[-1], depth)]
    assert not only(Resync, effects)
    assert [a.record for a in only(Apply, effects)] == others[1:]


def test_rule_25_a_rollback_deeper_than_kept_states_starts_from_a_snapshot() -> None:
    depth = STATES_KEPT + 1
    stage, _, others = branched(depth)
    effects = stage.give(*others[1:], round_=5 + depth)
    (resync,) = only(Resync, effects)
    assert stage.tree.chain.is_ancestor(others[1], resync.target)
    before = stage.head
    assert not only(Train, stage.tick(6 + depth))  # nothing is trained until it is loaded
    lost = StatesLost(time_of(6 + depth, 10), others[0], digest_after(others[0]))
    effects = stage.step(lost)
    assert stage.head == others[-1] != before
    assert [order.base for order in only(Train, effects)] == [others[-1]]


def test_states_no_rollback_can_need_are_forgotten() -> None:
    tree, records = grown_tree(20)
    stage = Stage(tree, records[0], 9)
    for round_, record in enumerate(records[1:], start=1):
        stage.give(record, round_=round_ + 1)
    forgotten = [r for e in only(ForgetStates, stage.effects) for r in e.records]
    assert forgotten == records[: -STATES_KEPT - 1]
    assert stage.machine.replica.states == set(records[-STATES_KEPT - 1 :])


def test_rule_25_what_is_older_than_every_kept_payload_is_forgotten_once_it_is_final() -> None:
    stage = Stage(Tree(), RUN_ID, 9)
    window = stage.tree.run.agreement.payload_window_rounds
    tree, everybody = stage.tree, range(3)
    record = tree.start(3)
    stage.give(record, round_=1)
    for round_ in range(1, window + 50):
        record = tree.grow(record, round_, everybody)
        stage.give(record, round_=round_ + 1)
    assert stage.head == record
    view = stage.machine.view
    # When round 250 began, the head was of round 248.
    assert view.chain.root.round == 248 - window - 1
    assert len(view.chain.records) == window + 3
    assert set(view.digests) == set(view.chain.records)
    assert len(view.pool.headers) <= 3 * (stage.tree.run.agreement.late_rounds + 2)


def test_rule_25_while_nothing_is_final_records_are_kept_for_forget_rounds() -> None:
    stage = Stage(Tree(), RUN_ID, 9)
    agreement = stage.tree.run.agreement
    tree = stage.tree
    record = tree.start(2)
    stage.give(record, round_=1)
    for round_ in range(1, agreement.forget_rounds + 50):
        record = tree.grow(record, round_, range(2))
        stage.give(record, round_=round_ + 1)
    assert stage.head == record
    view = stage.machine.view
    assert view.final is None
    assert view.chain.root.round == 448 - agreement.forget_rounds - 1


def test_rule_25_records_are_kept_back_to_the_final_one() -> None:
    """One half of a cut: since it began nothing was final."""
    stage = Stage(Tree(), RUN_ID, 9)
    window = stage.tree.run.agreement.payload_window_rounds
    tree, everybody = stage.tree, range(4)
    record = tree.start(4)
    stage.give(record, round_=1)
    for round_ in range(1, window + 150):
        half = tree.ranked(record, 0)[:2]
        record = tree.grow(record, round_, everybody if round_ < 100 else half)
        stage.give(record, round_=round_ + 1)
    view = stage.machine.view
    assert view.final is not None
    assert stage.head == record
    assert view.chain.root.record == view.final.record
    assert 90 < view.final.round < 100


def test_a_joiner_may_replay_more_records_than_are_kept() -> None:
    stage = Stage(Tree(), RUN_ID, 9)
    window = stage.tree.run.agreement.payload_window_rounds
    records = [stage.tree.start(1)]
    for round_ in range(1, window + 50):
        records.append(stage.tree.grow(records[-1], round_, [0]))
    stage.give(*records, round_=window + 50)
    assert stage.head == records[-1]
    stage.tick(window + 51)
    assert RUN_ID in stage.machine.view.chain  # nothing is final among so few


# --- payloads lost -------------------------------------------------------------------------------


def test_a_payload_the_disk_lost_is_pulled_again_before_anything_is_applied() -> None:
    tree, records = grown_tree(5)
    stage = Stage(tree, records[3], 9)
    stage.hear_all(records[4])
    sealed = tree.chain[records[4]].proposal
    assert sealed is not None
    stage.hear(sealed, SLOT_0)
    (order,) = only(Apply, stage.machine.step(Tick(time_of(4, SETTLE))))
    lost = tree.chain[records[4]].contributions[1]
    effects = stage.step(PayloadsLost(time_of(4, SETTLE + 5), (lost.body.payload_hash,)))
    assert [p.payload_hash for p in only(PullPayload, effects)] == [lost.body.payload_hash]
    assert not only(Apply, effects)
    assert only(Apply, stage.hold(lost, SETTLE + 50)) == [order]
    assert stage.head == records[4]


# --- rule 24 -------------------------------------------------------------------------------------


def sent(round_: int = 4) -> Stage:
    """The member of rank 1 has announced its contribution of round 4."""
    tree, records = grown_tree()
    stage = Stage(tree, records[-1], tree.ranked(records[-1], round_)[1])
    stage.tick(round_)
    stage.trained(round_)
    tree.headers |= stage.machine.view.pool.headers
    return stage


def record_of(stage: Stage, *, lists_mine: bool, above: bytes = b"") -> bytes:
    """A record of round 4 by rank 0, with or without what the node sent.

    Its name comes after `above`: of equals the one with the smaller name is followed.
    """
    tree, parent = stage.tree, stage.first
    mine = [h for h in tree.headers.values() if h.body.peer == peer_name(stage.me)]
    mine = [h for h in mine if h.body.round == 4 and h.hash in stage.machine.view.pool.headers]
    others = [header(a, 4, vote=parent) for a in range(4) if a != stage.me]
    tree.headers.update({h.hash: h for h in others})
    listed = others + (mine if lists_mine else [])
    for stranger in range(50, 100):
        sealed = proposal(
            tree.ranked(parent, 4)[0], 4, parent, contributions=listed, joins=[wish(stranger, 4)]
        )
        if sealed.hash > above:
            return tree.add(sealed).hash
    raise AssertionError("no such name")


def outcome(effects: list[Effect]) -> list[Effect]:
    return [e for e in effects if isinstance(e, Release | Restore)]


@pytest.mark.parametrize(("lists_mine", "effect"), [(True, Release(4)), (False, Restore(4))])
def test_rule_24_after_late_rounds_what_counted_is_released_and_the_rest_restored(
    lists_mine: bool, effect: Effect
) -> None:
    stage = sent()
    stage.give(record_of(stage, lists_mine=lists_mine), round_=5)
    assert stage.head != stage.first
    assert outcome([e for r in range(5, 11) for e in stage.tick(r)]) == []
    assert outcome(stage.tick(11)) == [effect]
    assert outcome([e for r in range(12, 30) for e in stage.tick(r)]) == []


def test_rule_24_what_was_listed_by_a_record_that_lost_is_restored() -> None:
    stage = sent()
    listing = record_of(stage, lists_mine=True)
    stage.give(listing, round_=5)
    assert stage.head == listing
    rival = record_of(stage, lists_mine=False, above=listing)
    votes = [header(a, 5, k=0, vote=rival) for a in range(4) if a != stage.me]
    stage.give(rival, round_=5)
    for vote in votes:
        stage.hear(vote, 2_000)
    assert stage.head == listing  # our own vote is not cast yet
    stage.tick(5, CUT)
    assert stage.head == rival
    assert outcome(stage.tick(11)) == [Restore(4)]


def test_rule_24_a_payload_credited_late_did_not_count() -> None:
    stage = sent()
    without = record_of(stage, lists_mine=False)
    (mine,) = [h for h in stage.machine.view.pool.of_round(4) if h.body.peer == peer_name(stage.me)]
    credited = stage.tree.grow(without, 5, [0, 1, 2, 3], late=[mine])
    stage.give(without, credited, round_=6)
    assert stage.head == credited
    assert outcome(stage.tick(11)) == [Restore(4)]


def test_rule_24_a_heartbeat_has_nothing_to_give_back() -> None:
    tree, records = grown_tree()
    stage = Stage(tree, records[-1], 0)
    stage.tick(4, TRAIN_END)
    assert outcome([e for r in range(5, 20) for e in stage.tick(r)]) == []


# --- whatever the order --------------------------------------------------------------------------


def arrivals(tree: Tree, parent: bytes) -> list[Sealed[Header] | Sealed[Proposal] | bytes]:
    """All of round 4: headers, payloads (by hash), two proposals, and late a vote or two."""
    headers = [header(a, 4, vote=parent) for a in range(4)]
    tree.headers.update({h.hash: h for h in headers})
    first, second = tree.ranked(parent, 4)[:2]
    proposals = [
        proposal(first, 4, parent, contributions=headers[:2]),
        proposal(second, 4, parent, contributions=headers),
    ]
    payloads = [h.body.payload_hash for h in headers]
    return [*headers, *proposals, *payloads]


@given(st.permutations(range(10)))
def test_the_head_does_not_depend_on_the_order_in_which_a_rounds_messages_came(
    order: list[int],
) -> None:
    tree, records = grown_tree()
    messages = arrivals(tree, records[-1])
    stage = Stage(tree, records[-1], 9)
    for place in order:
        message = messages[place]
        if isinstance(message, bytes):
            owner = next(h for h in tree.headers.values() if h.body.payload_hash == message)
            stage.hold(owner, CUT - 50)
        else:
            stage.hear(message, CUT - 50)
    stage.tick(4, SETTLE)
    covered = tree.ranked(records[-1], 4)[0]  # lists half of them, and has the lower rank
    winner = stage.machine.view.chain[stage.head].proposal
    assert winner is not None
    assert winner.body.peer == peer_name(covered)


@given(kind=st.sampled_from(list(Kind)), raw=st.binary(max_size=300), ms=st.integers(0, 2_999))
def test_garbage_is_refused_by_the_machine_which_stays_as_it_was(
    kind: Kind, raw: bytes, ms: int
) -> None:
    stage = Stage(Tree(), RUN_ID, 0)
    stage.tick(0)
    before = repr(stage.machine)
    with pytest.raises((Ignore, Reject)):
        stage.machine.step(GossipReceived(time_of(0, ms), kind, raw, SENDER))
    assert repr(stage.machine) == before


def test_nothing_is_trained_while_the_replay_to_the_head_waits_for_a_payload() -> None:
    tree, records = grown_tree()
    stage = Stage(tree, records[1], 9)
    stage.give(records[2], records[3], round_=4)
    lost = tree.chain[records[2]].contributions[0]
    stage.machine.step(StatesLost(time_of(5), records[1], digest_after(records[1])))
    stage.machine.step(PayloadsLost(time_of(5), (lost.body.payload_hash,)))
    assert not only(Train, stage.tick(5, 10) + stage.tick(6))
    effects = stage.hold(lost, 20, round_=6)
    assert [a.record for a in only(Apply, effects)] == records[2:4]
    assert [order.base for order in only(Train, effects)] == [records[3]]


def test_what_was_trained_from_a_state_left_behind_goes_back_into_the_residual() -> None:
    """Who runs out of samples is done early, perhaps after the chain was begun anew."""
    tree, records = grown_tree()
    stage = Stage(tree, records[-1], 0)
    assert only(Train, stage.tick(4))
    elsewhere = genesis_state(bytes(32))
    stage.step(StartMoved(time_of(4, 100), elsewhere, b"12345678"))
    effects = stage.trained(4, 200)
    assert only(Restore, effects) == [Restore(4)]
    assert not only(Announce, effects)
    (heartbeat,) = announced_headers(stage.tick(4, TRAIN_END))
    assert (heartbeat.base, heartbeat.k) == (elsewhere.record, 0)
