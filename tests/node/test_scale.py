"""What 200 members cost the event loop at once: no single step comes near 10 ms.

Processor time, in the median over rounds, in proportion to that of a fixed piece of work.
"""

import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from demo_node.history import History
from demo_node.observe.meter import Meter
from demo_node.ports import MeshCounters
from demo_node.sim.whole.silent_observer import SilentObserver
from demo_node.swarm_peers import show_contributors, show_swarm
from demo_protocol.answers import encode_bundle, encode_chain_state
from demo_protocol.chain import make_bundle
from demo_protocol.effects import Effect, HeadChanged
from demo_protocol.events import Event, GossipReceived
from demo_protocol.limits import JOINS_MAX
from tests.builders import MANIFEST, Tree
from tests.control.fake_node import status_view
from tests.protocol.stage import CUT, SETTLE, SLOT_0, Stage, only
from tests.yardstick import compute_bound_ms, do_fixed_work

MEMBERS, ROUNDS = 200, 12


@dataclass(slots=True)
class Costs:
    """Milliseconds of this thread, by what took them."""

    spent: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    @contextmanager
    def of(self, what: str) -> Iterator[None]:
        """Count what the block takes."""
        begin_s = time.thread_time()
        yield
        self.spent[what].append((time.thread_time() - begin_s) * 1e3)


class TimedStage(Stage):
    """A node of which each step is timed."""

    costs: Costs

    def step(self, event: Event) -> list[Effect]:
        kind = event.kind if isinstance(event, GossipReceived) else ""
        with self.costs.of(f"{type(event).__name__} {kind}".strip()):
            effects = self.machine.step(event)
        return self._perform(event.now_ms, effects)


@pytest.fixture(scope="module")
def costs() -> Costs:
    """Of ROUNDS rounds in which all members contribute, seen by somebody who only listens."""
    tree, costs = Tree(), Costs()
    records: list[bytes] = []
    for round_, first in enumerate(range(0, MEMBERS, JOINS_MAX)):
        until = min(first + JOINS_MAX, MEMBERS)
        parent = records[-1] if records else tree.genesis
        records.append(tree.grow(parent, round_, range(until), joins=range(first, until)))
    begin = len(records)
    for round_ in range(begin, begin + ROUNDS):
        records.append(tree.grow(records[-1], round_, range(MEMBERS)))

    stage = TimedStage(tree, records[begin - 1], me=250)
    stage.costs = costs
    stage.machine.syncing = True
    view, meter = stage.machine.view, Meter()
    history = History(MANIFEST, SilentObserver())
    for record in records[begin:]:
        round_ = tree.chain[record].round
        stage.tick(round_)
        stage.hear_all(record)
        stage.tick(round_, CUT)
        proposal = tree.chain[record].proposal
        assert proposal is not None
        stage.hear(proposal, SLOT_0 + 5)
        (change,) = only(HeadChanged, stage.tick(round_, SETTLE + 5))
        now_ms = round_ * 3_000
        with costs.of("head changed"):
            history.on_head_changed(change, view, now_ms, syncing=False)
        with costs.of("round ended"):
            history.on_round_ended(round_, view, MeshCounters(0, 0), syncing=False)
        with costs.of("contributors"):
            show_contributors(view.head_state, MANIFEST.agreement)
        with costs.of("swarm"):
            show_swarm(view, {}, (), now_ms)
        with costs.of("chain state"):
            encode_chain_state(view.head_state)
        with costs.of("bundle"):
            encode_bundle(make_bundle(tree.chain[record]))
        with costs.of("status"):
            meter.on_status(status_view(round=round_))
        with costs.of("metrics"):
            list(meter.registry.collect())
        with costs.of("fixed work"):
            do_fixed_work()

    late = TimedStage(tree, records[begin - 1], me=251)
    late.costs = costs
    for record in records[begin:]:
        late.give(record, round_=tree.chain[records[-1]].round + 1)
    assert view.head == records[-1] == late.head
    return costs


def test_no_step_with_200_members_takes_10_ms(costs: Costs) -> None:
    medians = {what: statistics.median(spent) for what, spent in costs.spent.items()}
    assert len(costs.spent["GossipReceived header"]) == MEMBERS * ROUNDS
    assert len(costs.spent["GossipReceived proposal"]) == ROUNDS
    assert len(costs.spent["RecordsFetched"]) == ROUNDS
    bound_ms = compute_bound_ms(costs.spent["fixed work"])
    assert max(medians.values()) < bound_ms, sorted(medians.items(), key=lambda step: -step[1])
