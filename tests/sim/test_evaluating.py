"""Held-out loss now and then: of the same rounds everywhere, and never in anybody's way."""

import asyncio
import contextlib
import math
from collections.abc import Iterator

from demo_node.evaluating import Evaluating
from demo_node.ports import LearnerLost
from demo_node.sim.whole.model_learner import ModelLearner
from demo_node.sim.whole.swarm import SimNode, SimSwarm
from demo_protocol.errors import ConfigError
from tests.builders import manifest
from tests.sim.scenes import assert_agree, height, play


@contextlib.contextmanager
def evaluating(node: SimNode, every: int) -> Iterator[Evaluating]:
    """As the daemon runs it. A failure of it would fail the test."""
    looks = Evaluating(node.driver, node.learner, node.observer, every)
    task = asyncio.get_running_loop().create_task(looks.run())
    try:
        yield looks
        assert task.done() == (every == 0)
        if task.done():
            task.result()
    finally:
        task.cancel()


def test_equal_replicas_show_equal_losses_of_the_same_rounds() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4)
        with contextlib.ExitStack() as stack:
            looks = [stack.enter_context(evaluating(node, 5)) for node in swarm.nodes]
            assert {(look.round, math.isnan(look.loss)) for look in looks} == {(-1, True)}
            losses = []
            for now, evaluated in ((4, 0), (7, 5), (9, 5), (12, 10)):
                await swarm.run_until_round(now)
                assert {look.round for look in looks} == {evaluated}
                (loss,) = {look.loss for look in looks}
                losses.append(loss)
            assert losses[1] == losses[2]
            assert len(set(losses)) == 3

    play(scenario)


def test_with_0_nobody_looks() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(1)
        with evaluating(swarm.nodes[0], 0) as looks:
            await swarm.run_until_round(3)
            assert looks.round == -1

    play(scenario)


def test_a_look_that_takes_longer_than_rounds_delays_none_and_is_not_doubled() -> None:
    class Slow(ModelLearner):
        """Needs three rounds to evaluate."""

        at_once = at_once_max = 0

        async def evaluate(self, record: bytes) -> float:
            self.at_once += 1
            self.at_once_max = max(self.at_once_max, self.at_once)
            await asyncio.sleep(3 * self._manifest.schedule.round_ms / 1000)
            self.at_once -= 1
            return 1.5

    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(2)
        with evaluating(swarm.nodes[0], 2) as looks:
            await swarm.run_until_round(12)
            assert looks.round in (8, 10)  # 4 is left out while 0 is being looked at, and so on
        assert_agree(swarm)
        assert isinstance(swarm.nodes[0].learner, Slow)
        assert swarm.nodes[0].learner.at_once_max == 1
        latencies = [[r.latency_ms for r in node.observer.rounds] for node in swarm.nodes]
        assert latencies[0] == latencies[1]
        assert height(swarm.nodes[0]) == 12

    play(scenario, SimSwarm(manifest(), make_learner=Slow))


def test_what_is_in_the_way_is_no_fault_of_the_node() -> None:
    class Unlucky(ModelLearner):
        """Something else goes wrong each time; then it works."""

        faults = (LearnerLost("died"), LookupError("forgotten"), ConfigError("no memory"))

        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)  # type: ignore[arg-type]  # passed on as they are
            self._faults = iter(self.faults)

        async def evaluate(self, record: bytes) -> float:
            for fault in self._faults:
                raise fault
            return 1.5

    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(1)
        with evaluating(swarm.nodes[0], 1) as looks:
            await swarm.run_until_round(3)
            assert looks.round == -1
            assert "evaluate" not in swarm.nodes[0].observer.ops
            await swarm.run_until_round(4)
            assert (looks.round, looks.loss) == (3, 1.5)
            assert len(swarm.nodes[0].observer.ops["evaluate"]) == 1
        assert height(swarm.nodes[0]) == 4

    play(scenario, SimSwarm(manifest(), make_learner=Unlucky))


def test_a_node_that_catches_up_does_not_look_at_what_it_only_replays() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(3)
        await swarm.run_until_round(6)
        late = await swarm.add(9, syncing=True)
        with evaluating(late, 1) as looks:
            looked = []
            learner = late.learner
            assert isinstance(learner, ModelLearner)
            evaluate = learner.evaluate

            async def watched(record: bytes) -> float:
                looked.append(late.view.chain[record].round)
                return await evaluate(record)

            learner.evaluate = watched  # type: ignore[method-assign]
            await swarm.run_until_round(9)
            assert height(late) == 9
            assert looks.round == 8
            assert late.driver.history.replayed_total == 6
            assert looked == [6, 7, 8]

    play(scenario)
