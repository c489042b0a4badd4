"""Newcomers of one side of a cut, whose chain begins after the fork (rules 18 and 25)."""

import pytest

from demo_node.sim.whole.swarm import SimSwarm
from demo_protocol.manifest import Agreement
from tests.builders import manifest
from tests.sim.scenes import assert_agree, height, play


@pytest.mark.slow
@pytest.mark.parametrize("survivors", [0, 1, 2])
def test_newcomers_of_the_smaller_half_come_to_the_larger_ones_chain(survivors: int) -> None:
    """Two of five, with four newcomers, are more than three; but nobody voted for those."""

    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(5)
        await swarm.run_until_round(8)
        many = {node.name for node in swarm.nodes[2:]}
        swarm.network.is_cut = lambda a, b: (a in many) != (b in many)
        await swarm.run_until_round(34)
        for number in range(5, 9):
            await swarm.add(number, syncing=True)
        await swarm.run_until_round(50)
        few = [node for node in swarm.nodes if node.name not in many]
        assert {len(node.view.chain[node.view.head].members) for node in few} == {6}
        for node in few[survivors:2]:
            await swarm.kill(node)
        trunk = next(node for node in swarm.nodes if node.name in many)
        await swarm.run_until_round(56)
        agreed = trunk.view.head
        swarm.network.is_cut = lambda a, b: False
        await swarm.run_until_round(76)
        assert_agree(swarm)
        assert trunk.view.chain.is_ancestor(agreed, trunk.view.head)
        assert height(trunk) > 65

    agreement = Agreement(payload_window_rounds=20, snapshot_every=5)
    play(scenario, SimSwarm(manifest(agreement=agreement)))
