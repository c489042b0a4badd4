"""Everything at once, at random: cuts, losses, slow links, dying nodes and trainers, newcomers.

Whatever happened, nodes that can reach each other again are on one chain a few rounds later. To
play one seed again: pytest tests/sim/test_storm.py -k 'seed7'.
"""

import random

import pytest

from demo_node.ports import ApplyOrder, Blob, LearnerLost, Trained, TrainOrder
from demo_node.sim.faults import Asked
from demo_node.sim.model_learner import ModelLearner
from demo_node.sim.swarm import SimSwarm
from demo_node.store.memory import MemoryDisk
from tests.builders import manifest
from tests.sim.scenes import assert_agree, height, play

ROUNDS, CALM_ROUNDS = 50, 8


class Storm:
    """Faults drawn from one seed, until it is over."""

    def __init__(self, swarm: SimSwarm, seed: int) -> None:
        self.swarm = swarm
        self.rng = rng = random.Random(seed)
        self.is_over = False
        self.sides: dict[bytes, int] = {}
        self.numbers: dict[bytes, int] = {}
        self.graves: dict[int, MemoryDisk] = {}
        loss, delay_s = rng.choice([0.0, 0.1, 0.3]), rng.choice([0.01, 0.1, 0.5])
        swarm.network.is_cut = self.is_cut
        swarm.network.delay_s = lambda sender, receiver, size: (
            0.005 if self.is_over else rng.uniform(0.001, delay_s)
        )
        swarm.faults.held_back_s = lambda heard: (
            None if not self.is_over and rng.random() < loss else 0.0
        )
        swarm.faults.answered_s = self.answered_s

    def is_cut(self, sender: bytes, receiver: bytes) -> bool:
        return not self.is_over and self.sides.get(sender, 0) != self.sides.get(receiver, 0)

    def answered_s(self, asked: Asked) -> float | None:
        if self.is_over or asked.request.kind is not Blob.PAYLOAD:
            return 0.0
        return None if self.rng.random() < 0.1 else self.rng.choice([0.0, 0.0, 0.0, 5.0])

    def kills_trainer(self) -> bool:
        return not self.is_over and self.rng.random() < 0.01

    async def add(self, number: int, disk: MemoryDisk | None = None) -> None:
        offset_ms, syncing = self.rng.randint(-80, 80), self.rng.random() < 0.5
        node = await self.swarm.add(number, offset_ms=offset_ms, disk=disk, syncing=syncing)
        self.numbers[node.name] = number

    async def strike(self) -> None:
        """One more thing happens."""
        rng, swarm = self.rng, self.swarm
        match rng.choices(["cut", "heal", "kill", "return", "join"], [35, 25, 15, 15, 10])[0]:
            case "cut":
                self.sides = {node.name: rng.randint(0, 1) for node in swarm.nodes}
            case "heal":
                self.sides = {}
            case "kill" if len(swarm.nodes) > 2:
                victim = rng.choice(swarm.nodes)
                self.graves[self.numbers[victim.name]] = victim.disk
                await swarm.kill(victim)
            case "return" if self.graves:
                number = rng.choice(sorted(self.graves))
                await self.add(number, self.graves.pop(number))
            case "join" if len(self.numbers) < 10:
                await self.add(len(self.numbers))


@pytest.mark.parametrize("seed", range(8), ids=lambda seed: f"seed{seed}")
def test_after_any_storm_everybody_is_on_one_chain(seed: int) -> None:
    async def scenario(swarm: SimSwarm) -> None:
        storm = Storm(swarm, seed)

        class Mortal(ModelLearner):
            async def train(self, order: TrainOrder) -> Trained:
                self._die_perhaps()
                return await super().train(order)

            async def apply(self, order: ApplyOrder) -> bytes:
                self._die_perhaps()
                return await super().apply(order)

            def _die_perhaps(self) -> None:
                if storm.kills_trainer():
                    self.states = {}
                    raise LearnerLost

        swarm.make_learner = Mortal
        for number in range(storm.rng.randint(3, 6)):
            await storm.add(number)
        round_ = 0
        while round_ < ROUNDS:
            round_ += storm.rng.randint(1, 5)
            await swarm.run_until_round(round_)
            await storm.strike()
        storm.is_over = True
        await swarm.run_until_round(round_ + CALM_ROUNDS)
        await swarm.nodes[0].driver.clock.sleep_until_ms(_middle_of_training(swarm))
        assert_agree(swarm)
        assert height(swarm.nodes[0]) >= 20

    play(scenario, SimSwarm(manifest()))


def _middle_of_training(swarm: SimSwarm) -> int:
    """A moment at which no node settles, whatever its clock says."""
    return swarm.nodes[0].driver.clock.now_ms() + 1_000
