"""Peers are asked for their raw clocks, and what they say steers ours (rules 3 and 4)."""

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest

from demo_node.mesh.memory import MemoryNetwork
from demo_node.ports import Blob, BlobRequest
from demo_node.sim.keys import peer_name
from demo_node.sim.whole.silent_observer import SilentObserver
from demo_node.sim.whole.virtual_loop import EPOCH_MS, VirtualClock, run_virtual
from demo_node.timekeeper import DISPUTED_S, Timekeeper
from demo_protocol.answers import encode_time
from tests.builders import manifest

RUN = bytes(32)
SCHEDULE = manifest().schedule
HOUR_MS = 3_600_000


class Stage:
    """One node that keeps its clock by peers which do nothing but tell the time."""

    def __init__(self, offset_ms: int = 0) -> None:
        self.network = MemoryNetwork(delay_s=lambda sender, receiver, size: 0.005)
        self.mesh = self.network.add(peer_name(0))
        self.clock = VirtualClock(offset_ms)
        self.observer = SilentObserver()
        self.keeper = Timekeeper(self.mesh, self.clock, SCHEDULE, self.observer, random.Random(0))
        self.asked: list[float] = []

    async def add(self, number: int, ahead_ms: int | None = 0, raw: bytes | None = None) -> None:
        """Connect a peer whose clock is so far ahead; None: it does not tell."""
        mesh = self.network.add(peer_name(number))

        async def answer(asking: bytes, request: BlobRequest) -> bytes | None:
            assert request.kind is Blob.TIME
            self.asked.append(asyncio.get_running_loop().time())
            now_ms = EPOCH_MS + round(asyncio.get_running_loop().time() * 1000)
            return raw if ahead_ms is None else encode_time(now_ms + ahead_ms)

        await mesh.join(RUN, lambda topic, sender, message: False, answer)
        self.network.connect_all()

    def wrong_ms(self) -> int:
        true_ms = EPOCH_MS + round(asyncio.get_running_loop().time() * 1000)
        return self.clock.now_ms() - true_ms


def play(scenario: Callable[[Stage], Awaitable[None]], offset_ms: int = 0) -> None:
    """Run it beside a timekeeper at work."""

    async def main() -> None:
        stage = Stage(offset_ms)
        work = asyncio.create_task(stage.keeper.run())
        await scenario(stage)
        work.cancel()

    run_virtual(main())


async def settle(stage: Stage, patience_s: float = 5.0) -> float:
    """How many seconds it took."""
    begin_s = asyncio.get_running_loop().time()
    await stage.keeper.settle(patience_s)
    return round(asyncio.get_running_loop().time() - begin_s, 3)


@pytest.mark.parametrize("offset_ms", [5_000, -5_000, HOUR_MS, -5 * HOUR_MS])
def test_three_peers_put_a_wrong_clock_right_within_two_seconds(offset_ms: int) -> None:
    async def scenario(stage: Stage) -> None:
        for number in (1, 2, 3):
            await stage.add(number)
        assert await settle(stage) <= 2
        assert abs(stage.wrong_ms()) <= 6
        view = stage.keeper.view()
        assert view.verified
        assert view.peers == 3
        assert abs(view.correction_ms + offset_ms) <= 6
        assert 0 < view.error_ms <= 20

    play(scenario, offset_ms)


@pytest.mark.parametrize("peers", [0, 1, 2])
def test_fewer_than_three_peers_correct_nothing(peers: int) -> None:
    async def scenario(stage: Stage) -> None:
        for number in range(1, peers + 1):
            await stage.add(number)
        assert await settle(stage) >= 5  # it was worth waiting for more
        await asyncio.sleep(120)
        assert stage.wrong_ms() == 5_000
        view = stage.keeper.view()
        assert (view.verified, view.peers, view.correction_ms) == (False, peers, 0)
        assert stage.observer.events == []

    play(scenario, 5_000)


def test_a_clock_that_all_who_are_there_agree_with_keeps_nobody_waiting() -> None:
    async def scenario(stage: Stage) -> None:
        await stage.add(1, 20)
        assert await settle(stage) < 1
        await stage.add(2, HOUR_MS)  # two of three clocks agree
        await asyncio.sleep(2)
        assert await settle(stage) == 0
        assert not stage.keeper.view().verified

    play(scenario)


def test_who_is_alone_waits_as_long_as_it_was_told() -> None:
    async def scenario(stage: Stage) -> None:
        assert await settle(stage, 0.0) == 0
        assert 3 <= await settle(stage, 3.0) < 3.2

    play(scenario)


def test_a_dispute_between_two_waits_for_others_and_not_for_ever() -> None:
    async def scenario(stage: Stage) -> None:
        await stage.add(1, HOUR_MS)
        waited_s = await settle(stage)
        assert DISPUTED_S <= waited_s < DISPUTED_S + 0.2
        assert stage.wrong_ms() == 0

    play(scenario)


@pytest.mark.parametrize("lie_ms", [-HOUR_MS, HOUR_MS])
def test_a_lone_liar_among_three_moves_nobody(lie_ms: int) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.add(1, 3)
        await stage.add(2, -3)
        await stage.add(3, lie_ms)
        await settle(stage)
        await asyncio.sleep(600)
        assert stage.wrong_ms() == 0
        view = stage.keeper.view()
        assert view.verified
        assert view.error_ms <= 30

    play(scenario)


@pytest.mark.parametrize("raw", [None, b"\xff" * 16, b"\x08"])
def test_peers_that_tell_no_time_are_as_good_as_none(raw: bytes | None) -> None:
    async def scenario(stage: Stage) -> None:
        for number in (1, 2, 3):
            await stage.add(number, None, raw)
        assert await settle(stage) <= 5.2
        assert stage.keeper.view().peers == 0

    play(scenario)


def test_questions_become_rare() -> None:
    async def scenario(stage: Stage) -> None:
        for number in (1, 2, 3):
            await stage.add(number)
        await asyncio.sleep(600)
        assert 3 * 4 <= sum(at_s < 30 for at_s in stage.asked) <= 3 * 7
        assert 3 * 9 <= sum(at_s > 60 for at_s in stage.asked) <= 3 * 18

    play(scenario)


def test_the_correction_stays_when_the_peers_have_gone() -> None:
    async def scenario(stage: Stage) -> None:
        for number in (1, 2, 3):
            await stage.add(number)
        await settle(stage)
        stage.clock.hold()
        for number in (1, 2):
            mesh = stage.network.find(peer_name(number))
            assert mesh is not None
            mesh.stop()
        await asyncio.sleep(120)
        assert abs(stage.wrong_ms()) <= 6
        view = stage.keeper.view()
        assert (view.verified, view.peers) == (False, 1)
        assert abs(view.correction_ms + 5_000) <= 6

    play(scenario, 5_000)


def test_a_wall_clock_that_is_set_moves_a_lone_node_and_no_other() -> None:
    async def scenario(stage: Stage) -> None:
        stage.clock.hold()
        await asyncio.sleep(1)
        stage.clock.offset_ms = 30_000
        await asyncio.sleep(1)
        assert stage.wrong_ms() == 30_000
        for number in (1, 2, 3):
            await stage.add(number)
        await asyncio.sleep(40)  # it stands still until the others' time has come
        assert abs(stage.wrong_ms()) <= 6
        stage.clock.offset_ms = -HOUR_MS
        await asyncio.sleep(60)
        assert abs(stage.wrong_ms()) <= 6

    play(scenario)


def test_a_small_correction_of_a_clock_in_use_is_slewed() -> None:
    async def scenario(stage: Stage) -> None:
        stage.clock.hold()
        for number in (1, 2, 3):
            await stage.add(number, 150)
        await asyncio.sleep(1.5)
        assert 0 < stage.wrong_ms() <= 75
        await asyncio.sleep(3)
        assert 140 <= stage.wrong_ms() <= 160

    play(scenario)


def test_round_trips_are_measured_and_forgotten_with_their_peers() -> None:
    async def scenario(stage: Stage) -> None:
        await stage.add(1)
        await stage.add(2, None, b"no time")
        assert stage.keeper.rtt_ms(peer_name(1)) == 0  # not asked yet
        await asyncio.sleep(2)
        assert stage.keeper.rtt_ms(peer_name(1)) == 10  # 5 ms there, 5 ms back
        assert stage.keeper.rtt_ms(peer_name(2)) == 0
        measured = stage.observer.measured["demo_peer_rtt_seconds",]
        assert measured == pytest.approx([0.01] * len(measured))
        assert 1 <= len(measured) < len(stage.asked)  # an answer that tells no time does not count
        gone = stage.network.find(peer_name(1))
        assert gone is not None
        gone.stop()
        await asyncio.sleep(2)
        assert stage.keeper.rtt_ms(peer_name(1)) == 0

    play(scenario)
