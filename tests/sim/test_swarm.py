"""Whole nodes over virtual time: do they agree?"""

from demo_node.sim.swarm import SimSwarm
from demo_node.sim.virtual_loop import run_virtual
from tests.builders import manifest


def test_four_nodes_agree_on_every_round() -> None:
    async def scenario() -> None:
        swarm = SimSwarm(manifest())
        await swarm.start(4)
        await swarm.run_until_round(40)
        digests = {node.digest for node in swarm.nodes}
        assert len(digests) == 1
        head = swarm.nodes[0].view.head_state
        assert head.height == 40
        assert len(head.known) == 4
        for node in swarm.nodes:
            participants = [r.participants for r in node.observer.rounds]
            assert min(participants) == 4
        await swarm.stop()

    run_virtual(scenario())
