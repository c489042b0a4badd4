"""Rule 15 with whole nodes: where proposals are too long for gossip, all are pulled."""

import pytest

from demo_node.ports import Topic
from demo_node.sim.whole.faults import Heard
from demo_node.sim.whole.swarm import SimSwarm
from tests.sim.scenes import assert_agree, height, play


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """So short a limit that every proposal of four is long."""
    monkeypatch.setattr("demo_protocol.messages.GOSSIP_BYTES_MAX", 250)


def test_a_swarm_agrees_in_every_round_though_only_notices_are_gossiped() -> None:
    lengths: list[int] = []

    async def scenario(swarm: SimSwarm) -> None:
        def watch(heard: Heard) -> float | None:
            if heard.topic is Topic.PROPOSALS:
                lengths.append(len(heard.message))
            return 0.0

        swarm.faults.held_back_s = watch
        await swarm.start(4)
        await swarm.run_until_round(8)
        assert_agree(swarm)
        assert {height(node) for node in swarm.nodes} == {8}

    play(scenario)
    assert lengths
    assert max(lengths) < 250
