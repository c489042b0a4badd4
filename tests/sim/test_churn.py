"""Nodes that come, go, die and come back (rules 4, 6, 7, 10 and 24)."""

import asyncio
from pathlib import Path

import pytest

from demo_node.ports import ApplyOrder, Blob, LearnerLost, Trained, TrainOrder
from demo_node.sim.keys import peer_name
from demo_node.sim.whole.model_learner import ModelLearner
from demo_node.sim.whole.swarm import SimSwarm
from demo_node.sim.whole.virtual_loop import VirtualClock
from demo_node.store.datadir import DataDir
from demo_protocol.effects import Announce, Effect
from demo_protocol.events import Event
from demo_protocol.identity import Kind
from demo_protocol.messages import decode_header, decode_proposal
from demo_protocol.schedule import round_start_ms
from tests.builders import manifest
from tests.sim.scenes import assert_agree, height, leave, play, resyncs


@pytest.mark.parametrize("at", [10, 140])
@pytest.mark.parametrize("syncing", [True, False], ids=["catching up first", "at once"])
def test_a_late_joiner_replays_pulled_records_and_becomes_a_member(at: int, syncing: bool) -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(3)
        await swarm.run_until_round(at)
        joiner = await swarm.add(3, syncing=syncing)
        await swarm.run_until_round(at + 6)
        assert_agree(swarm)
        assert height(joiner) == at + 6
        view = joiner.view
        path = list(view.chain.ancestors(view.head))
        listing = [
            r.round for r in path if any(h.body.peer == joiner.name for h in r.contributions)
        ]
        assert min(listing) <= at + 2
        # Rule 6: a member once `probation` contributions are included, not before.
        admitted = view.chain[view.head_state.known[joiner.name].admitted_by]
        assert sorted(listing)[2] == admitted.round
        assert joiner.name in view.chain[view.head].members

    play(scenario)


def test_a_leaver_is_no_member_any_more_and_the_others_go_on() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4)
        await swarm.run_until_round(6)
        leaver = swarm.nodes[3]
        await leave(leaver)
        await swarm.run_until_round(8)
        assert_agree(swarm)
        assert leaver.view.head_state.known[leaver.name].left
        await swarm.kill(leaver)
        await swarm.run_until_round(12)
        assert_agree(swarm)
        view = swarm.nodes[0].view
        assert leaver.name not in view.chain[view.head].members
        assert height(swarm.nodes[0]) == 12

    play(scenario)


def test_a_killed_nodes_contributions_are_missed_and_nothing_else() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4)
        await swarm.run_until_round(6)
        await swarm.kill(swarm.nodes[3])
        await swarm.run_until_round(30)
        assert_agree(swarm)
        view = swarm.nodes[0].view
        # Where the dead node has rank 0, rank 1 steps in: no round is without a record.
        assert height(swarm.nodes[0]) == 30
        assert peer_name(3) not in view.chain[view.head].members  # expired

    play(scenario)


def test_half_of_the_nodes_killed_at_once_and_the_others_go_on() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(8)
        await swarm.run_until_round(6)
        for node in swarm.nodes[4:]:
            await swarm.kill(node)
        await swarm.run_until_round(20)
        assert_agree(swarm)
        assert height(swarm.nodes[0]) >= 15

    play(scenario)


@pytest.mark.parametrize("died_at_ms", [100, 1_700, 2_300, 2_800])
@pytest.mark.parametrize("count", [4, 1])
@pytest.mark.parametrize("loses", ["nothing", "its signed log"])
def test_a_node_killed_and_restarted_in_a_round_never_signs_twice_for_it(
    died_at_ms: int, count: int, loses: str
) -> None:
    signed: dict[tuple[bytes, Kind, int], set[bytes]] = {}

    def watch(name: bytes, event: Event, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Announce) and effect.kind is not Kind.MEMBERSHIP:
                decode = decode_header if effect.kind is Kind.HEADER else decode_proposal
                round_ = decode(effect.raw, b"").body.round
                signed.setdefault((name, effect.kind, round_), set()).add(effect.raw)

    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(count)
        for round_ in range(5, 11):  # in one of them it is its turn to propose
            at_ms = round_start_ms(swarm.manifest.schedule, round_) + died_at_ms
            await VirtualClock().sleep_until_ms(at_ms)
            old = next(node for node in swarm.nodes if node.name == peer_name(count - 1))
            await swarm.kill(old)
            if loses == "its signed log":
                old.disk.unlink(DataDir(Path("/") / old.name.hex()[:8]).signed_log)
            await swarm.add(count - 1, disk=old.disk, syncing=True)
        await swarm.run_until_round(14)
        assert_agree(swarm)
        assert height(swarm.nodes[0]) >= (13 if count > 1 else 8)
        assert all(len(raws) == 1 for raws in signed.values())
        back = next(node for node in swarm.nodes if node.name == peer_name(count - 1))
        assert back.name in back.view.chain[back.view.head].members
        votes = swarm.nodes[0].view.votes
        assert back.name not in votes.equivocators

    play(scenario, SimSwarm(manifest(), watch=watch))


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("dies_in", ["train", "apply"])
def test_a_trainer_that_dies_is_loaded_again_and_replays_to_the_head(
    count: int, dies_in: str
) -> None:
    class Mortal(ModelLearner):
        """Node 0's dies once, in round 15, and with it all states."""

        died = False

        def die(self, doing: str, round_: int) -> None:
            if (doing, round_, self._name, self.died) == (dies_in, 15, peer_name(0), False):
                self.died, self.states = True, {}
                raise LearnerLost

        async def train(self, order: TrainOrder) -> Trained:
            self.die("train", order.round)
            return await super().train(order)

        async def apply(self, order: ApplyOrder) -> bytes:
            self.die("apply", order.round)
            return await super().apply(order)

    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(count)
        await swarm.run_until_round(20)
        assert_agree(swarm)
        assert resyncs(swarm.nodes[0]) == 1
        assert height(swarm.nodes[0]) == 20

    play(scenario, SimSwarm(manifest(), make_learner=Mortal))


def test_a_trainer_that_takes_rounds_to_load_is_asked_for_nothing_else_meanwhile() -> None:
    class Slow(ModelLearner):
        """Node 0's dies in round 15, in its training; to load another takes six seconds."""

        died = False

        async def train(self, order: TrainOrder) -> Trained:
            if (order.round, self._name) == (15, peer_name(0)):
                self.died, self.states = True, {}
                raise LearnerLost
            return await super().train(order)

        async def load(self, record: bytes, snapshot: bytes | None) -> bytes:
            await asyncio.sleep(6.0 if self.died else 0.0)
            return await super().load(record, snapshot)

    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(3)
        await swarm.run_until_round(22)  # the others' records settle meanwhile
        assert_agree(swarm)
        assert resyncs(swarm.nodes[0]) == 1
        assert height(swarm.nodes[0]) == 22

    play(scenario, SimSwarm(manifest(), make_learner=Slow))


def test_a_trainer_whose_death_is_noticed_twice_is_loaded_once() -> None:
    class Slow(ModelLearner):
        """It takes a while to load a state."""

        async def load(self, record: bytes, snapshot: bytes | None) -> bytes:
            await asyncio.sleep(0.5)
            return await super().load(record, snapshot)

    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(3)
        await swarm.run_until_round(12)
        driver = swarm.nodes[0].driver
        await asyncio.gather(*(driver.recovering.recover(driver.view.head) for _ in range(2)))
        assert resyncs(swarm.nodes[0]) == 1
        await swarm.run_until_round(15)
        assert_agree(swarm)

    play(scenario, SimSwarm(manifest(), make_learner=Slow))


def test_a_payload_lost_from_the_disk_is_pulled_again() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(3)
        forgetful = swarm.nodes[0].store
        await swarm.run_until_round(5)
        kept = forgetful.keep_payload

        async def lose(round_: int, payload_hash: bytes, raw: bytes) -> None:
            if round_ not in (6, 7) or payload_hash in seen:
                await kept(round_, payload_hash, raw)
            seen.add(payload_hash)

        seen: set[bytes] = set()
        forgetful.keep_payload = lose  # type: ignore[method-assign]  # a bad disk
        await swarm.run_until_round(12)
        assert_agree(swarm)
        assert any(name == "payload.lost" for name, _ in swarm.nodes[0].observer.events)
        assert height(swarm.nodes[0]) == 12

    play(scenario)


def test_a_joiner_that_cannot_get_level_takes_part_after_three_rounds() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(3)
        await swarm.run_until_round(10)
        joiner_name = peer_name(3)
        swarm.faults.answered_s = lambda asked: (
            None if asked.asking == joiner_name and asked.request.kind is Blob.PAYLOAD else 0.0
        )
        joiner = await swarm.add(3, syncing=True)
        await swarm.run_until_round(12)
        assert joiner.machine.syncing
        await swarm.run_until_round(15)
        assert not joiner.machine.syncing
        swarm.faults.answered_s = lambda asked: 0.0
        await swarm.run_until_round(20)
        assert_agree(swarm)

    play(scenario)
