"""The order of things in a round: train, announce, propose (rules T1, T4, 4, 9, 10, 13)."""

import pytest

from demo_node.sim.keys import peer_name
from demo_protocol.effects import Announce, Effect, Persist, Restore, RoundEnded, Train
from demo_protocol.errors import LocalFault
from demo_protocol.events import StateApplied, StatesLost, Tick
from demo_protocol.identity import Kind
from demo_protocol.messages import decode_membership
from demo_protocol.round import Round
from demo_protocol.schedule import round_at
from tests.builders import MANIFEST, RUN_ID, Tree, header, view, wish
from tests.protocol.stage import (
    CUT,
    SETTLE,
    SLOT_0,
    SLOT_1,
    TRAIN_END,
    Stage,
    announced_headers,
    announced_proposals,
    digest_after,
    grown_tree,
    only,
    time_of,
)


def on_stage(rank: int = 0, *, round_: int = 4) -> Stage:
    """The member with this rank in round 4, after round 3."""
    tree, records = grown_tree()
    return Stage(tree, records[-1], tree.ranked(records[-1], round_)[rank])


def announcements(effects: list[Effect]) -> list[Kind]:
    return [e.kind for e in only(Announce, effects)]


# --- training ------------------------------------------------------------------------------------


def test_rule_t1_training_is_ordered_from_the_head_until_the_train_boundary() -> None:
    stage = on_stage()
    (order,) = only(Train, stage.tick(4))
    assert (order.round, order.base) == (4, stage.head)
    assert order.deadline_ms == time_of(4, TRAIN_END)
    assert order.probation_key == b""
    assert only(Train, stage.tick(4, 10)) == []  # once a round


def test_rule_t1_no_training_begins_at_the_boundary_or_before_the_genesis() -> None:
    assert only(Train, on_stage().tick(4, TRAIN_END)) == []
    early = Stage(Tree(), RUN_ID, 0)
    assert early.tick(-1) == []
    assert len(only(Train, early.tick(0))) == 1


def test_a_node_that_still_trains_is_not_told_to_train_again() -> None:
    stage = on_stage()
    stage.tick(4)
    assert only(Train, stage.tick(5)) == []
    assert only(Train, stage.trained(4, 100, at=5)) != []  # now it can


def test_rule_t5_a_stranger_trains_on_probation() -> None:
    tree, records = grown_tree()
    (order,) = only(Train, Stage(tree, records[-1], 9).tick(4))
    assert order.probation_key == peer_name(9)


# --- headers -------------------------------------------------------------------------------------


def test_rule_9_the_header_says_what_was_trained_and_votes_for_the_head_of_now() -> None:
    stage = on_stage()
    base = stage.head
    stage.tick(4)
    newer = stage.tree.grow(base, 4, range(4))
    stage.give(newer, round_=5)
    assert stage.head == newer
    (body,) = announced_headers(stage.trained(4, 100, at=5))
    assert (body.round, body.peer) == (4, peer_name(stage.me))
    assert (body.base, body.digest) == (base, digest_after(base))
    assert body.vote == newer
    assert (body.k, body.samples) == (2, 8)


def test_rule_10_what_is_signed_is_written_down_before_it_is_sent() -> None:
    stage = on_stage()
    stage.tick(4)
    effects = stage.trained(4) + stage.tick(4, SLOT_0)
    signed = [e for e in effects if isinstance(e, Persist | Announce)]
    assert [type(e) for e in signed] == [Persist, Announce, Persist, Announce]
    for persist, announce in zip(signed[::2], signed[1::2], strict=True):
        assert (persist.kind, persist.raw) == (announce.kind, announce.raw)
    assert [e.kind for e in signed[::2]] == [Kind.HEADER, Kind.PROPOSAL]


def test_rule_10_nothing_is_signed_again_for_rounds_signed_before_a_restart() -> None:
    before = on_stage()
    signed = {Kind.HEADER: 5, Kind.PROPOSAL: 5}
    stage = on_stage()
    stage.machine = Round(before.machine.view, signed_until=signed)
    others = [a for a in range(4) if a != stage.me]
    for round_ in (4, 5):
        effects = stage.tick(round_) + stage.tick(round_, TRAIN_END)
        for author in others:
            effects += stage.hear(header(author, round_, k=0, vote=stage.head), 2_000)
        effects += stage.tick(round_, SLOT_0) + stage.tick(round_, SLOT_1)
        assert not only(Train, effects)
        assert announcements(effects) == []
    effects = stage.tick(6) + stage.trained(6)
    assert announcements(effects) == [Kind.HEADER]


def test_rule_t4_who_has_nothing_to_send_announces_a_heartbeat_at_the_train_boundary() -> None:
    stage = on_stage()
    stage.machine.contributes = False
    assert announcements(stage.tick(4) + stage.tick(4, TRAIN_END - 1)) == []
    (body,) = announced_headers(stage.tick(4, TRAIN_END))
    assert (body.k, body.payload_bytes, body.payload_hash) == (0, 0, b"")
    assert body.vote == body.base == stage.head
    assert announcements(stage.tick(4, TRAIN_END + 5)) == []


def test_no_heartbeat_is_sent_while_this_rounds_training_lasts() -> None:
    stage = on_stage()
    stage.tick(4)
    assert announced_headers(stage.tick(4, SETTLE)) == []
    assert len(announced_headers(stage.trained(4, SETTLE + 10))) == 1


def test_a_training_that_lasts_into_the_next_round_is_announced_for_its_own() -> None:
    stage = on_stage()
    stage.tick(4)
    stage.tick(5)
    (body,) = announced_headers(stage.trained(4, 200, at=5))
    assert (body.round, body.k) == (4, 2)
    # Then the next round has a heartbeat, unless there is time to train.
    assert [h.round for h in announced_headers(stage.trained(5))] == [5]


def test_a_training_that_ends_after_its_rounds_header_was_replaced_is_restored() -> None:
    stage = on_stage()
    stage.tick(4)
    assert [h.round for h in announced_headers(stage.tick(5, TRAIN_END))] == [5]
    assert stage.trained(4, TRAIN_END + 200, at=5)[0] == Restore(4)


# --- proposals -----------------------------------------------------------------------------------


def test_rule_13_one_proposal_a_round_even_when_the_head_changes_in_it() -> None:
    stage = on_stage()
    stage.tick(4)
    stage.trained(4)
    (first,) = announced_proposals(stage.tick(4, SLOT_0))
    assert first.parent == stage.head
    sibling = stage.tree.grow(stage.tree.state(stage.head).parent, 3, [0, 1, 2])
    stage.give(sibling, round_=4, ms=SLOT_0 + 10)
    assert announced_proposals(stage.tick(4, SLOT_1) + stage.tick(4, SETTLE - 1)) == []


def test_our_own_proposal_is_a_record_and_our_head_at_settling() -> None:
    stage = on_stage()
    stage.tick(4)
    stage.trained(4)
    stage.tick(4, SLOT_0)
    before = stage.head
    stage.tick(4, SETTLE - 1)
    assert stage.head == before
    stage.tick(4, SETTLE)
    assert stage.machine.view.chain[stage.head].round == 4


def test_rule_17_the_cut_is_taken_once_at_its_time() -> None:
    stage = on_stage(1)
    others = [a for a in range(4) if a != stage.me]
    first, second = (header(a, 4, k=0, vote=stage.head) for a in others[:2])
    stage.tick(4)
    stage.hear(first, CUT - 10)
    stage.tick(4, CUT)
    stage.hear(second, CUT + 10)
    assert stage.machine.view.held_at_cut[4] == {first.hash}


# --- joining, leaving, stopping ------------------------------------------------------------------


def wishes(effects: list[Effect]) -> list[tuple[bool, int]]:
    found = [e for e in only(Announce, effects) if e.kind is Kind.MEMBERSHIP]
    bodies = [decode_membership(e.raw, RUN_ID).body for e in found]
    return [(body.joins, body.round) for body in bodies]


def test_rule_6_a_node_asks_to_join_every_round_until_the_chain_knows_it() -> None:
    tree, records = grown_tree()
    stage = Stage(tree, records[-1], 9)
    assert wishes(stage.tick(4)) == [(True, 4)]
    assert wishes(stage.tick(4, 500)) == []
    record = tree.grow(records[-1], 4, [*range(4), 9], joins=[9])
    stage.give(record, round_=5)
    assert stage.head == record
    assert wishes(stage.tick(6)) == []


def test_rule_7_a_leave_is_said_every_round_until_the_chain_knows_and_nothing_is_trained() -> None:
    stage = on_stage()
    stage.tick(4)
    assert wishes(stage.machine.leave()) == [(False, 4)]
    effects = stage.tick(5) + stage.tick(5, TRAIN_END) + stage.tick(5, SLOT_0)
    assert wishes(effects) == [(False, 5)]
    assert not only(Train, effects)
    assert announced_proposals(effects) == []
    left = stage.tree.grow(stage.head, 5, range(4), leaves=[stage.me])
    stage.give(left, round_=6)
    assert wishes(stage.tick(7)) == []


def test_from_its_stop_round_on_a_node_only_votes() -> None:
    stage = on_stage()
    stage.machine.stop_round = 4
    effects = stage.tick(4) + stage.tick(4, TRAIN_END) + stage.tick(4, SLOT_0)
    assert not only(Train, effects)
    assert announcements(effects) == [Kind.HEADER]


def test_while_syncing_nothing_is_signed() -> None:
    stage = on_stage()
    stage.machine.syncing = True
    effects = [e for ms in (0, TRAIN_END, SLOT_0, SLOT_1, SETTLE) for e in stage.tick(4, ms)]
    assert not only(Train, effects)
    assert announcements(effects) == []
    stage.machine.syncing = False
    assert only(Train, stage.tick(5)) != []


# --- time ----------------------------------------------------------------------------------------


def test_rule_4_a_clock_that_steps_back_signs_nothing_again_for_rounds_that_are_over() -> None:
    stage = on_stage()
    stage.tick(4)
    stage.trained(4)
    stage.tick(5)
    effects = stage.tick(4, 100) + stage.tick(4, TRAIN_END) + stage.tick(4, SLOT_0)
    assert announced_headers(effects) == []
    assert announced_proposals(effects) == []


def test_the_next_tick_is_due_at_the_next_boundary() -> None:
    machine = on_stage().machine
    due = [time_of(4)]
    while due[-1] < time_of(5):
        due.append(machine.next_wake_ms(due[-1]))
    assert [ms - time_of(4) for ms in due] == [
        0,
        TRAIN_END,
        CUT,
        SLOT_0,
        SLOT_1,
        SETTLE,
        3_000,
    ]
    assert machine.next_wake_ms(0) > 0
    assert round_at(MANIFEST.schedule, machine.next_wake_ms(time_of(-3, 2_999))) == -2


def test_the_end_of_a_round_is_said_once() -> None:
    stage = on_stage()
    stage.tick(4)
    assert stage.tick(5)[0] == RoundEnded(4)
    assert only(RoundEnded, stage.tick(5, 1)) == []
    assert only(RoundEnded, stage.tick(9)) == [RoundEnded(5)]


# --- states --------------------------------------------------------------------------------------


def test_a_state_nobody_asked_for_is_our_own_fault() -> None:
    stage = on_stage()
    with pytest.raises(LocalFault):
        stage.machine.step(StateApplied(time_of(4), b"x" * 32, bytes(8)))
    with pytest.raises(LocalFault):
        stage.machine.step(StatesLost(time_of(4), b"x" * 32, bytes(8)))


def test_after_the_trainer_died_the_head_is_replayed_before_anything_is_trained() -> None:
    tree, records = grown_tree()
    stage = Stage(tree, records[1], 0)
    stage.give(records[2], records[3], round_=4)
    assert stage.head == records[3]
    lost = StatesLost(time_of(5), records[1], digest_after(records[1]))
    assert not only(Train, stage.machine.step(lost))
    assert stage.machine.replica.applying == records[2]
    for record in records[2:4]:
        assert stage.machine.replica.applying == record
        effects = stage.machine.step(StateApplied(time_of(5), record, digest_after(record)))
    assert [order.base for order in only(Train, effects)] == [records[3]]
    assert stage.head == records[3]


def test_rule_14_every_contributor_proposes_in_the_first_round() -> None:
    stage = Stage(Tree(), RUN_ID, 0)
    stage.tick(0)
    stage.hear(wish(1), 10)
    stage.hear(header(1), 2_000)
    stage.hold(header(1), 2_010)
    stage.trained(0)
    (body,) = announced_proposals(stage.tick(0, SLOT_0))
    assert (len(body.contributions), len(body.joins)) == (2, 2)
    stage.tick(0, SETTLE)
    assert stage.machine.view.chain[stage.head].members == {peer_name(0), peer_name(1)}


def test_before_the_genesis_a_node_only_listens() -> None:
    stage = Stage(Tree(), RUN_ID, 0)
    assert stage.step(Tick(0)) == []
    assert stage.hear(wish(1), -50) == []  # a little early, as clocks are
    assert view().head == stage.head
