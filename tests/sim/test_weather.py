"""Bad links and wrong clocks cost contributions, never agreement (rules 1, 2 and 4)."""

import random

import pytest

from demo_node.sim.whole.swarm import SimSwarm
from tests.sim.scenes import assert_agree, height, play, rolled_back


@pytest.mark.parametrize("seed", range(6))
def test_jitter_and_a_fifth_of_gossip_lost_end_with_one_head(seed: int) -> None:
    async def scenario(swarm: SimSwarm) -> None:
        rng = random.Random(seed)
        storm = True
        swarm.network.delay_s = lambda sender, receiver, size: (
            rng.uniform(0.005, 0.5) if storm else 0.005
        )
        swarm.faults.held_back_s = lambda heard: None if storm and rng.random() < 0.2 else 0.0
        await swarm.start(4 + seed % 3)
        await swarm.run_until_round(20)
        assert all(height(node) >= 17 for node in swarm.nodes)
        assert any(rolled_back(node) for node in swarm.nodes)  # it was bad enough for forks
        assert all(depth <= 4 for node in swarm.nodes for depth in rolled_back(node))
        storm = False
        await swarm.run_until_round(22)
        assert_agree(swarm)

    play(scenario)


@pytest.mark.parametrize("seed", range(3))
def test_a_fifth_of_gossip_lost_on_quick_links_costs_hardly_a_record(seed: int) -> None:
    async def scenario(swarm: SimSwarm) -> None:
        rng = random.Random(seed)
        await swarm.start(6)
        swarm.faults.held_back_s = lambda heard: None if rng.random() < 0.2 else 0.0
        await swarm.run_until_round(19)
        swarm.faults.held_back_s = lambda heard: 0.0
        await swarm.run_until_round(21)
        assert_agree(swarm)
        assert height(swarm.nodes[0]) >= 20
        participants = sorted(r.participants for r in swarm.nodes[0].observer.rounds)
        assert participants[len(participants) // 2] >= 5  # forwarding makes good for most losses

    play(scenario)


@pytest.mark.parametrize("offset_ms", [-90, 90])
def test_a_clock_wrong_by_less_than_the_skew_costs_nothing(offset_ms: int) -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(3)
        await swarm.add(3, offset_ms=offset_ms)
        await swarm.run_until_round(12)
        for node in swarm.nodes:
            participants = [r.participants for r in node.observer.rounds]
            assert participants == [4] * len(participants)
        assert len({node.view.head for node in swarm.nodes[:3]}) == 1
        assert height(swarm.nodes[3]) >= 11

    play(scenario)


@pytest.mark.parametrize("offset_ms", [-2_000, 2_000])
def test_a_clock_wrong_by_most_of_a_round_costs_only_that_nodes_contributions(
    offset_ms: int,
) -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4)
        await swarm.run_until_round(3)
        wrong = await swarm.add(4, offset_ms=offset_ms)
        await swarm.run_until_round(20)
        honest = swarm.nodes[:4]
        assert len({node.view.head for node in honest}) == 1
        for node in honest:
            assert height(node) == 20
            # Its headers come by comparing (rule 23), so it may be a member. Where its clock is
            # ahead its vote comes before all others', and counts no sooner (rule 18).
            assert min(r.participants for r in node.observer.rounds if r.round > 3) >= 4
        # It follows the others' chain, however wrong it is.
        trunk = {step.hash for step in honest[0].view.chain.ancestors(honest[0].view.head)}
        shared = next(s for s in wrong.view.chain.ancestors(wrong.view.head) if s.hash in trunk)
        assert shared.round >= 18

    play(scenario)


@pytest.mark.parametrize("offset_ms", [-40_000, 40_000])
def test_a_clock_wrong_by_many_rounds_disturbs_nobody(offset_ms: int) -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4)
        await swarm.run_until_round(3)
        await swarm.add(4, offset_ms=offset_ms)
        await swarm.run_until_round(12)
        honest = swarm.nodes[:4]
        assert len({node.view.head for node in honest}) == 1
        assert height(honest[0]) == 12
        assert [r.participants for r in honest[0].observer.rounds] == [4] * 11

    play(scenario)
