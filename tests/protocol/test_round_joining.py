"""A round machine that joins: before its parameters are here, when it is level, as an archive."""

from demo_protocol.effects import Announce, Apply, Train
from demo_protocol.events import StatesLost
from demo_protocol.identity import Kind
from tests.protocol.stage import (
    SETTLE,
    SLOT_0,
    TRAIN_END,
    Stage,
    announced_headers,
    announced_proposals,
    digest_after,
    grown_tree,
    only,
    time_of,
)


def test_while_the_first_state_is_on_its_way_the_run_is_followed_and_nothing_applied() -> None:
    tree, records = grown_tree(rounds=6)
    stage = Stage(tree, records[1], me=9)
    stage.machine.syncing = True
    stage.machine.replica.wait_for_state()
    stage.tick(4)
    stage.give(*records[2:5], round_=4, ms=SETTLE)
    stage.tick(5)
    stage.hear_all(records[5])
    stage.give(records[5], round_=5, ms=SETTLE)
    view = stage.machine.view
    assert all(record in view.chain and view.is_usable(record) for record in records[2:])
    assert not only(Apply, stage.effects)
    assert stage.head == records[1]
    stage.step(StatesLost(time_of(5, SETTLE + 10), records[1], digest_after(records[1])))
    assert [a.record for a in only(Apply, stage.effects)] == records[2:]
    assert stage.head == records[-1]


def test_who_has_become_level_asks_to_be_let_in_at_once_and_trains_from_the_next_round() -> None:
    tree, records = grown_tree(rounds=6)
    stage = Stage(tree, records[-1], me=9)
    stage.machine.syncing = True
    stage.tick(6, TRAIN_END)
    assert not only(Announce, stage.effects)
    effects = stage.machine.take_part()
    assert [effect.kind for effect in only(Announce, effects)] == [Kind.MEMBERSHIP]
    stage.tick(7)
    assert [order.round for order in only(Train, stage.effects)] == [7]


def test_an_archive_follows_the_run_and_signs_nothing() -> None:
    tree, records = grown_tree(rounds=8)
    stage = Stage(tree, records[5], me=0)  # a member's key: it might vote and propose
    stage.machine.observes = True
    stage.machine.contributes = False
    assert not stage.machine.take_part()
    for round_ in (6, 7):
        for ms in (0, TRAIN_END, SLOT_0):
            stage.tick(round_, ms)
        stage.hear_all(records[round_])
        stage.give(records[round_], round_=round_, ms=SETTLE)
    stage.tick(8)
    assert stage.head == records[-1]
    assert not announced_headers(stage.effects)
    assert not announced_proposals(stage.effects)
    assert not only(Announce, stage.effects)
    assert not stage.machine.leave()
