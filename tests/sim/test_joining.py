"""Joining among strangers (rule 22), and archives: whole nodes."""

import asyncio

import pytest

from demo_node.ports import Blob
from demo_node.sim.whole.faults import Asked
from demo_node.sim.whole.swarm import SimNode, SimSwarm
from demo_node.sim.whole.virtual_loop import VirtualClock
from demo_protocol.errors import ConfigError
from demo_protocol.manifest import Agreement
from tests.builders import manifest
from tests.sim.scenes import assert_agree, height, play
from tests.sim.strangers import Stranger, forge

AGREEMENT = Agreement(final_min_records=8, snapshot_every=5, payload_window_rounds=20)
SYBILS = range(40, 52)


def stage() -> SimSwarm:
    return SimSwarm(manifest(agreement=AGREEMENT))


async def enter_liar(swarm: SimSwarm, number: int, rounds: int) -> Stranger:
    """A peer with a longer and heavier chain than the run's, and a final record on it."""
    liar = Stranger(swarm, number)
    liar.tree, records = forge(swarm, rounds, SYBILS)
    liar.head, liar.final = records[-1], records[-6]
    await liar.enter()
    return liar


def now_ms() -> int:
    return VirtualClock().now_ms()


def said(node: SimNode) -> list[object]:
    """What its operator was shown."""
    return [fields["detail"] for name, fields in node.observer.events if name == "progress.made"]


async def add_joiner(swarm: SimSwarm, number: int = 4, anchor: bytes = b"") -> SimNode:
    return await swarm.add(number, syncing=True, patience_ms=5_000, anchor=anchor)


def test_one_of_four_peers_with_a_forged_chain_neither_misleads_nor_stops_a_joiner() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(3)
        await swarm.run_until_round(31)
        assert swarm.nodes[0].view.final is not None
        liar = await enter_liar(swarm, 60, 31)
        begin_ms = now_ms()
        joiner = await add_joiner(swarm)
        assert now_ms() - begin_ms < 3_000
        assert Blob.RECORDS in liar.asked
        assert joiner.view.chain.root.height >= 20, "it began at a snapshot of the run"
        await swarm.run_until_round(40)
        assert_agree(swarm)
        assert joiner.name in swarm.nodes[0].view.chain[swarm.nodes[0].view.head].members

    play(scenario, stage())


@pytest.mark.parametrize("hangs", [{Blob.HEAD}, {Blob.RECORDS}, set(Blob)], ids=str)
def test_one_of_four_peers_that_hangs_costs_its_timeout_and_no_more(hangs: set[Blob]) -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(3)
        await swarm.run_until_round(31)
        hanging = await enter_liar(swarm, 60, 31)
        hanging.hangs = frozenset(hangs)
        begin_ms = now_ms()
        joiner = await add_joiner(swarm)
        assert now_ms() - begin_ms < 32_000
        await swarm.run_until_round(46)
        assert_agree(swarm)
        assert not joiner.machine.syncing

    play(scenario, stage())


def test_peers_that_disagree_on_finals_stop_a_joiner_with_a_line_that_asks_for_an_anchor() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(3)
        await swarm.run_until_round(31)
        for number in (60, 61):
            await enter_liar(swarm, number, 31)
        begin_ms = now_ms()
        with pytest.raises(ExceptionGroup) as caught:
            await add_joiner(swarm)
        error = caught.value.exceptions[0]
        assert isinstance(error, ConfigError)
        assert error.exit_code == 75
        assert "peers disagree on what is final" in str(error)
        assert "--anchor" in str(error)
        assert now_ms() - begin_ms < 60_000

    play(scenario, stage())


def test_an_anchor_leads_to_the_right_chain_among_more_liars_than_honest_peers() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(3)
        await swarm.run_until_round(31)
        for number in range(60, 66):
            await enter_liar(swarm, number, 31)
        anchor = swarm.nodes[0].view.head
        joiner = await add_joiner(swarm, anchor=anchor)
        await swarm.run_until_round(40)
        assert_agree(swarm)
        assert joiner.view.final is not None
        assert not joiner.machine.syncing

    play(scenario, stage())


def test_an_anchor_that_no_peer_has_stops_a_joiner() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(3)
        await swarm.run_until_round(21)
        with pytest.raises(ExceptionGroup) as caught:
            await add_joiner(swarm, anchor=b"x" * 32)
        error = caught.value.exceptions[0]
        assert isinstance(error, ConfigError)
        assert error.exit_code == 75
        assert (b"x" * 32).hex()[:16] in str(error)

    play(scenario, stage())


def test_a_joiner_waits_for_three_networks_then_goes_on_with_what_there_is() -> None:
    """Others are known, and cannot be reached: that is tried for as long as it may take."""

    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(1)
        await swarm.run_until_round(31)
        begin_ms = now_ms()
        joiner = await swarm.add(4, syncing=True, patience_ms=1_000, known=5)
        assert 6_000 <= now_ms() - begin_ms < 8_000
        assert any("the only one of 5 peers" in str(line) for line in said(joiner))
        await swarm.run_until_round(40)
        assert_agree(swarm)

    play(scenario, stage())


def test_a_joiner_of_a_run_of_one_takes_what_there_is_at_once_and_says_so() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(1)
        await swarm.run_until_round(31)
        begin_ms = now_ms()
        joiner = await add_joiner(swarm)
        assert now_ms() - begin_ms < 1_000
        assert "believing the only peer; give --anchor <record hash> to be sure" in said(joiner)
        await swarm.run_until_round(40)
        assert_agree(swarm)

    play(scenario, stage())


# --- archives -------------------------------------------------------------------------------------


def test_an_archive_keeps_all_and_signs_nothing_and_one_can_walk_from_the_genesis_by_it() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(3)
        archive = await swarm.add(8, syncing=True, is_archive=True)
        await swarm.run_until_round(61)
        records = swarm.nodes[0].view.chain.records.values()
        assert all(archive.name not in step.state.known for step in records)
        assert archive.name not in swarm.nodes[0].view.votes.newest
        assert height(archive) == height(swarm.nodes[0])
        assert archive.store.payloads_from == 0
        members = [node for node in swarm.nodes if node is not archive]
        assert all((node.store.payloads_from or 0) > 30 for node in members)
        for node in members:
            await swarm.kill(node)
        await asyncio.sleep(5)
        late = await swarm.add(9, syncing=True, is_archive=True, patience_ms=2_000)
        assert late.view.chain.root.height == 0
        await asyncio.sleep(30)
        assert late.view.head == archive.view.head
        assert late.digest == archive.digest
        assert late.store.payloads_from == 0

    play(scenario, stage())


def test_a_member_joins_with_an_archive_alone() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(2)
        archive = await swarm.add(8, syncing=True, is_archive=True)
        await swarm.run_until_round(41)
        for node in [node for node in swarm.nodes if node is not archive]:
            await swarm.kill(node)
        joiner = await add_joiner(swarm)
        await swarm.run_until_round(50)
        assert_agree(swarm)
        assert not joiner.machine.syncing
        assert height(joiner) >= 40

    play(scenario, stage())


# --- while a snapshot is on its way ---------------------------------------------------------------


def test_rounds_go_on_while_a_snapshot_comes_and_the_joiner_is_level_right_after() -> None:
    """Each chunk takes four rounds; what is announced meanwhile is kept, and only applied later."""

    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(3)
        await swarm.run_until_round(31)
        slow = (Blob.STATE_CHUNK,)
        swarm.faults.answered_s = lambda asked: 12.0 if asked.request.kind in slow else 0.0
        joiner = await add_joiner(swarm)  # the chain's state is here: a chunk too
        begun = joiner.view.round
        assert joiner.machine.replica.applying == joiner.view.head
        await swarm.run_until_round(begun + 3)
        assert joiner.machine.replica.applying == joiner.view.head, "nothing is applied yet"
        newest = swarm.nodes[0].view.head
        assert newest in joiner.view.chain
        assert joiner.view.is_usable(newest), "its payloads are here already"
        assert joiner.name not in swarm.nodes[0].view.votes.newest, "it has signed nothing"
        await swarm.run_until_round(begun + 6)
        assert_agree(swarm)
        assert not joiner.machine.syncing
        await swarm.run_until_round(begun + 8)
        included = [r for r in joiner.observer.rounds if r.included]
        assert included
        assert included[0].round <= begun + 6
        assert not any(name == "states.lost" for name, _ in joiner.observer.events)

    play(scenario, stage())


def test_a_joiner_whose_holders_vanish_in_the_middle_begins_at_a_later_snapshot() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(3)
        await swarm.run_until_round(31)
        given: list[bytes] = []

        def answered(asked: Asked) -> float | None:
            if asked.request.kind is not Blob.STATE_CHUNK:
                return 0.0
            given.append(asked.request.key)
            return None if 1 < len(given) < 60 else 0.0  # the first is the chain's state

        swarm.faults.answered_s = answered
        joiner = await add_joiner(swarm)
        first = joiner.view.chain.root.record
        while len(given) < 60:
            assert joiner.machine.replica.states <= {first}
            await asyncio.sleep(1)
        await swarm.run_until_round(joiner.view.round + 10)
        assert_agree(swarm)
        assert not joiner.machine.syncing

    play(scenario, stage())
