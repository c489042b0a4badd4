"""One member can make any number of valid records on an old parent: they are not kept for ever."""

from demo_node.sim.keys import peer_name
from demo_protocol.effects import KeepRecord, PullRecords
from demo_protocol.events import Bundle, RecordsFetched
from demo_protocol.forkchoice import Votes
from demo_protocol.pulling import pull_again
from demo_protocol.replica import Replica
from demo_protocol.view import View
from tests.builders import MANIFEST, STATE_0, Tree, header, proposal, view
from tests.protocol.hearing import SENDER, bundle, give
from tests.protocol.stage import Stage, grown_tree, time_of

LATE = MANIFEST.agreement.late_rounds


def siblings(tree: Tree, parent: bytes, round_: int, count: int) -> list[Bundle]:
    """Valid records of one member, each of another digest of the same parent."""
    author = tree.ranked(parent, round_)[0]
    alone = header(author, round_, vote=parent)
    made = [
        proposal(author, round_, parent, contributions=[alone], parent_digest=n.to_bytes(8, "big"))
        for n in range(count)
    ]
    return [Bundle(sealed.raw, (alone.raw,)) for sealed in made]


def standing(rounds: int = 20) -> tuple[View, Tree, list[bytes], Replica]:
    """On the newest of these records, all of them applied, 2 L rounds later."""
    tree, records = grown_tree(rounds)
    believed = view()
    give(believed, *(bundle(tree, record) for record in records))
    believed.digests |= dict.fromkeys(records, STATE_0)
    believed.head, believed.round = records[-1], rounds + 2 * LATE
    return believed, tree, records, Replica(believed)


def test_a_liars_records_are_kept_for_l_rounds_and_not_longer() -> None:
    tree = Tree()
    start = tree.start(4)
    stage = Stage(tree, start, 0)
    head, kept = start, []
    for round_ in range(1, 6 * LATE):
        stage.give(head, round_=round_)
        made = siblings(tree, start, round_, 8)
        effects = stage.step(RecordsFetched(time_of(round_, 10), tuple(made), SENDER))
        assert len([e for e in effects if isinstance(e, KeepRecord)]) == 8  # each of them is valid
        head = tree.grow(head, round_, range(4))
        kept.append(len(stage.machine.view.chain.records) - round_)
    assert max(kept) < 8 * (LATE + 4)  # those of which a state is held stay as well


def test_our_chain_and_what_descends_from_our_head_are_kept_however_old() -> None:
    believed, _, records, replica = standing()
    believed.head = records[10]
    replica.states = {records[10]}
    believed.votes = Votes()
    for _ in range(2):
        replica.drop_dead_branches()
    assert set(records) <= set(believed.chain.records)


def test_a_branch_is_kept_while_the_newest_vote_of_a_peer_that_the_chain_knows_is_for_it() -> None:
    believed, tree, records, replica = standing()
    fork = tree.grow(records[8], 10, range(4))
    tip = tree.grow(fork, 11, range(4))
    beside = tree.grow(fork, 12, range(4))
    give(believed, *(bundle(tree, record) for record in (fork, tip, beside)))
    believed.digests[beside] = STATE_0
    believed.votes.add(peer_name(2), believed.round, tip)
    believed.votes.add(peer_name(99), believed.round, beside)  # a stranger's keeps nothing
    for _ in range(2):
        replica.drop_dead_branches()
    assert {fork, tip} <= set(believed.chain.records)
    assert beside not in {*believed.chain.records, *believed.digests}
    assert believed.chain.children[fork] == [tip]
    believed.votes.add(peer_name(2), believed.round + 1, records[-1])
    for _ in range(2):
        replica.drop_dead_branches()
    assert not {fork, tip} & set(believed.chain.records)


def test_what_was_dropped_is_pulled_again_when_it_is_voted_for() -> None:
    believed, tree, records, replica = standing()
    fork = tree.grow(records[8], 10, range(4))
    give(believed, bundle(tree, fork))
    for _ in range(2):
        replica.drop_dead_branches()
    assert fork not in believed.chain
    believed.votes.add(peer_name(2), believed.round, fork)
    (pull,) = [e for e in pull_again(believed) if isinstance(e, PullRecords)]
    assert pull.record == fork
    give(believed, bundle(tree, fork))
    assert fork in believed.chain


def test_nothing_goes_while_a_state_is_being_computed() -> None:
    believed, tree, records, replica = standing()
    fork = tree.grow(records[8], 10, range(4))
    give(believed, bundle(tree, fork))
    replica.applying = fork
    for _ in range(2):
        replica.drop_dead_branches()
    assert fork in believed.chain
