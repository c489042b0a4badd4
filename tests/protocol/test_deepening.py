"""A chain that begins at a snapshot learns what came before (rules 18 and 25)."""

import pytest

from demo_node.sim.keys import peer_name
from demo_protocol.astray import find_wanted
from demo_protocol.chain import make_bundle
from demo_protocol.errors import LocalFault
from demo_protocol.events import RecordsFetched
from demo_protocol.finality import Final
from demo_protocol.recording import on_records
from demo_protocol.round import Round
from demo_protocol.view import View
from tests.builders import Tree, header, view
from tests.protocol.hearing import counted
from tests.protocol.stage import digest_after, time_of


def grown() -> tuple[Tree, list[bytes], list[bytes]]:
    """A trunk of 20 records by three of five, and from the tenth on a branch by two of them."""
    tree = Tree()
    trunk = [tree.start(5)]
    for round_ in range(1, 10):
        trunk.append(tree.grow(trunk[-1], round_, range(5)))
    few, many = [0, 1], [2, 3, 4]
    branch = list(trunk)
    for chain, authors in ((trunk, many), (branch, few)):
        for round_ in range(12, 32, 4):  # so that everybody has a slot
            by = next(a for a in tree.ranked(chain[-1], round_) if a in authors)
            chain.append(tree.grow(chain[-1], round_, authors, by=by))
    return tree, trunk, branch


def replayed(tree: Tree, chain: list[bytes]) -> View:
    """What a peer's records tell, from the third on."""
    deeper = view(me=9, root=tree.state(chain[2]))
    for record in chain[3:]:
        bundle = make_bundle(tree.chain[record])
        on_records(deeper, RecordsFetched(time_of(60), (bundle,), peer_name(5)))
    return deeper


def joined(tree: Tree, chain: list[bytes]) -> Round:
    """A newcomer whose chain begins after the fork."""
    believed = view(me=9, root=tree.state(chain[12]))
    machine = Round(believed)
    for record in chain[13:]:
        bundle = make_bundle(tree.chain[record])
        machine.step(RecordsFetched(time_of(60), (bundle,), peer_name(5)))
    return machine


def test_forks_below_the_first_record_are_judged_once_it_is_known_what_came_before() -> None:
    tree, trunk, branch = grown()
    machine = joined(tree, branch)
    seen = machine.view
    assert seen.may_lack_forks
    for author in (2, 3, 4):
        seen.votes.add(peer_name(author), 59, trunk[-1])
    machine.deepen(replayed(tree, branch), time_of(60, 100))
    assert seen.chain.root.record == branch[2]
    assert seen.chain.is_ancestor(branch[2], branch[-1])
    for record in trunk[10:]:
        bundle = make_bundle(tree.chain[record])
        machine.step(RecordsFetched(time_of(61), (bundle,), peer_name(5)))
    assert trunk[-1] in seen.chain
    # Three of five members where the two parted voted for the trunk, but its payloads are not here.
    assert find_wanted(seen) == trunk[-1]


def test_what_came_before_brings_the_votes_that_were_cast_there() -> None:
    tree, _, branch = grown()
    machine = joined(tree, branch)
    before = counted(machine.view.votes, peer_name(4))
    machine.deepen(replayed(tree, branch), time_of(60))
    assert before is None
    assert counted(machine.view.votes, peer_name(4)) == (9, branch[8])


def test_records_before_the_snapshot_count_as_applied_with_what_most_headers_say() -> None:
    tree, _, branch = grown()
    machine = joined(tree, branch)
    digests = dict(machine.view.digests)
    machine.deepen(replayed(tree, branch), time_of(60))
    assert all(machine.view.is_usable(record) for record in branch[2:13])
    assert digests.items() <= machine.view.digests.items()
    for record in tree.chain.records.values():
        assert all(h.body.digest == header().body.digest for h in record.contributions)
    assert machine.view.digests[branch[5]] == header().body.digest
    assert digest_after(branch[5]) != header().body.digest  # nobody computed that one


def test_another_chain_is_not_taken_for_what_came_before() -> None:
    tree, trunk, branch = grown()
    machine = joined(tree, branch)
    with pytest.raises(LocalFault):
        machine.deepen(replayed(tree, trunk), time_of(60))
    assert machine.view.chain.root.record == branch[12]


def test_below_what_is_final_no_fork_matters() -> None:
    tree, _, branch = grown()
    seen = joined(tree, branch).view
    seen.final = Final(branch[13], 28, 14)
    assert not seen.may_lack_forks
    assert not view().may_lack_forks  # from the genesis on everything is known
