"""The tree of records: paths, ancestors, and what is cut off."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo_node.sim.keys import cheap_verify, peer_name
from demo_protocol.chain import listed_headers
from demo_protocol.errors import LocalFault
from tests.builders import RUN_ID, Tree, header, proposal


@pytest.fixture(scope="module")
def forked() -> tuple[Tree, dict[str, bytes]]:
    """A trunk a-b-c-d, and from b another branch x-y."""
    tree = Tree()
    at = {"a": tree.start(3)}
    for round_, (name, parent) in enumerate([("b", "a"), ("c", "b"), ("d", "c")], start=1):
        at[name] = tree.grow(at[parent], round_, [0, 1, 2])
    at["x"] = tree.grow(at["b"], 2, [0, 1])
    at["y"] = tree.grow(at["x"], 5, [0, 1, 2])
    return tree, at


def test_a_record_knows_parent_round_rank_headers_and_members() -> None:
    tree = Tree()
    parent = tree.grow(tree.start(4), 1, range(4))
    second = tree.ranked(parent, 2)[1]
    record = tree.chain[tree.grow(parent, 2, [0, 1, 2], by=second)]
    assert (record.parent, record.round, record.rank) == (parent, 2, 1)
    assert {h.body.peer for h in record.contributions} == {peer_name(a) for a in range(3)}
    assert record.members == tree.members(record.hash)
    late = header(3, 2)
    child = tree.chain[tree.grow(record.hash, 3, [0, 1], late=[late])]
    assert child.late == (late,)
    assert listed_headers(child) == (*child.contributions, late)


def test_a_record_is_added_once(forked: tuple[Tree, dict[str, bytes]]) -> None:
    tree, at = forked
    record = tree.chain[at["d"]]
    count = len(tree.chain.records)
    assert record.proposal is not None
    assert tree.add(record.proposal) is record
    assert len(tree.chain.records) == count
    assert tree.chain.children[at["c"]].count(at["d"]) == 1


def test_a_proposal_before_its_parent_is_our_own_fault() -> None:
    tree = Tree()
    with pytest.raises(LocalFault):
        tree.chain.add(proposal(0, 1, b"x" * 32), {}, cheap_verify)


def test_paths_lead_from_an_ancestor_to_a_record(forked: tuple[Tree, dict[str, bytes]]) -> None:
    tree, at = forked
    names = {record: name for name, record in at.items()}

    def path(ancestor: str, record: str) -> str:
        return "".join(names[step.hash] for step in tree.chain.path(at[ancestor], at[record]))

    assert path("a", "d") == "bcd"
    assert path("b", "y") == "xy"
    assert path("y", "y") == ""
    with pytest.raises(LocalFault):
        path("c", "y")


@pytest.mark.parametrize(
    ("one", "other", "common"),
    [("d", "y", "b"), ("d", "c", "c"), ("y", "y", "y"), ("a", "y", "a")],
)
def test_the_common_ancestor_is_the_newest_that_both_descend_from(
    forked: tuple[Tree, dict[str, bytes]], one: str, other: str, common: str
) -> None:
    tree, at = forked
    assert tree.chain.common_ancestor(at[one], at[other]).hash == at[common]
    assert tree.chain.common_ancestor(at[other], at[one]).hash == at[common]


def test_is_ancestor_follows_the_branches(forked: tuple[Tree, dict[str, bytes]]) -> None:
    tree, at = forked
    below = {name for name in at if tree.chain.is_ancestor(at["b"], at[name])}
    assert below == {"b", "c", "d", "x", "y"}
    assert not tree.chain.is_ancestor(at["x"], at["d"])
    assert not tree.chain.is_ancestor(at["d"], at["c"])
    assert tree.chain.is_ancestor(RUN_ID, at["y"])


def test_ancestor_before_goes_by_rounds(forked: tuple[Tree, dict[str, bytes]]) -> None:
    tree, at = forked
    assert tree.chain.ancestor_before(at["y"], 6).hash == at["y"]
    assert tree.chain.ancestor_before(at["y"], 5).hash == at["x"]
    assert tree.chain.ancestor_before(at["y"], 3).hash == at["x"]
    assert tree.chain.ancestor_before(at["y"], -7).hash == RUN_ID


def test_pruning_keeps_what_descends_from_the_new_first_record() -> None:
    tree = Tree()
    trunk = [tree.start(3)]
    for round_ in range(1, 5):
        trunk.append(tree.grow(trunk[-1], round_, [0, 1, 2]))
    branch = tree.grow(trunk[2], 3, [0, 1])
    lost = tree.grow(trunk[0], 1, [0, 1])
    dropped = tree.chain.prune(trunk[2])
    assert {r.hash for r in dropped} == {tree.chain.run_id, trunk[0], trunk[1], lost}
    assert set(tree.chain.records) == set(tree.chain.children) == {*trunk[2:], branch}
    assert tree.chain.root == tree.chain[trunk[2]].state
    assert [r.hash for r in tree.chain.ancestors(trunk[4])] == trunk[:1:-1]


@given(st.permutations(range(6)))
def test_the_tree_does_not_depend_on_the_order_in_which_siblings_came(order: list[int]) -> None:
    parents = Tree()
    parent = parents.start(6)
    members = parents.ranked(parent, 3)  # three rounds later, all of them may propose
    sealed = [
        parents.propose(parent, 4, [a, members[0] if a != members[0] else members[1]], by=a)
        for a in members
    ]
    tree = Tree()
    tree.headers = parents.headers
    genesis_proposal = parents.chain[parent].proposal
    assert genesis_proposal is not None
    tree.add(genesis_proposal)
    for place in order:
        tree.add(sealed[place])
    assert {h: tree.state(h) for h in tree.chain.records} == {
        s.hash: parents.add(s).state for s in sealed
    } | {h: parents.state(h) for h in (parents.genesis, parent)}
