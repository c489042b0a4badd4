"""overlap_rounds 1: a round is exchanged and applied while the next one trains (T1, T2, T5)."""

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demo_node.sim.keys import peer_name
from demo_protocol.effects import Apply, Effect, HeadChanged, Restore, Train
from demo_protocol.events import Tick
from demo_protocol.forkchoice import Votes, choose_head
from demo_protocol.manifest import Agreement
from demo_protocol.roster import compute_interval, get_contributors
from demo_protocol.schedule import train_end_ms
from tests.builders import MANIFEST, Tree, manifest
from tests.protocol.stage import SETTLE, SLOT_0, TRAIN_END, Stage, announced_headers, only, time_of

RUN = manifest(agreement=Agreement(overlap_rounds=1, contributors=0))
DRAWN = manifest(agreement=Agreement(overlap_rounds=1, contributors=3))


def grow(tree: Tree, record: bytes, rounds: Iterable[int]) -> list[bytes]:
    """A record for each of these rounds, by all members or by those whose turn it is."""
    records = [record]
    numbers = {peer_name(n): n for n in range(20)}
    for round_ in rounds:
        due = get_contributors(tree.state(records[-1]), round_, tree.run.agreement)
        names = tree.members(records[-1]) if due is None else due
        records.append(tree.grow(records[-1], round_, sorted(numbers[n] for n in names)))
    return records


def orders(effects: list[Effect]) -> list[tuple[int, bytes, int]]:
    """(round, base, deadline) of what was ordered."""
    return [(e.round, e.base, e.deadline_ms) for e in only(Train, effects)]


def staged(rounds: int = 4) -> tuple[Stage, Tree, list[bytes]]:
    """Where it matters: the stage's node is the first that may propose in round `rounds`."""
    tree = Tree(RUN)
    records = grow(tree, tree.start(4), range(1, rounds))
    return Stage(tree, records[-1], tree.ranked(records[-1], rounds)[0]), tree, records


def test_rule_t1_the_next_rounds_training_begins_at_the_train_boundary() -> None:
    stage, _, records = staged()
    end_ms = train_end_ms(MANIFEST.schedule, 5)
    assert orders(stage.tick(4)) == [(4, records[-1], train_end_ms(MANIFEST.schedule, 4))]
    effects = stage.trained(4)
    assert [h.round for h in announced_headers(effects)] == [4]
    assert orders(effects) == [(5, records[-1], end_ms)]
    assert orders(stage.tick(4, SETTLE)) == []
    assert orders(stage.tick(5)) == []


def test_rule_t2_who_runs_out_of_samples_idles_until_the_boundary() -> None:
    stage, _, _ = staged()
    stage.tick(4)
    early = stage.trained(4, TRAIN_END - 500)
    assert announced_headers(early)
    assert orders(early) == []
    assert [o[0] for o in orders(stage.tick(4, TRAIN_END))] == [5]


def test_a_record_is_applied_on_the_side_and_the_round_after_the_next_trains_from_it() -> None:
    stage, tree, records = staged()
    stage.tick(4)
    stage.trained(4)
    stage.hear_all(grow(tree, records[-1], [4])[-1])
    stage.tick(4, SLOT_0)
    effects = stage.tick(4, SETTLE)
    assert only(Apply, effects)
    assert only(HeadChanged, effects)
    record = stage.head
    assert record != records[-1]
    assert stage.machine.training == 5
    effects = stage.trained(5)
    (announced,) = announced_headers(effects)
    assert (announced.round, announced.base, announced.vote) == (5, records[-1], record)
    assert [o[:2] for o in orders(effects)] == [(6, record)]


def test_training_does_not_wait_for_what_is_being_applied() -> None:
    stage, tree, records = staged()
    stage.tick(4)
    stage.trained(4)
    machine = stage.machine
    stage.hear_all(grow(tree, records[-1], [4])[-1])
    stage.tick(4, SLOT_0)
    assert only(Apply, machine.step(Tick(time_of(4, SETTLE))))
    assert machine.replica.applying is not None  # on a slow machine, still a round later
    assert [o[:2] for o in orders(stage.trained(5))] == [(6, records[-1])]


def test_a_node_that_comes_within_a_round_trains_what_is_left_of_it() -> None:
    stage, _, _ = staged()
    assert [o[0] for o in orders(stage.tick(4, 900))] == [4]
    stage, _, _ = staged()
    assert [o[0] for o in orders(stage.tick(4, TRAIN_END))] == [5]


def test_no_training_is_ordered_for_a_round_after_the_last() -> None:
    stage, _, _ = staged()
    stage.machine.stop_round = 5
    stage.tick(4)
    assert orders(stage.trained(4)) == []


def test_rule_24_two_rounds_in_flight_are_settled_each_by_itself() -> None:
    """Each after its own late rounds, whatever became of the other."""
    stage, _, _ = staged()
    stage.tick(4)
    stage.trained(4)
    stage.tick(5)
    stage.trained(5)
    assert sorted(stage.machine.sent.headers) == [4, 5]
    late_rounds = RUN.agreement.late_rounds
    effects = stage.tick(5 + late_rounds)
    assert [e.round for e in only(Restore, effects)] == [4]
    assert sorted(stage.machine.sent.headers) == [5]


@pytest.mark.parametrize(("voted_in", "stays"), [(2, False), (3, True)])
def test_rule_18_a_vote_of_the_next_round_does_not_leave_a_child_that_is_still_applied(
    voted_in: int, stays: bool
) -> None:
    tree = Tree(RUN)
    parent = tree.start(4)
    child = tree.grow(parent, 1, range(4))
    votes = Votes()
    for number in range(4):
        votes.add(peer_name(number), voted_in, parent)
    chosen = choose_head(tree.chain, parent, votes, usable=lambda _: True, covered=lambda _: True)
    assert chosen == (parent if stays else child)


# --- T5: nothing is dealt twice on one chain -----------------------------------------------------


def dealt_on(tree: Tree, tip: bytes) -> list[int]:
    """Every running sample of contributions on the chain, as their authors were dealt them."""
    numbers: list[int] = []
    for step in tree.chain.ancestors(tip):
        if step.proposal is None:
            continue
        dealer = tree.chain.find_dealer(step.parent, step.round).state
        for sealed in step.contributions:
            interval, key = compute_interval(dealer, sealed.body.peer, step.round, tree.run)
            if not key:
                numbers += range(interval.first, interval.first + interval.count)
    return numbers


@pytest.mark.parametrize("run", [RUN, DRAWN, manifest()], ids=["all", "drawn", "no overlap"])
@given(gaps=st.lists(st.integers(1, 4), min_size=4, max_size=12))
@settings(max_examples=25, deadline=None)
def test_rule_t5_whatever_rounds_have_no_record_no_sample_is_dealt_twice(
    run: object, gaps: list[int]
) -> None:
    tree = Tree(run)  # type: ignore[arg-type]
    rounds = [sum(gaps[: i + 1]) for i in range(len(gaps))]
    numbers = dealt_on(tree, grow(tree, tree.start(7), rounds)[-1])
    assert len(numbers) > 8
    assert len(numbers) == len(set(numbers))


def test_rule_t5_of_rounds_that_all_have_records_every_sample_is_dealt_once() -> None:
    tree = Tree(RUN)
    numbers = dealt_on(tree, grow(tree, tree.start(5), range(1, 12))[-1])
    assert sorted(numbers) == list(range(len(numbers)))


def test_rule_t5_whoever_is_a_record_ahead_is_dealt_the_same() -> None:
    """One trains round 6 from round 4's record, one already from round 5's: one record deals."""
    tree = Tree(RUN)
    records = grow(tree, tree.start(4), range(1, 6))
    assert tree.chain[records[-1]].round == 5
    assert tree.chain.find_dealer(records[-1], 6) == tree.chain.find_dealer(records[-2], 6)
    assert tree.chain.find_dealer(records[-1], 6).round == 4


def test_rule_t5_a_chain_that_begins_too_late_deals_nothing_of_the_running_round() -> None:
    """A joiner's snapshot is of the last round: what that round's predecessor dealt is not here."""
    tree = Tree(RUN)
    state = tree.state(grow(tree, tree.start(4), range(1, 6))[-1])
    _, key = compute_interval(state, peer_name(0), 6, RUN)
    assert key == peer_name(0)
    assert compute_interval(state, peer_name(0), 7, RUN)[1] == b""
