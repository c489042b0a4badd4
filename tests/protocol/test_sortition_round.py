"""Contributor sortition: what a node does that has a turn, and one that has none."""

import pytest

from demo_node.sim.keys import peer_name
from demo_protocol.effects import Announce, Restore, Train
from demo_protocol.errors import Ignore
from demo_protocol.events import Tick
from demo_protocol.forkchoice import Votes, choose_head
from demo_protocol.identity import Kind
from demo_protocol.manifest import Agreement
from demo_protocol.messages import decode_membership
from demo_protocol.propose import make_proposal
from demo_protocol.round import Round
from tests.builders import Tree, header, manifest, view
from tests.protocol.stage import SLOT_0, TRAIN_END, Stage, announced_headers, only, time_of
from tests.protocol.turns import RUN, C, drawn, outsider


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
        believed.pool.add_payloads(1, (sealed.body.payload_hash,))
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
