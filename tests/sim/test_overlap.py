"""Whole nodes that train the next round while this one is exchanged (overlap_rounds 1)."""

import asyncio

import pytest

from demo_node.cli.plan import plan_schedule
from demo_node.ports import ApplyOrder, Trained, TrainOrder
from demo_node.sim.whole.model_learner import ModelLearner
from demo_node.sim.whole.swarm import SimNode, SimSwarm
from demo_node.sim.whole.virtual_loop import EPOCH_MS
from demo_node.views import Outcome, Phase
from demo_protocol.assignment import Interval
from demo_protocol.manifest import Agreement, Manifest
from demo_protocol.roster import compute_interval
from tests.builders import manifest
from tests.sim.scenes import assert_agree, height, play, rolled_back

ROUND_MS = 3_000
PLANNED = plan_schedule(EPOCH_MS + 1_000, ROUND_MS, overlap=1)


def planned(contributors: int = 0) -> Manifest:
    agreement = Agreement(overlap_rounds=1, contributors=contributors)
    return manifest(schedule_=PLANNED, agreement=agreement)


class BusyLearner(ModelLearner):
    """Notes when it trains and applies: whether one waits for the other."""

    applied_while_training = 0
    applied = 0
    is_training = False
    bases: dict[int, bytes]

    async def train(self, order: TrainOrder) -> Trained:
        """See ModelLearner."""
        assert not self.is_training  # one at a time
        self.bases = {**getattr(self, "bases", {}), order.round: order.base}
        self.is_training = True
        try:
            return await super().train(order)
        finally:
            self.is_training = False

    async def apply(self, order: ApplyOrder) -> bytes:
        """See ModelLearner."""
        self.applied += 1
        self.applied_while_training += self.is_training
        return await super().apply(order)


def swarm_of(run: Manifest) -> SimSwarm:
    return SimSwarm(run, make_learner=BusyLearner)


def train_share(node: SimNode, begin: int, end: int) -> float:
    rounds = [view for view in node.observer.rounds if begin <= view.round < end]
    assert len(rounds) == end - begin
    return sum(view.train_ms for view in rounds) / (ROUND_MS * len(rounds))


def dealt(node: SimNode) -> list[Interval]:
    """What the contributions on its chain were trained on, by the records that dealt it."""
    view = node.view
    intervals = []
    for step in view.chain.ancestors(view.head):
        for header in step.contributions:
            dealer = view.chain.find_dealer(step.parent, step.round).state
            interval, key = compute_interval(dealer, header.body.peer, step.round, view.manifest)
            if not key:
                intervals.append(interval)
    return intervals


@pytest.mark.parametrize("contributors", [0, 2])
def test_the_train_share_goes_towards_one_and_everybody_agrees(contributors: int) -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4)
        await swarm.run_until_round(20)
        assert_agree(swarm)
        for node in swarm.nodes:
            assert height(node) == 20
            assert rolled_back(node) == []
            assert train_share(node, 3, 19) > 0.95
            rounds = [view for view in node.observer.rounds if view.round >= 2]
            assert all(view.outcome is Outcome.RECORDED for view in rounds)
            assert all(view.included == view.due for view in rounds)
            learner = node.learner
            assert isinstance(learner, BusyLearner)
            assert learner.applied_while_training >= learner.applied - 1 > 15
            # Round 1 was begun when nobody was drawn yet: who then had no turn kept its work.
            assert learner.restored in ([], [1] if contributors else [])
        numbers = [n for i in dealt(swarm.nodes[0]) for n in range(i.first, i.first + i.count)]
        assert len(numbers) == len(set(numbers)) > 300

    play(scenario, swarm_of(planned(contributors=contributors)))


def test_an_update_is_trained_from_one_round_late_and_no_later() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(3)
        await swarm.run_until_round(12)
        view = swarm.nodes[0].view
        rounds = {step.hash: step.round for step in view.chain.ancestors(view.head)}
        learner = swarm.nodes[0].learner
        assert isinstance(learner, BusyLearner)
        for round_, base in learner.bases.items():
            if 3 <= round_ < 12:
                assert rounds[base] == round_ - 2

    play(scenario, swarm_of(planned()))


def test_compute_does_not_wait_for_a_slow_network() -> None:
    """A tenth of a round for every message: else nobody's payload would come in time."""

    async def usual(swarm: SimSwarm) -> None:
        swarm.network.delay_s = lambda sender, receiver, size: 0.3
        await swarm.start(4)
        await swarm.run_until_round(6)
        assert {view.participants for view in swarm.nodes[0].observer.rounds} == {1}

    async def scenario(swarm: SimSwarm) -> None:
        swarm.network.delay_s = lambda sender, receiver, size: 0.3
        await swarm.start(4)
        await swarm.run_until_round(20)
        assert_agree(swarm)
        assert height(swarm.nodes[0]) >= 18
        for node in swarm.nodes:
            assert train_share(node, 3, 19) > 0.95
            shown = [view for view in node.observer.rounds if view.round >= 3]
            assert [view.participants for view in shown] == [4] * len(shown)

    play(usual, SimSwarm(manifest()))
    play(scenario, swarm_of(planned()))


def test_who_joins_and_who_dies_change_nothing_of_it() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4)
        await swarm.run_until_round(8)
        await swarm.kill(swarm.nodes[2])
        joiner = await swarm.add(4, syncing=True)
        await swarm.run_until_round(14)
        again = await swarm.add(2, syncing=True)
        await swarm.run_until_round(24)
        assert_agree(swarm)
        assert height(joiner) == height(again) >= 22
        members = joiner.view.chain[joiner.view.head].members
        assert len(members) == 5
        numbers = [n for i in dealt(joiner) for n in range(i.first, i.first + i.count)]
        assert len(numbers) == len(set(numbers))

    play(scenario, swarm_of(planned()))


class SlowToApply(BusyLearner):
    """An update takes most of a round."""

    apply_s = ROUND_MS / 1000 * 0.6

    async def apply(self, order: ApplyOrder) -> bytes:
        """See ModelLearner."""
        await asyncio.sleep(self.apply_s)
        return await super().apply(order)


class ReadyAtTheBoundary(SlowToApply):
    """It takes until shortly after the round, and nobody waits for it there."""

    apply_s = ROUND_MS / 1000 * 0.2


def test_what_is_applied_before_the_next_training_begins_is_in_time() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(3)
        await swarm.run_until_round(10)
        for node in swarm.nodes:
            shown = [view for view in node.observer.rounds if view.round >= 2]
            assert all(view.latency_ms > ROUND_MS for view in shown)
            assert {view.outcome for view in shown} == {Outcome.RECORDED}
            assert all(view.slacks_ms()[Phase.SETTLE] > 0 for view in shown)

    play(scenario, SimSwarm(planned(), make_learner=ReadyAtTheBoundary))


def test_a_machine_that_applies_slowly_trains_from_an_older_state_all_the_same() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(3)
        await swarm.run_until_round(14)
        for node in swarm.nodes:
            assert train_share(node, 3, 12) > 0.95
            assert node.view.head_state.round == height(node) - 1 == 12

    play(scenario, SimSwarm(planned(), make_learner=SlowToApply))
