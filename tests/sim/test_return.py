"""Come back next week: whole nodes that stop, return, join late, and meet their own key."""

import asyncio
from copy import deepcopy
from itertools import permutations
from random import Random

import pytest

from demo_node.ports import Blob
from demo_node.sim.keys import peer_name
from demo_node.sim.whole.faults import Asked
from demo_node.sim.whole.swarm import SimNode, SimSwarm
from demo_node.sim.whole.virtual_loop import VirtualClock
from demo_node.store.memory import MemoryDisk
from demo_node.store.round_store import FileRoundStore
from demo_protocol.errors import ConfigError
from demo_protocol.manifest import Agreement
from tests.builders import manifest
from tests.sim.scenes import assert_agree, height, leaps, leave, play, resyncs, rolled_back

WEEK_ROUNDS = 7 * 24 * 1200
"""A week of three-second rounds: 201,600."""


async def stop_all(swarm: SimSwarm) -> dict[int, MemoryDisk]:
    """End every node, the first started last; what is left of them, by number."""
    disks = {number: node.disk for number, node in enumerate(swarm.nodes)}
    await swarm.stop()
    return disks


@pytest.mark.slow
@pytest.mark.parametrize("order", list(permutations(range(4)))[::9], ids=str)
@pytest.mark.parametrize("power", ["stopped", "power cut"])
def test_everything_stopped_and_started_a_week_later_in_any_order_goes_on(
    order: tuple[int, ...], power: str
) -> None:
    steps = 0

    def count(*_: object) -> None:
        nonlocal steps
        steps += 1

    async def scenario(swarm: SimSwarm) -> None:
        nonlocal steps
        await swarm.start(4)
        await swarm.run_until_round(27)
        old_head = swarm.nodes[0].view.chain[swarm.nodes[0].view.head]
        disks = await stop_all(swarm)
        if power == "power cut":
            disks = {n: disk.after_power_cut(Random(n)) for n, disk in disks.items()}
        before = steps
        for place, number in enumerate(order):
            await swarm.run_until_round(WEEK_ROUNDS + 2 * place)
            await swarm.add(number, disk=disks[number], syncing=True)
        await swarm.run_until_round(WEEK_ROUNDS + 20)
        assert_agree(swarm)
        view = swarm.nodes[0].view
        assert view.head_state.round == WEEK_ROUNDS + 19
        assert power == "power cut" or view.chain.is_ancestor(old_head.hash, view.head)
        assert height(swarm.nodes[0]) >= 20 + 14  # at most what stood after the last snapshot
        assert {len(r.contributions) for r in list(view.chain.ancestors(view.head))[:5]} == {4}
        # 200,000 rounds that nobody was there for cost nothing: no step is taken for any of them.
        assert steps - before < 20 * 4 * 100

    play(scenario, SimSwarm(manifest(), watch=count))


def test_all_but_one_leave_and_the_survivor_trains_on_until_others_return() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4)
        await swarm.run_until_round(15)
        gone = swarm.nodes[1:]
        for number, node in enumerate(gone):
            if number == 0:  # one says so, the others just vanish
                await leave(node)
                await swarm.run_until_round(16)
            await swarm.kill(node)
        survivor = swarm.nodes[0]
        await swarm.run_until_round(80)
        alone = height(survivor)
        assert alone >= 15 + 45  # dead members' slots pass unused until they expire
        assert len(survivor.view.chain[survivor.view.head].contributions) == 1
        for number, node in enumerate(gone, start=1):
            await swarm.add(number, disk=node.disk, syncing=True)
        await swarm.run_until_round(90)
        assert_agree(swarm)
        assert height(survivor) > alone
        listed = survivor.view.chain[survivor.view.head].contributions
        assert {h.body.peer for h in listed} == {peer_name(n) for n in range(4)}

    play(scenario)


def test_a_lone_node_replays_its_own_log_before_it_votes_however_slow_its_disk() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(1)
        await swarm.run_until_round(16)
        old = swarm.nodes[0]
        before, old_head = height(old), old.view.head
        await swarm.kill(old)
        await swarm.run_until_round(20)
        slow = FileRoundStore.read_payload

        async def read_payload(store: FileRoundStore, payload_hash: bytes) -> bytes | None:
            await asyncio.sleep(0.3)
            return await slow(store, payload_hash)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(FileRoundStore, "read_payload", read_payload)
            back = await swarm.add(0, disk=old.disk, syncing=True)
            await swarm.run_until_round(40)
        assert height(back) >= before + 10
        assert back.view.chain.is_ancestor(old_head, back.view.head)
        assert back.view.head_state.round >= 38
        assert not rolled_back(back)

    play(scenario)


SHORT_WINDOW = Agreement(payload_window_rounds=40)


@pytest.mark.slow
def test_a_joiner_at_record_500_of_a_run_with_a_shorter_window_starts_from_a_snapshot() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(3)
        await swarm.run_until_round(500)
        joiner = await swarm.add(3, syncing=True)
        await swarm.run_until_round(505)
        assert_agree(swarm)
        assert joiner.view.chain.root.height >= 489
        assert height(joiner) == 505
        listed = joiner.view.chain[joiner.view.head].contributions
        assert joiner.name in {h.body.peer for h in listed}

    play(scenario, SimSwarm(manifest(agreement=SHORT_WINDOW)))


def test_a_node_that_was_away_longer_than_the_window_takes_a_snapshot_too() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4)
        await swarm.run_until_round(30)
        away = swarm.nodes[3]
        await swarm.kill(away)
        await swarm.run_until_round(100)
        back = await swarm.add(3, disk=away.disk, syncing=True)
        await swarm.run_until_round(105)
        assert_agree(swarm)
        assert back.view.chain.root.height >= 80

    play(scenario, SimSwarm(manifest(agreement=SHORT_WINDOW)))


def test_a_joiner_whose_first_holder_dies_in_the_middle_asks_another() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4)
        await swarm.run_until_round(60)
        asked_for: list[bytes] = []

        def answered(asked: Asked) -> float | None:
            if asked.request.kind is Blob.STATE_CHUNK:
                asked_for.append(asked.holder)
                if len(asked_for) == 1:
                    victim = next(node for node in swarm.nodes if node.name == asked.holder)
                    killing.append(asyncio.ensure_future(swarm.kill(victim)))
                    return 1.0
            return 0.0

        killing: list[asyncio.Future[None]] = []
        swarm.faults.answered_s = answered
        joiner = await swarm.add(4, syncing=True)
        await asyncio.gather(*killing)
        await swarm.run_until_round(66)
        assert len(set(asked_for)) >= 2
        assert_agree(swarm)
        assert len(swarm.nodes) == 4
        assert height(joiner) >= 65

    play(scenario, SimSwarm(manifest(agreement=SHORT_WINDOW)))


def test_a_joiner_that_reaches_only_a_syncing_peer_waits_for_one_that_is_level() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(2)
        await swarm.run_until_round(60)
        late, later = peer_name(2), peer_name(3)
        swarm.faults.answered_s = lambda asked: (
            10.0 if asked.asking == late and asked.request.kind is Blob.STATE_LEAVES else 0.0
        )
        found_s = 0.0  # when the later one has dialled those that the late one knows
        loop = asyncio.get_running_loop()
        swarm.network.is_cut = lambda a, b: (
            later in (a, b) and late not in (a, b) and loop.time() < found_s
        )
        first = asyncio.create_task(swarm.add(2, syncing=True, patience_ms=5_000))
        await asyncio.sleep(1)
        found_s = loop.time() + 3
        joiner = await swarm.add(3, syncing=True, patience_ms=5_000)
        assert not first.done()  # it is still fetching, and was of no use but as a signpost
        assert joiner.view.chain.root.height >= 49
        await swarm.run_until_round(68)
        assert height(joiner) == height(swarm.nodes[0])
        await first
        await swarm.run_until_round(80)
        assert_agree(swarm)

    play(scenario, SimSwarm(manifest(agreement=SHORT_WINDOW)))


async def ending_of(node: SimNode) -> BaseException:
    """What the node ended with."""
    assert node.task is not None
    (result,) = await asyncio.gather(node.task, return_exceptions=True)
    assert isinstance(result, BaseException)
    return result


def refusals(error: BaseException) -> list[ConfigError]:
    """The lines an operator would see."""
    if isinstance(error, BaseExceptionGroup):
        return [found for inner in error.exceptions for found in refusals(inner)]
    return [error] if isinstance(error, ConfigError) else []


@pytest.mark.parametrize("started_ms", [100, 1_500, 2_000, 2_900])
def test_a_second_node_with_the_same_key_listens_a_round_then_refuses(started_ms: int) -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4)
        await swarm.run_until_round(12)
        original = swarm.nodes[3]
        await asyncio.sleep(started_ms / 1000)
        twin = await swarm.add(
            9, twin_of=3, disk=deepcopy(original.disk), syncing=True, patience_ms=5_000
        )
        swarm.nodes.remove(twin)
        began_ms = VirtualClock().now_ms()
        (line,) = refusals(await ending_of(twin))
        assert "copied data folder" in str(line)
        assert line.exit_code == 78
        assert VirtualClock().now_ms() - began_ms <= 2 * swarm.manifest.schedule.round_ms
        await swarm.run_until_round(20)
        assert_agree(swarm)
        for node in swarm.nodes:
            assert not node.view.votes.equivocators  # the twin never signed
            assert [r.participants for r in node.observer.rounds] == [4] * len(node.observer.rounds)

    play(scenario)


def test_two_copies_started_together_both_refuse() -> None:
    """Before genesis nobody signs, so neither can hear the other: their first headers tell."""

    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(2)
        twins = [
            await swarm.add(number, twin_of=7, syncing=True, patience_ms=100) for number in (8, 9)
        ]
        for twin in twins:
            swarm.nodes.remove(twin)
        endings = await asyncio.gather(*(ending_of(twin) for twin in twins))
        assert all(refusals(ending) for ending in endings)
        await swarm.run_until_round(6)
        assert_agree(swarm)

    play(scenario)


def test_a_restarted_node_that_hears_its_own_last_words_is_no_twin() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4)
        schedule = swarm.manifest.schedule
        for round_ in range(6, 10):
            await swarm.run_until_round(round_)
            await asyncio.sleep(schedule.round_ms * 0.6 / 1000)  # it has just announced
            old = next(node for node in swarm.nodes if node.name == peer_name(3))
            # What it said reaches everybody late, and so comes back to it after its restart.
            swarm.network.delay_s = lambda sender, receiver, size: 0.4
            await swarm.kill(old)
            await swarm.add(3, disk=old.disk, syncing=True)
            swarm.network.delay_s = lambda sender, receiver, size: 0.005
        await swarm.run_until_round(14)
        assert_agree(swarm)
        assert not any(resyncs(node) or leaps(node) for node in swarm.nodes)

    play(scenario)
