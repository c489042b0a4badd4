"""Rule 19, a test per sentence: what is final, and that a node never leaves it."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo_node.sim.keys import peer_name
from demo_protocol.effects import Finalised, HeadChanged, Release, Restore, Train
from demo_protocol.finality import Final, find_final
from demo_protocol.forkchoice import Votes
from demo_protocol.manifest import Agreement, Manifest
from demo_protocol.roster import get_contributors
from tests.builders import MANIFEST, RUN_ID, Tree, header, manifest, proposal
from tests.protocol.stage import Stage, only

SOON = manifest(agreement=Agreement(final_min_records=1))
DEPTH = SOON.agreement.final_depth


def grown(members: int, records: int, run: Manifest = SOON) -> tuple[Tree, list[bytes]]:
    """A chain of this many records, one a round, of which everybody is a contributor."""
    tree = Tree(run)
    chain = [tree.start(members)]
    for round_ in range(1, records):
        chain.append(tree.grow(chain[-1], round_, range(members)))
    return tree, chain


def cast(*standing: tuple[int, bytes], round_: int = 50) -> Votes:
    votes = Votes()
    for author, record in standing:
        votes.add(peer_name(author), round_, record)
    return votes


def final_of(tree: Tree, head: bytes, votes: Votes, before: Final | None = None) -> bytes | None:
    found = find_final(tree.chain, head, votes, before)
    return None if found is None else found.record


# --- what is final -------------------------------------------------------------------------------


def test_rule_19_a_record_is_final_once_it_has_final_depth_descendants() -> None:
    tree, chain = grown(3, 12)
    for head in range(DEPTH, 12):
        everybody = cast(*((author, chain[head]) for author in range(3)))
        found = find_final(tree.chain, chain[head], everybody, None)
        assert found == Final(chain[head - DEPTH], head - DEPTH, head - DEPTH + 1)
    short = cast(*((author, chain[DEPTH - 1]) for author in range(3)))
    assert final_of(tree, chain[DEPTH - 1], short) is None


@pytest.mark.parametrize(("members", "needed"), [(3, 3), (4, 3), (6, 4), (7, 5), (9, 6), (10, 7)])
def test_rule_19_two_thirds_of_the_voters_stand_in_the_subtree_of_its_child(
    members: int, needed: int
) -> None:
    tree, chain = grown(members, 12)
    for support in range(members + 1):
        standing = [
            (author, chain[5] if author < support else chain[4]) for author in range(members)
        ]
        # The newest record with enough votes in its subtree is chain[5] or chain[4].
        wanted = chain[4] if support >= needed else chain[3]
        assert final_of(tree, chain[11], cast(*standing)) == wanted


def test_rule_19_voters_are_counted_at_the_head_members_or_not() -> None:
    """Three of nine trained on for as long as it takes to forget members: they still are voters."""
    tree, chain = grown(9, 3)
    record, lone = chain[-1], tree.ranked(chain[-1], 3)[:3]
    for round_ in range(3, 40):
        record = tree.grow(record, round_, lone, by=tree.ranked(record, round_)[0])
    assert len(tree.members(record)) == 3
    assert final_of(tree, record, cast(*((author, record) for author in lone))) is None


def test_rule_19_they_are_final_min_peers_at_least() -> None:
    for members, is_final in ((1, False), (2, False), (3, True)):
        tree, chain = grown(members, 12)
        everybody = cast(*((author, chain[-1]) for author in range(members)))
        assert (final_of(tree, chain[-1], everybody) is not None) == is_final


@pytest.mark.parametrize(("records", "is_final"), [(67, False), (68, True)])
def test_rule_19_its_height_is_final_min_records_at_least(records: int, is_final: bool) -> None:
    tree, chain = grown(3, records, MANIFEST)
    everybody = cast(*((author, chain[-1]) for author in range(3)))
    found = final_of(tree, chain[-1], everybody)
    assert found == (chain[63] if is_final else None)


def test_rule_19_who_signed_twice_is_no_support_and_still_a_voter() -> None:
    tree, chain = grown(4, 12)
    votes = cast(*((author, chain[-1]) for author in range(4)))
    votes.add_equivocation(peer_name(0), 50)
    assert final_of(tree, chain[-1], votes) == chain[11 - DEPTH]
    votes.add_equivocation(peer_name(1), 50)
    assert final_of(tree, chain[-1], votes) is None


def test_rule_19_strangers_votes_make_nothing_final() -> None:
    tree, chain = grown(6, 12)
    sybils = [(author, chain[-1]) for author in range(100, 120)]
    assert final_of(tree, chain[-1], cast((0, chain[-1]), (1, chain[-1]), *sybils)) is None


def test_rule_19_votes_on_another_branch_are_none_for_what_comes_after_the_fork() -> None:
    tree, chain = grown(6, 12)
    branch = chain[6]
    for round_ in range(7, 15):
        by = tree.ranked(branch, round_)[1]
        branch = tree.grow(branch, round_, range(6), by=by)
    standing = [(author, branch if author < 3 else chain[-1]) for author in range(6)]
    # Three for each branch: of both together all six stand at or after chain[6].
    assert final_of(tree, chain[-1], cast(*standing)) == chain[5]


def test_rule_19_what_is_final_only_ever_moves_on() -> None:
    tree, chain = grown(3, 12)
    everybody = cast(*((author, chain[-1]) for author in range(3)))
    before = Final(chain[7], 7, 8)
    assert final_of(tree, chain[-1], everybody, before) is None
    assert final_of(tree, chain[-1], everybody, Final(chain[6], 6, 7)) == chain[7]


@given(
    shape=st.lists(st.integers(0, 10**6), min_size=8, max_size=16),
    standing=st.lists(st.integers(0, 10**6), min_size=6, max_size=6),
    head=st.integers(0, 10**6),
)
def test_rule_19_as_the_rule_says_it(shape: list[int], standing: list[int], head: int) -> None:
    """The same by asking for every record alone."""
    tree = Tree(SOON)
    records = [tree.start(6)]
    for pick in shape:
        parent = records[-1 - pick % min(3, len(records))]
        round_ = max(tree.state(r).round for r in records) + 1
        by = tree.ranked(parent, round_)[0]
        records.append(tree.grow(parent, round_, range(6), by=by))
    votes = cast(*((a, records[pick % len(records)]) for a, pick in enumerate(standing)))
    top = records[head % len(records)]
    path = tree.chain.path(tree.genesis, top)
    finals = [
        record.hash
        for record, child in itertools.pairwise(path)
        if tree.state(top).height - record.state.height >= DEPTH
        and sum(tree.chain.is_ancestor(child.hash, vote) for _, vote in votes.newest.values()) >= 4
    ]
    assert final_of(tree, top, votes) == (finals[-1] if finals else None)


@pytest.mark.parametrize(("liars", "conflict"), [(2, False), (3, True)])
def test_rule_19_two_conflicting_records_are_final_only_if_a_third_of_the_voters_lies(
    liars: int, conflict: bool
) -> None:
    """Nine voters in two halves that cannot hear each other; the liars vote in both."""
    tree, chain = grown(9, 4)
    honest = range(liars, 9)
    halves = [set(honest[: len(honest) // 2]), set(honest[len(honest) // 2 :])]
    finals = []
    for side, half in enumerate(halves):
        tip = chain[-1]
        present = sorted({*half, *range(liars)})
        for round_ in range(8 + side, 56, 4):  # so that everybody has a slot
            by = next(a for a in tree.ranked(tip, round_) if a in present)
            tip = tree.grow(tip, round_, present, by=by)
        finals.append(final_of(tree, tip, cast(*((author, tip) for author in present))))
    beyond = [f for f in finals if f is not None and tree.state(f).height > 4]
    assert (len(beyond) == 2) == conflict
    assert len(set(beyond)) == len(beyond)


def test_rule_19_where_contributors_are_drawn_those_of_the_last_rounds_are_asked() -> None:
    run = manifest(agreement=Agreement(final_min_records=1, contributors=2))
    tree = Tree(run)
    record = tree.start(30)
    votes = Votes()
    drawn_last: list[set[int]] = []
    for round_ in range(1, 30):
        state = tree.state(record)
        names = get_contributors(state, round_, run.agreement)
        assert names is not None
        drawn = [author for author in range(30) if peer_name(author) in names]
        drawn_last.append(set(drawn))
        for author in drawn:
            votes.add(peer_name(author), round_, record)
        record = tree.grow(record, round_, drawn)
    committee = set().union(*drawn_last[-8:])
    assert 3 < len(committee) <= 16
    found = find_final(tree.chain, record, votes, None)
    assert found is not None
    assert found.height >= tree.state(record).height - 8
    # Who was not drawn lately may say what he likes; two thirds of those who were may not.
    silent = Votes()
    for author in committee:
        silent.add(peer_name(author), *votes.newest[peer_name(author)])
    assert find_final(tree.chain, record, silent, None) == found
    for author in sorted(committee)[: len(committee) // 3 + 1]:
        silent.add_equivocation(peer_name(author), 29)
    assert find_final(tree.chain, record, silent, None) is None


# --- a node and its final record -----------------------------------------------------------------


def staged(members: int, records: int) -> tuple[Stage, list[bytes]]:
    """A stranger that has followed a chain from its beginning."""
    stage = Stage(Tree(), RUN_ID, 9)
    chain = [stage.tree.start(members)]
    for round_ in range(1, records):
        chain.append(stage.tree.grow(chain[-1], round_, range(members)))
    for round_, record in enumerate(chain):
        stage.give(record, round_=round_ + 1)
    return stage, chain


def test_a_node_says_once_of_every_final_record_that_it_is_final() -> None:
    stage, chain = staged(4, 80)
    said = only(Finalised, stage.effects)
    assert [e.height for e in said] == list(range(64, 81 - DEPTH))
    assert [e.record for e in said] == chain[63 : 80 - DEPTH]
    final = stage.machine.view.final
    assert final == Final(said[-1].record, said[-1].round, said[-1].height)


def branch_off(stage: Stage, parent: bytes, rounds: range) -> list[bytes]:
    """Another chain of everybody's from there on."""
    branch = [parent]
    for round_ in rounds:
        by = stage.tree.ranked(branch[-1], round_)[1]
        branch.append(stage.tree.grow(branch[-1], round_, range(4), by=by))
    return branch[1:]


@pytest.mark.parametrize("below_final", [True, False])
def test_rule_19_no_node_leaves_its_own_final_record(below_final: bool) -> None:
    """Everybody votes for another chain: it is followed unless it forks off below the final one."""
    stage, chain = staged(4, 80)
    final = stage.machine.view.final
    assert final is not None
    at = chain.index(final.record) - (1 if below_final else 0)
    branch = branch_off(stage, chain[at], range(80, 90))
    before = stage.head
    for round_, record in enumerate(branch, start=81):
        stage.give(record, round_=round_)
    for author in range(4):
        stage.hear(header(author, 90, k=0, vote=branch[-1]), 2_000)
    assert stage.head == (before if below_final else branch[-1])
    assert stage.tree.chain.is_ancestor(final.record, stage.head)
    rolled_back = [change.rolled_back for change in only(HeadChanged, stage.effects)]
    assert max(rolled_back) == (0 if below_final else len(chain) - 1 - at)


def test_rule_19_training_never_waits_for_what_is_final() -> None:
    stage, chain = staged(2, 80)
    assert stage.machine.view.final is None
    assert not only(Finalised, stage.effects)
    stage.trained(1, at=80)  # the trainer was busy until now
    (order,) = only(Train, stage.tick(81))
    assert order.base == chain[-1]


@pytest.mark.parametrize("counts", [True, False])
def test_rule_24_what_was_sent_is_settled_as_soon_as_it_is_final_what_its_round_came_to(
    counts: bool,
) -> None:
    tree, chain = grown(4, 70, MANIFEST)
    me = tree.ranked(chain[-1], 70)[1]
    stage = Stage(tree, chain[-1], me)
    stage.tick(70)
    stage.trained(70)
    mine = stage.machine.view.pool.by_round[70][peer_name(me)]
    listed = [header(a, 70, vote=chain[-1]) for a in range(4) if a != me]
    listed += [mine] if counts else []
    tree.headers |= {h.hash: h for h in listed}
    by = tree.ranked(chain[-1], 70)[0]
    record = tree.add(proposal(by, 70, chain[-1], contributions=listed)).hash
    settled_in = None
    for round_ in range(71, 80):
        effects = stage.give(record, round_=round_)
        record = tree.grow(record, round_, range(4))
        released, restored = only(Release, effects), only(Restore, effects)
        if settled_in is None and (released or restored):
            settled_in = round_
            assert released == ([Release(70)] if counts else [])
            assert restored == ([] if counts else [Restore(70)])
    # Its record had four descendants when round 75 was entered or left; L rounds end with 76.
    assert settled_in in (75, 76)
