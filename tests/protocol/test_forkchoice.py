"""Rule 18, clause by clause, and what rules 16 and 17 give it to choose from."""

from collections.abc import Collection, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo_node.sim.keys import peer_name
from demo_protocol.forkchoice import Votes, choose_head
from tests.builders import Tree
from tests.protocol.hearing import counted


def votes_of(cast: Iterable[tuple[int, int, bytes]]) -> Votes:
    """From (author, round of the header, record)."""
    votes = Votes()
    for author, round_, record in cast:
        votes.add(peer_name(author), round_, record)
    return votes


def choose(
    tree: Tree,
    votes: Votes,
    *,
    head: bytes | None = None,
    unusable: Collection[bytes] = (),
    uncovered: Collection[bytes] = (),
) -> bytes:
    return choose_head(
        tree.chain,
        tree.genesis if head is None else head,
        votes,
        usable=lambda record: record not in unusable,
        covered=lambda record: record.hash not in uncovered,
    )


@pytest.fixture
def fork() -> tuple[Tree, bytes, bytes, bytes]:
    """Six members at P; of its two children in one round, `low` has rank 0, `high` rank 1."""
    tree = Tree()
    parent = tree.grow(tree.start(6), 1, range(6))
    first, second = tree.ranked(parent, 2)[:2]
    low = tree.grow(parent, 2, range(6), by=first)
    high = tree.grow(parent, 2, range(6), by=second)
    return tree, parent, low, high


Fork = tuple[Tree, bytes, bytes, bytes]

# --- votes ---------------------------------------------------------------------------------------


def test_rule_18_the_child_with_most_members_in_its_subtree_wins(fork: Fork) -> None:
    tree, _, low, high = fork
    assert choose(tree, votes_of([(0, 3, low), (1, 3, high), (2, 3, high)])) == high
    assert choose(tree, votes_of([(0, 3, low), (1, 3, high), (2, 3, low)])) == low


def test_rule_18_a_vote_for_a_descendant_counts_for_the_child(fork: Fork) -> None:
    tree, _, low, high = fork
    below = tree.grow(high, 3, range(6))
    lower = tree.grow(below, 4, range(6))
    cast = [(0, 4, low), (1, 4, low), (2, 4, high), (3, 4, below), (4, 4, lower)]
    assert choose(tree, votes_of(cast), head=low) == lower


def test_rule_18_only_the_newest_vote_of_a_peer_counts(fork: Fork) -> None:
    tree, _, low, high = fork
    votes = votes_of([(0, 3, high), (1, 3, high), (2, 3, low)])
    assert choose(tree, votes) == high
    votes.add(peer_name(0), 5, low)
    votes.add(peer_name(0), 4, high)  # came late, is older
    votes.add(peer_name(0), 5, high)  # of the same round: the first one counts
    assert choose(tree, votes) == low


def test_rule_18_votes_do_not_expire(fork: Fork) -> None:
    tree, _, low, high = fork
    new = low
    for round_ in range(3, 60):
        new = tree.grow(new, round_, [0])
    old = [(author, 3, high) for author in range(1, 6)]
    assert choose(tree, votes_of([(0, 60, new), *old]), head=new) == high


def test_rule_18_votes_of_who_was_no_member_of_the_parent_do_not_count(fork: Fork) -> None:
    tree, parent, low, high = fork
    sybils = [(author, 3, high) for author in range(100, 120)]
    assert choose(tree, votes_of([(0, 3, low), *sybils])) == low
    # Joined on a branch, they still are no members of the parent.
    branch = tree.grow(parent, 2, [0, 100, 101], joins=[100, 101], by=tree.ranked(parent, 2)[1])
    cast = [(0, 3, low), (100, 3, branch), (101, 3, branch)]
    assert choose(tree, votes_of(cast)) == low


def test_rule_18_equivocators_count_nowhere(fork: Fork) -> None:
    tree, _, low, high = fork
    votes = votes_of([(0, 3, low), (1, 3, high), (2, 3, high)])
    votes.add_equivocation(peer_name(1), 3)
    votes.add_equivocation(peer_name(2), 3)
    assert choose(tree, votes) == low


def test_a_vote_for_a_record_that_is_not_here_counts_nowhere(fork: Fork) -> None:
    tree, _, low, _ = fork
    cast = [(0, 3, low), (1, 3, b"x" * 32), (2, 3, b"x" * 32), (3, 3, b"y" * 32)]
    assert choose(tree, votes_of(cast), uncovered=[low]) == low


# --- newborn siblings ----------------------------------------------------------------------------


@pytest.mark.parametrize("cast", [[], [(0, 3, "low"), (1, 3, "high")]], ids=["none", "equal"])
def test_rule_18_newborn_siblings_covered_first_then_lower_rank(
    fork: Fork, cast: list[tuple[int, int, str]]
) -> None:
    tree, _, low, high = fork
    votes = votes_of((a, r, low if name == "low" else high) for a, r, name in cast)
    assert choose(tree, votes) == low
    assert choose(tree, votes, uncovered=[low]) == high
    assert choose(tree, votes, uncovered=[low, high]) == low


def test_rule_18_equal_ranks_are_decided_by_the_lower_hash() -> None:
    tree = Tree()  # rule 14: everybody has rank 0 under the genesis
    born = [tree.grow(tree.genesis, 0, range(4), joins=range(4), by=by) for by in range(4)]
    assert choose(tree, Votes()) == min(born)
    assert choose(tree, Votes(), uncovered=[min(born)]) == min(set(born) - {min(born)})


def test_rule_18_more_votes_beat_coverage_and_rank(fork: Fork) -> None:
    tree, _, _, high = fork
    assert choose(tree, votes_of([(0, 3, high)]), uncovered=[high]) == high


# --- ties with descendants -----------------------------------------------------------------------


def test_rule_18_a_tie_with_descendants_goes_to_the_chain_that_lists_more(fork: Fork) -> None:
    tree, _, low, high = fork
    below_high = tree.grow(high, 3, range(6))
    cast = [(0, 4, low), (1, 4, low), (2, 4, below_high), (3, 4, below_high)]
    assert choose(tree, votes_of(cast)) == below_high


def test_rule_18_coverage_is_not_asked_once_there_are_descendants(fork: Fork) -> None:
    tree, _, low, high = fork
    below_low = tree.grow(low, 3, [0, 1, 2])
    below_high = tree.grow(high, 3, [3, 4, 5])
    cast = [(0, 4, below_low), (1, 4, below_high)]
    everything_of_low = [low, below_low]
    assert choose(tree, votes_of(cast), uncovered=everything_of_low) == below_low


def test_rule_18_the_work_is_that_of_the_best_chain_not_of_the_whole_subtree(fork: Fork) -> None:
    tree, _, low, high = fork
    for author in tree.ranked(low, 3)[:2]:  # two children with 3 each: the best chain lists 6 + 3
        tree.grow(low, 3, [0, 1, 2], by=author)
    deep = tree.grow(high, 3, [0, 1, 2, 3])  # 6 + 4
    assert choose(tree, votes_of([(0, 4, low), (1, 4, high)])) == deep


def test_rule_18_records_that_are_not_usable_are_no_work(fork: Fork) -> None:
    tree, _, low, high = fork
    withheld = tree.grow(high, 3, range(6))
    assert choose(tree, votes_of([(0, 3, low), (1, 3, high)])) == withheld
    assert choose(tree, votes_of([(0, 3, low), (1, 3, high)]), unusable=[withheld]) == low


@pytest.mark.parametrize(
    ("members", "records", "stands"), [(3, 63, False), (3, 64, True), (2, 64, False)]
)
def test_rule_19_what_work_decided_below_the_genesis_stands_once_enough_was_built_on_it(
    members: int, records: int, stands: bool
) -> None:
    """Work is cheap: many ids, heartbeats, a chain made up in a minute."""
    tree = Tree()
    honest = tree.start(members)
    for round_ in range(1, records):
        honest = tree.grow(honest, round_, range(members))
    sybils = range(100, 110)
    bought = tree.grow(tree.genesis, 0, sybils, joins=sybils)
    for round_ in range(1, 30):
        bought = tree.grow(bought, round_, sybils)
    cast = [(0, records, honest), (1, records, honest), *((a, 30, bought) for a in sybils)]
    assert choose(tree, votes_of(cast), head=honest) == (honest if stands else bought)


# --- staying on P --------------------------------------------------------------------------------


@pytest.mark.parametrize(("staying", "stays"), [(3, False), (4, True), (6, True)])
def test_rule_18_a_child_without_votes_loses_to_a_parent_most_members_chose_later(
    staying: int, stays: bool
) -> None:
    tree = Tree()
    parent = tree.grow(tree.start(6), 1, range(6))
    child = tree.grow(parent, 2, range(6))
    votes = votes_of((author, 3, parent) for author in range(staying))
    assert choose(tree, votes) == (parent if stays else child)


def test_rule_18_an_old_child_that_was_left_does_not_stand_for_a_newborn_one() -> None:
    """The old one has descendants, so it would win the tie, and then lose to the parent."""
    tree = Tree()
    parent = tree.grow(tree.start(6), 1, range(6))
    left = tree.grow(parent, 2, range(6))
    tree.grow(left, 3, range(6))
    newborn = tree.grow(parent, 8, [0, 1], by=tree.ranked(parent, 8)[0])
    votes = votes_of((author, 8, parent) for author in range(6))
    assert choose(tree, votes, head=parent) == newborn


def test_rule_18_votes_for_the_parent_from_before_the_child_do_not_hold_it_back() -> None:
    tree = Tree()
    parent = tree.grow(tree.start(6), 1, range(6))
    child = tree.grow(parent, 2, range(6))
    assert choose(tree, votes_of((author, 2, parent) for author in range(6))) == child


def test_rule_18_one_vote_is_enough_for_a_child() -> None:
    tree = Tree()
    parent = tree.grow(tree.start(6), 1, range(6))
    child = tree.grow(parent, 2, range(6))
    cast = [(0, 3, child), *((author, 3, parent) for author in range(1, 6))]
    assert choose(tree, votes_of(cast)) == child


def test_rule_18_a_withheld_records_minority_does_not_beat_a_majority_that_stayed() -> None:
    """It came late with everything it lists; 2 of 6 had it and built on it."""
    tree = Tree()
    parent = tree.grow(tree.start(6), 1, range(6))
    hidden = tree.grow(parent, 2, range(6))
    sibling = tree.grow(parent, 3, [2, 3, 4, 5], by=tree.ranked(parent, 3)[0])
    cast = [(0, 4, hidden), (1, 4, hidden), *((author, 4, sibling) for author in range(2, 6))]
    assert choose(tree, votes_of(cast), head=sibling) == sibling


# --- rule 16 -------------------------------------------------------------------------------------


def test_rule_16_only_usable_records_are_candidates(fork: Fork) -> None:
    tree, parent, low, high = fork
    everybody_for_low = votes_of((author, 3, low) for author in range(6))
    assert choose(tree, everybody_for_low, unusable=[low]) == high
    assert choose(tree, everybody_for_low, unusable=[low, high]) == parent


def test_rule_16_nothing_below_an_unusable_record_is_a_candidate(fork: Fork) -> None:
    tree, parent, low, high = fork
    below = tree.grow(low, 3, range(6))
    votes = votes_of((author, 4, below) for author in range(6))
    assert choose(tree, votes, head=parent, unusable=[low, high]) == parent


# --- where the walk begins -----------------------------------------------------------------------


def test_the_walk_reaches_back_to_where_head_and_votes_part() -> None:
    """However long a cut has lasted: the lone node's own records do not hide the others'."""
    tree = Tree()
    parent = tree.grow(tree.start(4), 1, range(4))
    first, second = tree.ranked(parent, 2)[:2]
    lone, crowd = (
        tree.grow(parent, 2, [first], by=first),
        tree.grow(parent, 2, [0, 1, 2], by=second),
    )
    for round_ in range(3, 80):
        lone = tree.grow(lone, round_, [first])
        crowd = tree.grow(crowd, round_, range(4))
    others = [(author, 80, crowd) for author in range(4) if author != first]
    assert choose(tree, votes_of([(first, 80, lone), *others]), head=lone) == crowd


@given(
    shape=st.lists(st.integers(0, 10**6), min_size=1, max_size=12),
    cast=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 99), st.integers(0, 10**6))),
    head=st.integers(0, 10**6),
)
def test_the_head_does_not_depend_on_the_head_before_where_votes_decide(
    shape: list[int], cast: list[tuple[int, int, int]], head: int
) -> None:
    tree = Tree()
    records = [tree.start(6)]
    for pick in shape:
        parent = records[pick % len(records)]
        round_ = tree.state(parent).round + 1 + pick % 3
        by = tree.ranked(parent, round_)[pick % 2]
        sealed = tree.propose(parent, round_, range(1 + pick % 6), by=by)
        records.append(tree.add(sealed).hash)
    votes = votes_of(
        (author, round_, records[pick % len(records)]) for author, round_, pick in cast
    )
    # One vote for the first record makes every walk begin there, whatever the head was.
    votes.add(peer_name(6), 0, records[0])
    chosen = choose(tree, votes, head=records[head % len(records)])
    assert chosen == choose(tree, votes, head=records[0])
    assert not tree.chain.children[chosen] or choose(tree, votes, head=chosen) == chosen


def test_votes_of_strangers_are_forgotten_and_those_of_known_peers_are_not() -> None:
    votes = votes_of([(0, 3, b"a"), (8, 3, b"a"), (9, 7, b"a")])
    votes.forget(known={peer_name(0)}, stranger_round=5, equivocator_round=0)
    assert set(votes.newest) == {peer_name(0), peer_name(9)}


def test_an_equivocation_is_held_against_a_peer_until_forget_rounds_have_passed() -> None:
    votes = votes_of([(0, 9, b"a")])
    votes.add_equivocation(peer_name(0), 5)
    votes.add_equivocation(peer_name(0), 4)
    votes.forget(known={peer_name(0)}, stranger_round=9, equivocator_round=5)
    assert counted(votes, peer_name(0)) is None
    votes.forget(known={peer_name(0)}, stranger_round=9, equivocator_round=6)
    assert counted(votes, peer_name(0)) == (9, b"a")
