"""Six whole nodes, of which three contribute in a round (contributor sortition)."""

from collections import Counter
from dataclasses import replace

from demo_node.ports import Topic
from demo_node.sim.keys import peer_name
from demo_node.sim.whole.faults import Heard
from demo_node.sim.whole.model_learner import ModelLearner
from demo_node.sim.whole.swarm import SimNode, SimSwarm
from demo_node.views import Outcome
from demo_protocol.manifest import Agreement
from demo_protocol.messages import decode_header
from demo_protocol.roster import get_contributors, get_member_names
from tests.builders import manifest
from tests.sim.scenes import assert_agree, height, play

C = 3
RUN = manifest(agreement=Agreement(contributors=C))


def listed(node: SimNode) -> dict[int, set[bytes]]:
    """Round -> whose contributions its record lists."""
    view = node.view
    return {
        step.round: {header.body.peer for header in step.contributions}
        for step in view.chain.ancestors(view.head)
        if step.proposal is not None
    }


def test_three_of_six_contribute_in_every_round_and_all_train_and_follow() -> None:
    heard: Counter[int] = Counter()
    swarm = SimSwarm(RUN)
    run_id = b""

    def count(heard_now: Heard) -> float | None:
        if heard_now.topic is Topic.HEADERS and heard_now.receiver == peer_name(0):
            heard[decode_header(heard_now.message, run_id).body.round] += 1
        return 0.0

    async def scenario(swarm: SimSwarm) -> None:
        swarm.faults.held_back_s = count
        await swarm.start(6)
        await swarm.run_until_round(30)
        assert_agree(swarm)
        view = swarm.nodes[0].view
        assert height(swarm.nodes[0]) == 30
        assert len(view.chain[view.head].members) == 6
        by_round = listed(swarm.nodes[0])
        for step in view.chain.ancestors(view.head):
            if step.round > 0:
                parent = view.chain[step.parent].state
                due = get_contributors(parent, step.round, RUN.agreement) or frozenset()
                assert by_round[step.round] == set(due)
                assert len(by_round[step.round]) == C
                assert heard[step.round] <= C  # nobody else is heard of at all
        turns = Counter(peer for peers in by_round.values() for peer in peers)
        assert len(turns) == 6
        for node in swarm.nodes:
            rounds = [view for view in node.observer.rounds if view.round > 0]
            assert all(view.samples for view in rounds)  # who has no turn trains all the same
            assert all(view.outcome is Outcome.RECORDED for view in rounds)

    play(scenario, swarm)


def test_a_round_without_a_turn_is_no_missed_one() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(6)
        await swarm.run_until_round(30)
        by_round = listed(swarm.nodes[0])
        for node in swarm.nodes:
            rounds = [view for view in node.observer.rounds if view.round > 0]
            for view in rounds:
                assert view.included == view.due == (node.name in by_round[view.round])
                assert view.drawn == view.participants == C
                assert bool(view.payload_bytes) == view.due
            assert {view.due for view in rounds} == {True, False}
            # Only what was sent has to be kept for rule 24, and all of it counted.
            assert isinstance(node.learner, ModelLearner)
            assert node.learner.restored == []
            assert set(node.learner.released) <= {v.round for v in node.observer.rounds if v.due}

    play(scenario, SimSwarm(RUN))


def test_who_joins_later_gets_its_turns_and_becomes_a_member() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(5)
        await swarm.run_until_round(10)
        joiner = await swarm.add(5, syncing=True)
        await swarm.run_until_round(20)
        assert_agree(swarm)
        view = joiner.view
        assert joiner.name in view.chain[view.head].members
        first = min(r for r, peers in listed(joiner).items() if joiner.name in peers)
        assert first <= 12

    play(scenario, SimSwarm(RUN))


def test_who_dies_expires_by_its_own_turns_and_comes_back_by_being_drawn_again() -> None:
    """Two of four are drawn: a turn takes two rounds, so five of them take ten."""
    run = manifest(agreement=Agreement(contributors=2, expire_rounds=5, forget_rounds=200))

    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4)
        await swarm.run_until_round(8)
        gone = swarm.nodes[3]
        await swarm.kill(gone)
        last = swarm.nodes[0].view.head_state.known[gone.name].credited_round
        await swarm.run_until_round(last + 9)
        view = swarm.nodes[0].view
        assert gone.name in view.chain[view.head].members  # five rounds would have ended it
        await swarm.run_until_round(last + 16)
        assert gone.name not in view.chain[view.head].members
        await swarm.add(3, syncing=True)
        await swarm.run_until_round(last + 22)
        assert_agree(swarm)
        assert gone.name in view.chain[view.head].members

    play(scenario, SimSwarm(run))


def test_contributors_zero_is_every_member_in_every_round() -> None:
    run = replace(RUN, agreement=replace(RUN.agreement, contributors=0))

    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(6)
        await swarm.run_until_round(8)
        assert_agree(swarm)
        assert {len(peers) for peers in listed(swarm.nodes[0]).values()} == {6}
        assert all(view.due for node in swarm.nodes for view in node.observer.rounds)

    play(scenario, SimSwarm(run))


def test_who_cannot_contribute_says_so_follows_and_is_never_drawn() -> None:
    heard: set[bytes] = set()
    swarm = SimSwarm(RUN)

    def note(now: Heard) -> float | None:
        if now.topic is Topic.HEADERS:
            heard.add(decode_header(now.message, swarm.nodes[0].view.run_id).body.peer)
        return 0.0

    async def scenario(swarm: SimSwarm) -> None:
        swarm.faults.held_back_s = note
        await swarm.start(5)
        watcher = swarm.nodes[4]
        watcher.machine.contributes = False
        await swarm.run_until_round(14)
        assert_agree(swarm)
        state = watcher.view.head_state
        known = state.known.get(watcher.name)
        assert known is None or known.never_drawn  # forgotten in between, and says it again
        assert len(get_member_names(state, RUN.agreement)) == 4
        # In round 0 there was nobody to draw among; afterwards it signs nothing.
        assert all(watcher.name not in peers for r, peers in listed(watcher).items() if r)
        assert heard >= {node.name for node in swarm.nodes[:4]}
        # It thinks better of it.
        watcher.machine.contributes = True
        await swarm.run_until_round(24)
        assert watcher.name in get_member_names(watcher.view.head_state, RUN.agreement)

    play(scenario, swarm)
