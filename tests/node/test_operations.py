"""What an operator, or the metrics, get from a node before it has come far."""

import math
from dataclasses import replace
from typing import Any

import pytest

from demo_node.mesh.memory import MemoryNetwork
from demo_node.observe.recent import Recent
from demo_node.observer import Figure
from demo_node.operations import NodeOperations
from demo_node.sim.whole.virtual_loop import VirtualClock, run_virtual
from demo_node.stopping import Stopping
from demo_node.views import EventCount
from demo_protocol.fp32 import compute_step
from tests.builders import MANIFEST

WARMING = replace(MANIFEST, learning=replace(MANIFEST.learning, lr_warmup_rounds=20))


def make_operations(clock: VirtualClock, **more: Any) -> NodeOperations:
    mesh = MemoryNetwork(delay_s=lambda sender, receiver, size: 0.0).add(b"peer" * 8)
    return NodeOperations(clock=clock, mesh=mesh, stopping=Stopping(), **more)


def find_rates(operations: NodeOperations) -> list[float]:
    return [f.value for f in operations.figures() if f.name == "demo_learning_rate"]


@pytest.mark.parametrize(("now", "round_"), [(-5, 0), (0, 0), (3, 3), (40, 40)])
def test_the_learning_rate_is_that_of_updates_in_the_round_by_the_clock(
    now: int, round_: int
) -> None:
    async def main() -> None:
        clock = VirtualClock()
        operations = make_operations(clock)
        assert not find_rates(operations)  # no run, no rate
        operations.manifest = WARMING
        schedule = WARMING.schedule
        await clock.sleep_until_ms(schedule.genesis_ms + now * schedule.round_ms)
        assert find_rates(operations) == [compute_step(WARMING.learning, round_).lr]

    run_virtual(main())


def test_what_alerts_are_made_of_comes_from_the_parts_as_they_come_up() -> None:
    async def main() -> None:
        clock = VirtualClock()
        recent = Recent(clock.now_ms)
        operations = make_operations(clock, recent=recent)
        view = operations.health()
        assert (view.now_ms, view.events, view.snapshot_bytes) == (clock.now_ms(), (), 0)
        assert math.isnan(view.disk_free_bytes)
        recent.add_event("trainer.died")
        operations.sources.append(
            lambda: [
                Figure("demo_datadir_free_bytes", 7e9),
                Figure("demo_snapshot_bytes", 600),
                Figure("demo_momentum_file_bytes", 1800),
                Figure("demo_records_total", 12, ("applied",)),
                Figure("demo_records_total", 1, ("rolled_back",)),
            ]
        )
        view = operations.health()
        assert view.events == (EventCount("trainer.died", "warning", 1, (clock.now_ms(),)),)
        figures = (view.disk_free_bytes, view.snapshot_bytes, view.records_applied)
        assert (*figures, view.momentum_file_bytes) == (7e9, 600, 12, 1800)

    run_virtual(main())
