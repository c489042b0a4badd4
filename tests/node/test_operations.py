"""What an operator, or the metrics, get from a node before it has come far."""

from dataclasses import replace

import pytest

from demo_node.mesh.memory import MemoryNetwork
from demo_node.operations import NodeOperations
from demo_node.sim.virtual_loop import VirtualClock, run_virtual
from demo_node.stopping import Stopping
from demo_protocol.fp32 import compute_step
from tests.builders import MANIFEST

WARMING = replace(MANIFEST, learning=replace(MANIFEST.learning, lr_warmup_rounds=20))


def find_rates(operations: NodeOperations) -> list[float]:
    return [f.value for f in operations.figures() if f.name == "demo_learning_rate"]


@pytest.mark.parametrize(("now", "round_"), [(-5, 0), (0, 0), (3, 3), (40, 40)])
def test_the_learning_rate_is_that_of_updates_in_the_round_by_the_clock(
    now: int, round_: int
) -> None:
    async def main() -> None:
        mesh = MemoryNetwork(delay_s=lambda sender, receiver, size: 0.0).add(b"peer" * 8)
        clock = VirtualClock()
        operations = NodeOperations(clock=clock, mesh=mesh, stopping=Stopping())
        assert not find_rates(operations)  # no run, no rate
        operations.manifest = WARMING
        schedule = WARMING.schedule
        await clock.sleep_until_ms(schedule.genesis_ms + now * schedule.round_ms)
        assert find_rates(operations) == [compute_step(WARMING.learning, round_).lr]

    run_virtual(main())
