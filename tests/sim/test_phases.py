"""Where the time of a round went: phases between milestones, in whole swarms over virtual time."""

import asyncio
import itertools
import math

import pytest

from demo_node.observe.meter import Meter
from demo_node.ports import Trained, TrainOrder
from demo_node.sim.keys import peer_name
from demo_node.sim.whole.model_learner import ModelLearner
from demo_node.sim.whole.swarm import SimSwarm
from demo_node.views import Outcome, Phase, RoundView
from demo_protocol.effects import Effect, HeadChanged
from demo_protocol.events import Event, StateApplied, Tick
from demo_protocol.manifest import Manifest
from demo_protocol.schedule import (
    contribute_end_ms,
    round_start_ms,
    settle_start_ms,
    train_end_ms,
)
from tests.builders import manifest
from tests.observe.test_metrics import exposition
from tests.sim.scenes import has_slot, play, rank_0_comes_late, rolled_back
from tests.sim.test_cuts import cut_off

ALL = [Phase.TRAIN, Phase.CONTRIBUTE, Phase.PROPOSE, Phase.SETTLE]


def check(view: RoundView, run: Manifest) -> None:
    """Phases begin where the last one ended, and add up to the latency to the millisecond."""
    start_ms = round_start_ms(run.schedule, view.round)
    ends = [start_ms, *(part.end_ms for part in view.phases)]
    assert [part.begin_ms for part in view.phases] == ends[:-1]
    assert all(before <= after for before, after in itertools.pairwise(ends))
    order = [ALL.index(part.phase) for part in view.phases]
    assert order == sorted(set(order))
    due = {
        Phase.TRAIN: train_end_ms(run.schedule, view.round),
        Phase.CONTRIBUTE: contribute_end_ms(run.schedule, view.round),
        Phase.PROPOSE: settle_start_ms(run.schedule, view.round),
        Phase.SETTLE: round_start_ms(run.schedule, view.round + 1),
    }
    assert all(part.due_ms == due[part.phase] for part in view.phases)
    if view.record:
        assert sum(part.end_ms - part.begin_ms for part in view.phases) == view.latency_ms
        assert view.phases[-1].phase is Phase.SETTLE


def test_on_a_quiet_network_all_four_add_up_to_the_latency() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(3)
        await swarm.run_until_round(8)
        for node in swarm.nodes:
            assert [view.round for view in node.observer.rounds] == list(range(7))
            for view in node.observer.rounds:
                check(view, swarm.manifest)
                assert [part.phase for part in view.phases] == ALL
                assert view.outcome is Outcome.RECORDED

    play(scenario)


def test_who_trains_nothing_has_a_train_phase_by_the_clock_and_no_slack_in_it() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(3)
        idle, paused = swarm.nodes[1:]
        idle.machine.contributes = False
        paused.machine.paused = True
        await swarm.run_until_round(6)
        for node in (idle, paused):
            assert len(node.observer.rounds) == 5
            for view in node.observer.rounds:
                check(view, swarm.manifest)
                assert [part.phase for part in view.phases] == ALL
                assert view.phases[0].end_ms == view.phases[0].due_ms
                assert view.slacks_ms().keys() == {*ALL[1:]}
            meter = Meter()
            meter.on_round(node.observer.rounds[-1])
            series = exposition(meter)
            assert math.isnan(series['demo_round_slack_seconds{phase="train"}'])
            assert series['demo_round_slack_seconds{phase="contribute"}'] > 0

    play(scenario)


def test_in_forks_the_update_that_stands_counts() -> None:
    applied: dict[tuple[bytes, bytes], int] = {}

    def watch(name: bytes, event: Event, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, HeadChanged):
                assert isinstance(event, StateApplied | Tick)
                applied[name, effect.head] = event.now_ms

    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4)
        swarm.faults.held_back_s = rank_0_comes_late(swarm, range(4, 16))
        await swarm.run_until_round(18)
        assert sum(len(rolled_back(node)) for node in swarm.nodes) == 2 * 12
        for node in swarm.nodes:
            for view in node.observer.rounds:
                check(view, swarm.manifest)
                start_ms = round_start_ms(swarm.manifest.schedule, view.round)
                assert view.latency_ms == applied[node.name, view.record] - start_ms

    play(scenario, SimSwarm(manifest(), watch=watch))


def test_what_comes_after_a_cut_adds_up_too() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4)
        await swarm.run_until_round(4)
        lone = swarm.nodes[0]
        # Alone in a round in which it may not propose, it skips it; in the next it may.
        begin = next(round_ for round_ in itertools.count(5) if not has_slot(lone, round_))
        swarm.network.is_cut = cut_off(swarm, 1, range(begin, begin + 4))
        await swarm.run_until_round(begin + 8)
        outcomes = {view.outcome for view in lone.observer.rounds}
        assert outcomes == {Outcome.RECORDED, Outcome.SKIPPED, Outcome.LATE}
        for node in swarm.nodes:
            for view in node.observer.rounds:
                check(view, swarm.manifest)

    play(scenario)


@pytest.mark.parametrize("late_ms", [300, 900, 1_100, 1_300])
def test_who_trains_longer_than_the_others_settle_is_late_and_it_still_adds_up(
    late_ms: int,
) -> None:
    class Slow(ModelLearner):
        """Node 0 comes out of its local work after the boundary."""

        async def train(self, order: TrainOrder) -> Trained:
            trained = await super().train(order)
            if self._name == peer_name(0):
                await asyncio.sleep(late_ms / 1000)
            return trained

    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4)
        await swarm.run_until_round(8)
        slow = swarm.nodes[0]
        recorded = [view for view in slow.observer.rounds if view.record]
        assert len(recorded) >= 5
        for view in recorded:
            check(view, swarm.manifest)
        trained = [part for view in recorded for part in view.phases if part.phase is Phase.TRAIN]
        assert trained
        assert all(part.end_ms > part.due_ms for part in trained)

    play(scenario, SimSwarm(manifest(), make_learner=Slow))


def test_the_metrics_say_the_same() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(2)
        await swarm.run_until_round(6)
        views = swarm.nodes[0].observer.rounds
        meter = Meter()
        for view in views:
            meter.on_round(view)
        series = exposition(meter)
        latency_s = series["demo_round_latency_seconds_sum"]
        assert series["demo_round_latency_seconds_count"] == len(views) == 5
        parts_s = [series[f'demo_round_phase_seconds_sum{{phase="{phase}"}}'] for phase in ALL]
        assert sum(parts_s) == pytest.approx(latency_s, abs=1e-9)
        for part in views[-1].phases:
            slack_s = series[f'demo_round_slack_seconds{{phase="{part.phase}"}}']
            assert slack_s == pytest.approx((part.due_ms - part.end_ms) / 1000)

    play(scenario)
