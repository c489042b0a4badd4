"""Two valid proposals of one round, and rounds without any (rules 11, 12 and 18)."""

from demo_node.ports import Blob
from demo_node.sim.whole.faults import Asked, Heard
from demo_node.sim.whole.swarm import SimSwarm
from tests.sim.scenes import (
    assert_agree,
    height,
    play,
    rank_0_comes_late,
    rank_of,
    read_proposal,
    rolled_back,
    rounds_with_siblings,
)


def test_rank_0s_proposal_late_on_half_of_the_nodes_ends_in_equal_digests() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4)
        swarm.faults.held_back_s = rank_0_comes_late(swarm, range(4, 16))
        await swarm.run_until_round(20)
        assert_agree(swarm)
        for node in swarm.nodes:
            # Two valid proposals of one round really existed, and everybody knows both.
            # Those that lost are dropped L rounds later: the last ones are still here.
            assert {13, 14, 15} <= set(rounds_with_siblings(node))
            assert height(node) == 20
        # Both who settled on rank 1's left it again, in each of twelve rounds.
        assert [depth for node in swarm.nodes for depth in rolled_back(node)] == [1] * 2 * 12

    play(scenario)


def test_rank_0s_proposal_lost_is_replaced_by_rank_1s_in_the_same_round() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4)

        def lose(heard: Heard) -> float | None:
            body = read_proposal(swarm, heard)
            if body is None or body.round not in range(1, 10):
                return 0.0
            return None if rank_of(swarm, body, body.peer) == 0 else 0.0

        swarm.faults.held_back_s = lose
        await swarm.run_until_round(12)
        assert_agree(swarm)
        for node in swarm.nodes:
            assert height(node) == 12
        path = swarm.nodes[0].view.chain.ancestors(swarm.nodes[0].view.head)
        # Its author follows its own for one round, and then the vote of the other three.
        assert sum(record.rank == 1 for record in path) >= 8

    play(scenario)


def test_rounds_without_records_widen_the_slots_until_somebody_may_propose() -> None:
    """Two of eight have a slot. Every proposal is lost, and nobody gives records, for 4 rounds."""

    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(8)
        lost = range(5, 9)

        def lose(heard: Heard) -> float | None:
            body = read_proposal(swarm, heard)
            return None if body is not None and body.round in lost else 0.0

        def withhold(asked: Asked) -> float | None:
            return None if asked.request.kind is Blob.RECORDS else 0.0

        swarm.faults.held_back_s, swarm.faults.answered_s = lose, withhold
        await swarm.run_until_round(9)
        assert len({node.view.head for node in swarm.nodes}) > 1
        swarm.faults.answered_s = lambda asked: 0.0
        await swarm.run_until_round(12)
        assert_agree(swarm)
        view = swarm.nodes[0].view
        proposed = [r for r in view.chain.records.values() if r.round in lost]
        assert all(r.rank >> (r.round - view.chain[r.parent].round - 1) < 2 for r in proposed)
        assert max(r.rank for r in proposed) >= 2  # who had no slot at first got one
        rounds = [step.round for step in view.chain.ancestors(view.head)]
        assert rounds[:3] == [11, 10, 9]

    play(scenario)
