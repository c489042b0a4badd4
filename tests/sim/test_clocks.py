"""Wrong clocks in a swarm that keeps time (rules 3 and 4)."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from demo_node.ports import Blob, BlobRequest, Trained, TrainOrder
from demo_node.sim.keys import peer_name
from demo_node.sim.whole.model_learner import ModelLearner
from demo_node.sim.whole.swarm import SimNode, SimSwarm
from demo_node.sim.whole.virtual_loop import EPOCH_MS
from demo_protocol.answers import decode_time, encode_time
from demo_protocol.manifest import Manifest, compute_run_id
from tests.builders import manifest
from tests.sim.scenes import assert_agree, play

HOUR_MS = 3_600_000


def make_manifest(round_s: int) -> Manifest:
    """Rounds whose length is a multiple of the usual one's, with the same phases."""
    base = manifest()
    factor = round_s * 1000 / base.schedule.round_ms
    schedule = replace(
        base.schedule,
        round_ms=round_s * 1000,
        slot_offset_ms=round(base.schedule.slot_offset_ms * factor),
        skew_max_ms=round_s * 1000 // 60,
    )
    return replace(base, schedule=schedule)


def make_swarm(round_s: int = 3) -> SimSwarm:
    return SimSwarm(make_manifest(round_s), keeps_time=True)


def included(observing: SimNode, node: SimNode, rounds: range) -> float:
    """Share of these rounds whose record, on the chain of `observing`, lists its contribution."""
    view = observing.view
    listing = {
        step.round
        for step in view.chain.ancestors(view.head)
        if any(header.body.peer == node.name for header in step.contributions)
    }
    return len(listing & set(rounds)) / len(rounds)


def wrong_ms(node: SimNode) -> int:
    """How far its corrected clock is from the truth."""
    true_ms = EPOCH_MS + round(asyncio.get_running_loop().time() * 1000)
    return node.clock.now_ms() - true_ms


@pytest.mark.parametrize("round_s", [3, 10])
@pytest.mark.parametrize("offset_ms", [5_000, -5_000, HOUR_MS, -5 * HOUR_MS])
def test_a_wrong_clock_costs_a_joiner_nothing(offset_ms: int, round_s: int) -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(3)
        await swarm.run_until_round(5)
        wrong = await swarm.add(3, offset_ms=offset_ms, syncing=True)
        await swarm.run_until_round(30)
        assert_agree(swarm)
        assert included(swarm.nodes[0], wrong, range(7, 29)) == 1.0
        assert abs(wrong_ms(wrong)) <= 20
        assert [wrong_ms(node) for node in swarm.nodes[:3]] == [0, 0, 0]
        view = wrong.timekeeper.view()
        assert view.verified
        assert abs(view.correction_ms + offset_ms) <= 20

    play(scenario, make_swarm(round_s))


def test_rule_3_peers_are_told_the_raw_clock_whatever_it_is_corrected_by() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(3)
        wrong = await swarm.add(3, offset_ms=5_000)
        assert abs(wrong_ms(wrong)) <= 20
        other = swarm.network.find(peer_name(0))
        assert other is not None
        raw = await other.request(wrong.name, BlobRequest(Blob.TIME), bytes_max=16, timeout_s=1)
        true_ms = EPOCH_MS + round(asyncio.get_running_loop().time() * 1000)
        assert abs(decode_time(raw) - true_ms - 5_000) <= 20

    play(scenario, make_swarm())


@pytest.mark.parametrize("round_s", [3, 10])
@pytest.mark.parametrize("offset_ms", [5_000, -5_000, HOUR_MS, -5 * HOUR_MS])
def test_of_four_that_start_together_the_wrong_one_is_put_right_before_it_signs(
    offset_ms: int, round_s: int
) -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await asyncio.gather(
            *(swarm.add(index, offset_ms=offset_ms if index == 1 else 0) for index in range(4))
        )
        await swarm.run_until_round(25)
        assert_agree(swarm)
        wrong = next(node for node in swarm.nodes if node.name == peer_name(1))
        assert included(swarm.nodes[0], wrong, range(2, 24)) == 1.0
        assert all(abs(wrong_ms(node)) <= 20 for node in swarm.nodes)

    play(scenario, make_swarm(round_s))


class TimeTeller:
    """A peer that takes no part, but tells everybody a time of its choice."""

    def __init__(self, swarm: SimSwarm, number: int) -> None:
        self.mesh = swarm.network.add(peer_name(number))

    async def enter(self, swarm: SimSwarm, lie_ms: Callable[[bytes], int]) -> None:
        async def answer(asking: bytes, request: BlobRequest) -> bytes | None:
            true_ms = EPOCH_MS + round(asyncio.get_running_loop().time() * 1000)
            return encode_time(true_ms + lie_ms(asking)) if request.kind is Blob.TIME else None

        run_id = compute_run_id(swarm.manifest)
        await self.mesh.join(run_id, lambda topic, sender, message: True, answer)
        swarm.network.connect_all()


def lie_by_hours(asking: bytes) -> int:
    """To everybody another one."""
    return (asking[0] % 7 - 3) * HOUR_MS or HOUR_MS


@pytest.mark.parametrize(
    ("honest_ms", "liars"), [([-40, 0, 30], 1), ([-40, -10, 0, 20, 30], 2), ([0, 0, 5_000], 1)]
)
def test_liars_move_nobody_beyond_the_honest_clocks(honest_ms: list[int], liars: int) -> None:
    async def scenario(swarm: SimSwarm) -> None:
        for number in range(liars):
            await TimeTeller(swarm, 90 + number).enter(swarm, lie_by_hours)
        await asyncio.gather(
            *(swarm.add(index, offset_ms=ms) for index, ms in enumerate(honest_ms))
        )
        for round_ in range(5, 40, 5):
            await swarm.run_until_round(round_)
            for node in swarm.nodes:
                assert min(honest_ms) - 20 <= wrong_ms(node) <= max(honest_ms) + 20
                assert node.timekeeper.view().verified
        assert_agree(swarm)

    play(scenario, make_swarm())


def test_clocks_that_differ_by_seconds_come_to_one_time_and_stay_there() -> None:
    offsets_ms = [-1_900, -700, 200, 900, 1_800]

    async def scenario(swarm: SimSwarm) -> None:
        await asyncio.gather(
            *(swarm.add(index, offset_ms=ms) for index, ms in enumerate(offsets_ms))
        )
        await swarm.run_until_round(6)
        agreed = [wrong_ms(node) for node in swarm.nodes]
        assert all(abs(ms - 200) <= 20 for ms in agreed)
        for round_ in range(10, 60, 10):
            await swarm.run_until_round(round_)
            assert [wrong_ms(node) for node in swarm.nodes] == agreed
        assert_agree(swarm)
        for node in swarm.nodes:
            assert included(swarm.nodes[0], node, range(6, 49)) == 1.0

    play(scenario, make_swarm())


def test_two_nodes_trust_their_own_clocks_and_say_so() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(1)
        await swarm.add(1, offset_ms=40)
        await swarm.run_until_round(12)
        assert [wrong_ms(node) for node in swarm.nodes] == [0, 40]
        for node in swarm.nodes:
            view = node.timekeeper.view()
            assert (view.verified, view.peers, view.correction_ms) == (False, 1, 0)
            assert included(swarm.nodes[0], node, range(3, 11)) == 1.0

    play(scenario, make_swarm())


@pytest.mark.parametrize("offset_ms", [4_000, -4_000])
def test_a_node_that_signed_by_a_wrong_clock_is_in_time_as_soon_as_three_others_are_there(
    offset_ms: int,
) -> None:
    shown: list[int] = []

    async def watch_clock(node: SimNode) -> None:
        while True:
            shown.append(node.clock.now_ms())
            await asyncio.sleep(0.1)

    async def scenario(swarm: SimSwarm) -> None:
        wrong = await swarm.add(0, offset_ms=offset_ms)
        watching = asyncio.create_task(watch_clock(wrong))
        await swarm.run_until_round(6)
        assert wrong_ms(wrong) == offset_ms
        assert wrong.machine.announced_round >= 3
        for index in (1, 2, 3):
            await swarm.add(index, syncing=True)
        await swarm.run_until_round(12)
        assert abs(wrong_ms(wrong)) <= 20
        await swarm.run_until_round(40)
        watching.cancel()
        assert_agree(swarm)
        assert included(swarm.nodes[1], wrong, range(14, 39)) == 1.0
        assert shown == sorted(shown)  # it never went back

    play(scenario, make_swarm())


def test_a_node_that_returns_with_another_clock_signs_nothing_twice() -> None:
    """The store refuses a second signature for a round: that would end the node, and this test."""

    async def scenario(swarm: SimSwarm) -> None:
        disk = None
        await swarm.start(3)
        for turn, offset_ms in enumerate([3_000, -6_000, 9_000, 0]):
            node = await swarm.add(3, offset_ms=offset_ms, disk=disk, syncing=True)
            await swarm.run_until_round(10 * turn + 9)
            assert abs(wrong_ms(node)) <= 20
            disk = node.disk
            await swarm.kill(node)
        await swarm.run_until_round(40)
        assert_agree(swarm)
        view = swarm.nodes[0].view
        path = list(view.chain.ancestors(view.head))
        signed = [h.body.round for r in path for h in r.contributions if h.body.peer == node.name]
        assert len(signed) == len(set(signed)) >= 20

    play(scenario, make_swarm())


class SteadyLearner(ModelLearner):
    """It does as much in every round: intervals that grow would overflow after hundreds."""

    async def train(self, order: TrainOrder) -> Trained:
        return replace(await super().train(order), samples=100)


@pytest.mark.slow
def test_clocks_that_drift_stay_together() -> None:
    """100 ppm is the worst of ordinary quartz: 400 ms in these 400 rounds."""

    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4)
        swarm.nodes[0].clock.drift_ppm = 100
        swarm.nodes[1].clock.drift_ppm = -100
        for round_ in range(50, 401, 50):
            await swarm.run_until_round(round_)
            times_ms = [node.clock.now_ms() for node in swarm.nodes]
            assert max(times_ms) - min(times_ms) <= 2 * swarm.manifest.schedule.skew_max_ms // 3
        assert_agree(swarm)
        for node in swarm.nodes:
            assert included(swarm.nodes[2], node, range(340, 399)) == 1.0

    play(scenario, replace(make_swarm(10), make_learner=SteadyLearner))


@pytest.mark.parametrize("step_ms", [30_000, -30_000, HOUR_MS])
def test_a_wall_clock_that_is_set_in_mid_run_costs_nothing(step_ms: int) -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4)
        await swarm.run_until_round(10)
        stepped = swarm.nodes[1]
        stepped.clock.offset_ms = step_ms
        await swarm.run_until_round(40)
        assert_agree(swarm)
        assert [wrong_ms(node) for node in swarm.nodes] == [0, 0, 0, 0]
        assert included(swarm.nodes[0], stepped, range(4, 39)) == 1.0
        assert abs(stepped.timekeeper.view().correction_ms + step_ms) <= 1

    play(scenario, make_swarm())
