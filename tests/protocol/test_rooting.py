"""Rule 21: every snapshot_every records the record names the Merkle root of the parent's state."""

from dataclasses import replace

import pytest

from demo_node.sim.keys import cheap_sign, peer_name
from demo_protocol.answers import decode_chain_state, encode_chain_state
from demo_protocol.effects import ComputeRoot, Effect, HeadChanged, Replay, RootDiffered, StateFault
from demo_protocol.errors import Reject
from demo_protocol.events import RootComputed, StatesLost
from demo_protocol.limits import STATE_CHUNK_BYTES
from demo_protocol.manifest import carries_root
from demo_protocol.merkle import compute_leaf, compute_root
from demo_protocol.messages import Proposal, Sealed, decode_proposal, seal_proposal
from demo_protocol.state_root import compute_state_leaves, compute_state_root, count_leaves
from tests.builders import MANIFEST, RUN_ID, Tree, root_after
from tests.protocol.stage import (
    SETTLE,
    SLOT_0,
    SLOT_1,
    Stage,
    announced_headers,
    announced_proposals,
    digest_after,
    grown_tree,
    only,
    time_of,
)

EVERY = MANIFEST.agreement.snapshot_every
WRONG = b"w" * 32


class Silent(Stage):
    """A node whose trainer computes no root, unless a test answers for it."""

    def _perform(self, now_ms: int, effects: list[Effect]) -> list[Effect]:
        asked = [e for e in effects if isinstance(e, ComputeRoot)]
        self.effects += asked
        rest: list[Effect] = [e for e in effects if not isinstance(e, ComputeRoot)]
        return [*asked, *Stage._perform(self, now_ms, rest)]

    def answer(
        self, record: bytes, round_: int, ms: int, root: bytes | None = None
    ) -> list[Effect]:
        """The root comes after all."""
        known = root_after(record) if root is None else root
        return self.step(RootComputed(time_of(round_, ms), record, known))


def due_tree() -> tuple[Tree, bytes, bytes]:
    """(tree, record before the last without a root, that last one): the next one names a root."""
    tree, records = grown_tree(EVERY - 1)
    assert tree.state(records[-1]).height == EVERY - 1
    return tree, records[-2], records[-1]


def with_root(sealed: Sealed[Proposal], root: bytes) -> Sealed[Proposal]:
    """The same proposal, but for the root."""
    body = replace(sealed.body, state_root=root)
    return seal_proposal(body, RUN_ID, cheap_sign(body.peer))


def first_and_second(tree: Tree, parent: bytes) -> list[int]:
    """Who proposes first and second on `parent` in the round of the due record."""
    return tree.ranked(parent, EVERY - 1)[:2]


def test_it_is_every_so_many_records() -> None:
    agreement = replace(MANIFEST.agreement, snapshot_every=3)
    assert [h for h in range(1, 11) if carries_root(agreement, h)] == [3, 6, 9]


def test_a_record_carries_a_root_exactly_where_one_is_due() -> None:
    tree, before, last = due_tree()
    early = with_root(tree.propose(before, EVERY, range(4)), root_after(before))
    with pytest.raises(Reject, match="none is due"):
        tree.add(early)
    late = with_root(tree.propose(last, EVERY, range(4)), b"")
    with pytest.raises(Reject, match="none is due"):
        tree.add(late)
    assert tree.add(tree.propose(last, EVERY, range(4))).state_root == root_after(last)


@pytest.mark.parametrize("length", [1, 31, 33, 64])
def test_a_root_has_32_bytes(length: int) -> None:
    tree, _, last = due_tree()
    raw = with_root(tree.propose(last, EVERY, range(4)), b"r" * length).raw
    with pytest.raises(Reject, match="root"):
        decode_proposal(raw, RUN_ID)


def test_the_root_is_asked_for_as_soon_as_the_state_before_it_is_there() -> None:
    tree, before, last = due_tree()
    stage = Silent(tree, before, 0)
    assert not only(ComputeRoot, stage.tick(EVERY - 2))
    stage.give(last, round_=EVERY - 2, ms=SETTLE)
    assert stage.head == last
    assert [e.record for e in only(ComputeRoot, stage.effects)] == [last]


def test_it_is_asked_for_again_every_round_until_it_is_there() -> None:
    tree, _, last = due_tree()
    stage = Silent(tree, last, 0)
    assert only(ComputeRoot, stage.tick(EVERY - 1)) == [ComputeRoot(last)]
    assert only(ComputeRoot, stage.tick(EVERY)) == [ComputeRoot(last)]
    stage.answer(last, EVERY, 10)
    assert not only(ComputeRoot, stage.tick(EVERY + 1))


def test_a_new_trainer_is_asked_too() -> None:
    tree, _, last = due_tree()
    stage = Silent(tree, last, 0)
    lost = stage.step(StatesLost(time_of(EVERY - 1), last, digest_after(last)))
    assert ComputeRoot(last) in lost


def test_whoever_has_no_root_yet_does_not_propose_and_does_once_it_is_there() -> None:
    tree, _, last = due_tree()
    me, _ = first_and_second(tree, last)
    stage = Silent(tree, last, me)
    stage.tick(EVERY - 1)
    stage.trained(EVERY - 1)
    assert not announced_proposals(stage.tick(EVERY - 1, SLOT_0))
    (made,) = announced_proposals(stage.answer(last, EVERY - 1, SLOT_0 + 100))
    assert made.state_root == root_after(last)
    assert made.parent == last


def test_a_record_with_another_root_than_ours_is_neither_followed_nor_voted_for() -> None:
    tree, _, last = due_tree()
    first, me = first_and_second(tree, last)
    stage = Stage(tree, last, me)
    stage.tick(EVERY - 1)
    others = [author for author in range(4) if author != me]
    bad = with_root(tree.propose(last, EVERY - 1, others, by=first), WRONG)
    tree.add(bad)
    stage.trained(EVERY - 1)
    stage.hear_all(bad.hash)
    told = stage.hear(bad, SLOT_0 + 20)
    assert only(RootDiffered, told) == [RootDiffered(peer_name(first), bad.hash)]
    (own,) = announced_proposals(stage.tick(EVERY - 1, SLOT_1))
    assert own.state_root == root_after(last)  # rule 12: nobody else made one that can be followed
    stage.tick(EVERY - 1, SETTLE)
    stage.tick(EVERY)
    assert stage.head not in (last, bad.hash)
    assert not stage.machine.view.is_usable(bad.hash)
    stage.trained(EVERY)
    assert announced_headers(stage.effects)[-1].vote == stage.head


def test_whoever_has_no_root_of_its_own_does_not_judge() -> None:
    tree, _, last = due_tree()
    stage = Silent(tree, last, 0)
    stage.tick(EVERY - 1)
    bad = tree.add(with_root(tree.propose(last, EVERY - 1, range(4)), WRONG))
    told = stage.give(bad.hash, round_=EVERY, ms=1)
    assert stage.head == bad.hash
    assert not only(RootDiffered, told)


def test_a_root_that_comes_late_is_a_judgement_all_the_same() -> None:
    tree, _, last = due_tree()
    stage = Silent(tree, last, 0)
    stage.tick(EVERY - 1)
    bad = tree.add(with_root(tree.propose(last, EVERY - 1, range(4)), WRONG))
    stage.give(bad.hash, round_=EVERY, ms=1)
    told = stage.answer(last, EVERY, 100)
    assert [e.record for e in only(RootDiffered, told)] == [bad.hash]
    assert [e.head for e in only(HeadChanged, told)] == [last]
    assert stage.head == last


LATE = MANIFEST.agreement.late_rounds


def overruled() -> tuple[Silent, Tree, list[Effect], list[Effect]]:
    """A node whose root was wrong. Others go on from theirs; it is asked again, and then replays.

    (stage, tree, what came in the round it was asked in, the same L rounds later).
    """
    tree, _, last = due_tree()
    stage = Silent(tree, last, 0)
    stage.tick(EVERY - 1)
    stage.answer(last, EVERY - 1, 5, WRONG)
    head, told = last, []
    for round_ in range(EVERY - 1, EVERY - 1 + LATE):
        assert ComputeRoot(last) not in told
        head = tree.grow(head, round_, range(4))
        stage.hear_all(head, 1_900)
        stage.give(head, round_=round_, ms=SETTLE + 1)
        told = stage.tick(round_ + 1)
        assert stage.head == last
    return stage, tree, told, go_on(stage, tree, head, EVERY - 1 + LATE)


def go_on(stage: Silent, tree: Tree, head: bytes, round_: int) -> list[Effect]:
    """Others do for L rounds. What came of the last one."""
    told: list[Effect] = []
    for number in range(round_, round_ + LATE):
        assert not only(Replay, told)
        head = tree.grow(head, number, range(4))
        stage.hear_all(head, 1_900)
        stage.give(head, round_=number, ms=SETTLE + 1)
        told = stage.tick(number + 1)
    return told


def test_a_root_that_most_go_on_without_is_computed_again_after_l_rounds() -> None:
    stage, tree, asked, _ = overruled()
    last = due_tree()[2]
    assert only(ComputeRoot, asked) == [ComputeRoot(last)]
    stage.answer(last, EVERY - 1 + 2 * LATE, 10)
    assert tree.state(stage.head).height > EVERY + LATE


def test_where_it_differs_again_the_state_is_replayed_and_then_it_is_a_fault() -> None:
    stage, _, _, told = overruled()
    last = due_tree()[2]
    assert [e.base for e in only(Replay, told)] == [last]
    believed, doubts = stage.machine.view, stage.machine.doubts
    assert last not in believed.roots  # it is computed again with the state
    doubts.on_applied(last)
    believed.roots[last] = WRONG
    told = [effect for _ in range(2 * LATE) for effect in doubts.judge_root()]
    assert told == [ComputeRoot(last), StateFault(last, believed.chain[last].round)]
    assert stage.machine.is_witness
    assert last not in believed.roots


def test_a_wrong_root_that_few_go_on_from_is_nothing() -> None:
    tree, _, last = due_tree()
    first = first_and_second(tree, last)[0]
    stage = Stage(tree, last, 0)
    stage.tick(EVERY - 1)
    bad = with_root(tree.propose(last, EVERY - 1, range(4), by=first), WRONG)
    tree.add(bad)
    stage.give(bad.hash, round_=EVERY - 1, ms=SETTLE)
    good = tree.grow(last, EVERY, range(4))
    stage.give(good, round_=EVERY, ms=SETTLE + 1)
    for round_ in range(EVERY + 1, EVERY + 3 * LATE):
        good = tree.grow(good, round_, range(4))
        stage.hear_all(good, 1_900)
        stage.give(good, round_=round_, ms=SETTLE + 1)
        assert not only(Replay, stage.tick(round_ + 1))
    assert only(ComputeRoot, stage.effects).count(ComputeRoot(last)) == 1
    assert stage.head == good


def test_where_the_root_is_the_same_nothing_is_said() -> None:
    tree, _, last = due_tree()
    stage = Stage(tree, last, 0)
    stage.tick(EVERY - 1)
    good = tree.grow(last, EVERY - 1, range(4))
    stage.give(good, round_=EVERY, ms=1)
    assert stage.head == good
    assert not only(RootDiffered, stage.effects)


def test_roots_go_with_their_records() -> None:
    tree, _, last = due_tree()
    stage = Silent(tree, last, 0)
    stage.tick(EVERY - 1)
    stage.answer(last, EVERY - 1, 5)
    believed = stage.machine.view
    assert believed.roots == {last: root_after(last)}
    believed.move_start(tree.state(last))
    assert believed.roots == {}
    assert not stage.answer(WRONG, EVERY - 1, 10)
    assert believed.roots == {}


def test_leaf_0_is_what_the_chain_says_and_the_others_are_the_parameters() -> None:
    tree, _, last = due_tree()
    state = tree.state(last)
    leaves = compute_state_leaves(state, [b"a" * 32, b"b" * 32])
    assert leaves == (compute_leaf(encode_chain_state(state)), b"a" * 32, b"b" * 32)
    assert compute_state_root(state, [b"a" * 32, b"b" * 32]) == compute_root(leaves)
    assert compute_state_root(replace(state, cursor=state.cursor + 1), leaves[1:]) != (
        compute_state_root(state, leaves[1:])
    )


def test_what_the_chain_says_has_one_encoding_also_for_who_did_not_replay_it() -> None:
    """Else a joiner would find every root of the others wrong."""
    tree, _, last = due_tree()
    raw = encode_chain_state(tree.state(last))
    assert encode_chain_state(decode_chain_state(raw)) == raw


@pytest.mark.parametrize(
    ("parameters", "leaves"),
    [
        (1, 2),
        (STATE_CHUNK_BYTES // 4, 2),
        (STATE_CHUNK_BYTES // 4 + 1, 3),
        (125_000_000, 1 + 1_908),
    ],
)
def test_how_many_leaves_a_state_has(parameters: int, leaves: int) -> None:
    assert count_leaves(parameters) == leaves
