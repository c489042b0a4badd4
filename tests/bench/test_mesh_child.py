"""A node of the benchmark gives payloads on as a daemon does."""

import asyncio
from typing import Any, cast

from demo_node.bench.mesh_child import Daemon
from demo_node.copies import COPIES_MAX
from demo_node.mesh.memory import MemoryNetwork
from demo_node.ports import Direction, Use
from demo_node.sim.keys import peer_name
from demo_node.sim.whole.link_rates import LinkRates
from demo_node.sim.whole.virtual_loop import run_virtual

COUNT, SIZE = 8, 1_000_000


def test_its_payloads_spread_along_a_tree() -> None:
    async def scenario() -> None:
        network = MemoryNetwork(delay_s=lambda sender, receiver, size: 0.01)
        network.carrier = LinkRates(lambda peer: (1e7, 1e9))
        meshes = [network.add(peer_name(number)) for number in range(COUNT)]
        network.connect_all()
        nodes = [Daemon(cast(Any, mesh)) for mesh in meshes]
        for mesh, node in zip(meshes, nodes, strict=True):
            await mesh.join(bytes(32), node._on_gossip, node._on_blob, node._on_answered)
        for turn in range(2):
            name = await nodes[0].hold(bytes([turn]) * SIZE)
            await asyncio.gather(*(node.pull([name], SIZE) for node in nodes[1:]))
            sent = meshes[0].counters().traffic[Direction.OUT, Use.PAYLOAD]
            assert sent <= (turn + 1) * COPIES_MAX * SIZE

    run_virtual(scenario())
