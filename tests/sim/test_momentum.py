"""A trainer that is new is told what became of all that was sent (rules T3 and 24)."""

import asyncio
from pathlib import Path

from demo_node.ports import AdoptOrder, Fate, LearnerLost, TrainOrder
from demo_node.sim.keys import peer_name
from demo_node.sim.whole.faults import Asked
from demo_node.sim.whole.model_learner import ModelLearner
from demo_node.sim.whole.swarm import SimNode, SimSwarm
from demo_node.store.datadir import DataDir
from demo_node.store.memory import MemoryDisk
from demo_protocol.errors import ConfigError
from tests.builders import MANIFEST
from tests.sim.scenes import assert_agree, is_payload_of, play

LATE_ROUNDS = MANIFEST.agreement.late_rounds

HIDDEN = range(12, 17)
"""Nobody gets node 0's payloads of these rounds in time."""


def model(node: SimNode) -> ModelLearner:
    assert isinstance(node.learner, ModelLearner)
    return node.learner


def adopted(node: SimNode) -> AdoptOrder:
    (order,) = model(node).adopted
    assert order is not None
    return order


def fates(order: AdoptOrder) -> dict[int, Fate]:
    return {sent.round: sent.fate for sent in order.sent}


def on_chain(node: SimNode, author: SimNode) -> set[int]:
    """Rounds whose record lists a contribution of the author's."""
    view = node.view
    return {
        step.round
        for step in view.chain.ancestors(view.head)
        for listed in step.contributions
        if listed.body.peer == author.name and listed.body.round == step.round
    }


def told(node: SimNode, name: str) -> list[dict[str, object]]:
    return [fields for event, fields in node.observer.events if event == name]


def hide(swarm: SimSwarm) -> None:
    def answered(asked: Asked) -> float | None:
        return 5.0 if is_payload_of(asked, swarm, 0, HIDDEN) else 0.0

    swarm.faults.answered_s = answered


def test_after_a_restart_all_that_was_sent_is_judged_by_the_chain() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4)
        hide(swarm)
        await swarm.run_until_round(25)
        (saved,) = {fields["bytes"] for fields in told(swarm.nodes[0], "momentum.saved")}
        assert saved
        victim = swarm.nodes[0]
        swarm.faults.answered_s = lambda asked: 0.0
        await swarm.kill(victim)
        again = await swarm.add(0, disk=victim.disk, syncing=True)
        await swarm.run_until_round(28)
        order = adopted(again)
        counted = on_chain(swarm.nodes[0], victim)
        missed = set(HIDDEN) - counted
        assert missed
        assert order.path == DataDir(Path("/") / victim.name.hex()[:8]).momentum
        found = fates(order)
        assert set(found) >= set(range(24))
        settled = {round_: fate for round_, fate in found.items() if fate is not Fate.OPEN}
        assert {r for r, fate in settled.items() if fate is Fate.COUNTED} == counted & set(settled)
        assert missed <= {r for r, fate in settled.items() if fate is Fate.DROPPED}
        assert min(set(found) - set(settled)) >= 25 - LATE_ROUNDS
        # The file is as of round 18: what was sent after that comes along, and no more.
        with_bytes = {sent.round for sent in order.sent if sent.payload}
        assert with_bytes == {r for r in found if r > 18 and found[r] is not Fate.DROPPED}
        # What was open is decided in the new process.
        still_open = {r for r, fate in found.items() if fate is Fate.OPEN}
        assert len(still_open) >= 3
        await swarm.run_until_round(28 + LATE_ROUNDS)
        decided = set(model(again).released) | set(model(again).restored)
        assert still_open <= decided
        assert still_open & counted <= set(model(again).released)
        assert_agree(swarm)

    play(scenario)


def test_a_new_trainer_of_a_running_node_is_told_too() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4)
        hide(swarm)
        await swarm.run_until_round(22)
        node = swarm.nodes[0]
        assert model(node).adopted == [None]  # there was no file at its start
        model(node).adopted.clear()  # as if another trainer were up
        undecided = set(node.machine.sent.headers)
        await swarm.run_until_round(24)
        found = fates(adopted(node))
        assert {r for r, fate in found.items() if fate is Fate.OPEN} <= undecided | {22, 23}
        assert set(found) >= set(range(22))
        assert {r for r, fate in found.items() if fate is Fate.DROPPED} >= set(HIDDEN) - on_chain(
            node, node
        )

    play(scenario)


def test_what_nobody_has_taken_over_is_not_overwritten() -> None:
    """An archive never trains: were it to save, what a node left in its folder would be lost."""

    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(3)
        await swarm.run_until_round(12)
        victim = swarm.nodes[2]
        path = DataDir(Path("/") / victim.name.hex()[:8]).momentum
        await swarm.kill(victim)
        left = victim.disk.read(path)
        archive = await swarm.add(2, disk=victim.disk, syncing=True, is_archive=True)
        await swarm.run_until_round(24)
        assert archive.view.head_state.height > 20
        assert archive.disk.read(path) == left
        assert not model(archive).adopted
        assert not told(archive, "momentum.saved")

    play(scenario)


class Deadly(ModelLearner):
    """Dies over every file that it is to go on from."""

    async def adopt(self, order: AdoptOrder | None) -> None:
        """See `Learner.adopt`."""
        if order is not None:
            raise LearnerLost("it died over it")
        await super().adopt(order)


def test_a_file_that_a_trainer_died_over_is_not_given_to_the_next() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(3)
        await swarm.run_until_round(12)
        victim = swarm.nodes[2]
        await swarm.kill(victim)
        swarm.make_learner = Deadly
        again = await swarm.add(2, disk=victim.disk, syncing=True)
        await swarm.run_until_round(20)
        assert model(again).adopted == [None]
        assert told(again, "momentum.ignored") == [{"reason": "a trainer died over it"}]
        assert on_chain(swarm.nodes[0], again) >= {18}
        await swarm.run_until_round(24)
        assert told(again, "momentum.saved")  # and that one may be gone on from

    play(scenario)


class Slow(ModelLearner):
    """Goes on from a file for some rounds. What it is asked meanwhile is kept in `calls`."""

    calls: list[str]

    async def adopt(self, order: AdoptOrder | None) -> None:
        """See `Learner.adopt`."""
        self.calls = ["begin"]
        await asyncio.sleep(9)
        await super().adopt(order)
        self.calls.append("end")

    async def release(self, round_: int) -> None:
        """See `Learner.release`."""
        self.calls.append("release")

    async def restore(self, round_: int) -> None:
        """See `Learner.restore`."""
        self.calls.append("restore")

    async def train(self, order: TrainOrder) -> object:  # type: ignore[override]
        """See `Learner.train`."""
        assert not self.needs_momentum
        return await super().train(order)


def test_nothing_is_decided_while_a_trainer_takes_over() -> None:
    """Else a round that was open when it was judged would stay so for ever."""

    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(3)
        await swarm.run_until_round(12)
        node = swarm.nodes[0]
        slow = Slow(MANIFEST, node.clock, node.name)
        slow.states = model(node).states
        slow.calls = []
        put_in_place(node, slow)
        await swarm.run_until_round(20)
        assert slow.calls[:2] == ["begin", "end"]
        assert len(slow.calls) > 5

    play(scenario)


def put_in_place(node: SimNode, learner: ModelLearner) -> None:
    """As if the supervisor had started another trainer, with the states already loaded."""
    node.driver.orders._learner = learner
    node.driver.momentum._learner = learner


class Full(MemoryDisk):
    """Takes no momentum while `is_full`."""

    is_full = True

    def create(self, path: Path, mode: int = 0o600) -> object:  # type: ignore[override]
        """See `Disk.create`."""
        if self.is_full and "momentum" in path.name:
            raise ConfigError("the disk is full")
        return super().create(path, mode)


def test_a_full_disk_is_told_once_and_does_not_stop_the_node() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(2)
        disk = Full()
        datadir = DataDir(Path("/") / peer_name(2).hex()[:8])
        for folder in (datadir.path, datadir.payloads, datadir.snapshots, datadir.corpus):
            disk.make_folder(folder)
        node = await swarm.add(2, disk=disk)
        await swarm.run_until_round(35)
        assert told(node, "momentum.missed") == [{"reason": "the disk is full"}]
        assert len(told(node, "snapshot.saved")) == 3
        disk.is_full = False
        await swarm.run_until_round(45)
        assert len(told(node, "momentum.saved")) == 1
        assert_agree(swarm)

    play(scenario)
