"""What waits inside a node, as its metrics have it."""

import asyncio

import pytest

from demo_node.ports import Topic
from demo_node.sim.keys import peer_name
from demo_node.sim.whole.faults import Asked
from demo_node.sim.whole.swarm import SimNode, SimSwarm
from tests.sim.scenes import is_payload_of, play


def depth(node: SimNode, queue: str) -> float:
    (value,) = [
        figure.value
        for figure in node.driver.figures()
        if figure.name == "demo_queue_depth" and figure.labels == (queue,)
    ]
    return value


def test_payloads_that_are_being_pulled_are_counted_until_nobody_wants_them() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4)

        def answered(asked: Asked) -> float | None:
            withheld = is_payload_of(asked, swarm, 0, range(2, 4))
            return None if withheld and asked.asking != peer_name(1) else 0.0

        swarm.faults.answered_s = answered
        await swarm.run_until_round(5)
        assert [depth(node, "pulls") for node in swarm.nodes] == [0, 0, 2, 2]
        # Asked for again while a vote builds on it, each time for L rounds (rules 16 and 18).
        await swarm.run_until_round(6 + 4 * swarm.manifest.agreement.late_rounds)
        assert [depth(node, "pulls") for node in swarm.nodes] == [0, 0, 0, 0]

    play(scenario)


def test_signed_messages_that_do_not_go_out_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(2)
        blocked, opened = swarm.nodes[0].driver, asyncio.Event()
        publish = blocked.mesh.publish

        async def wait_and_publish(topic: Topic, message: bytes) -> None:
            await opened.wait()
            await publish(topic, message)

        await swarm.run_until_round(2)
        assert [depth(node, "outbox") for node in swarm.nodes] == [0, 0]
        monkeypatch.setattr(blocked.mesh, "publish", wait_and_publish)
        await swarm.run_until_round(5)
        # The first message is in the way of all later ones: headers of two rounds at least.
        waiting, others = (depth(node, "outbox") for node in swarm.nodes)
        assert waiting >= 2
        assert others == 0
        opened.set()
        await blocked.outbox.flush()
        assert depth(swarm.nodes[0], "outbox") == 0

    play(scenario)
