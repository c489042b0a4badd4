"""Everything at once, at random: cuts, losses, slow links, power cuts, dying trainers, newcomers.

Whatever happened, nodes that can reach each other again are on one chain a few rounds later. To
play one seed again: pytest tests/sim/test_storm.py -k 'seed7'.
"""

import random
from typing import Any

import pytest

from demo_node.ports import ApplyOrder, Blob, LearnerLost, Trained, TrainOrder
from demo_node.sim.whole.faults import Asked
from demo_node.sim.whole.model_learner import ModelLearner
from demo_node.sim.whole.swarm import SimSwarm
from demo_node.sim.whole.virtual_loop import VirtualClock
from demo_node.store.memory import MemoryDisk
from demo_protocol.manifest import Agreement
from demo_protocol.schedule import round_at
from tests.builders import manifest
from tests.sim.scenes import assert_agree, height, play

QUIET_ROUNDS, ROUNDS = 6, 50
"""Founders that never met, and whose first records are forgotten, are two runs (rule 19)."""

CALM_ROUNDS = 18
"""L rounds until a node knows that it is astray, a snapshot, and what was trained since."""

FOUND = (607, 611)
"""607: halves for longer than payloads are kept, of which one had admitted newcomers, stayed apart,
until records were kept for forget_rounds. 611: a trainer that died on a branch which its node had
left for its own."""

SHORT_WINDOW: dict[str, Any] = {"payload_window_rounds": 20, "snapshot_every": 5}
"""Who is cut off or away for a while comes back to a run that has forgotten the way."""

EARLY_FINALITY: dict[str, Any] = {"final_min_records": 4}
"""Nobody leaves what is final: that keeps no two sides of a storm apart."""


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

    @property
    def round(self) -> int:
        """The running round by the true clock."""
        return round_at(self.swarm.manifest.schedule, VirtualClock().now_ms())

    async def strike(self) -> None:
        """One more thing happens."""
        rng, swarm = self.rng, self.swarm
        kinds = ["cut", "heal", "kill", "return", "join", "nothing"]
        match rng.choices(kinds, [32, 22, 16, 14, 10, 6])[0]:
            case "nothing":  # what is apart stays apart, who is away stays away
                await swarm.run_until_round(self.round + 25)
            case "cut":
                self.sides = {node.name: rng.randint(0, 1) for node in swarm.nodes}
            case "heal":
                self.sides = {}
            case "kill" if len(swarm.nodes) > 2:
                victim = rng.choice(swarm.nodes)
                await swarm.kill(victim)
                is_power_cut = rng.random() < 0.5
                disk = victim.disk.after_power_cut(rng) if is_power_cut else victim.disk
                self.graves[self.numbers[victim.name]] = disk
            case "return" if self.graves:
                number = rng.choice(sorted(self.graves))
                await self.add(number, self.graves.pop(number))
            case "join" if len(self.numbers) < 10:
                await self.add(len(self.numbers))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [*range(16), *FOUND], ids=lambda seed: f"seed{seed}")
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
        await swarm.run_until_round(QUIET_ROUNDS)
        while storm.round < ROUNDS:
            await swarm.run_until_round(storm.round + storm.rng.randint(1, 5))
            await storm.strike()
        storm.is_over = True
        await swarm.run_until_round(storm.round + CALM_ROUNDS)
        await swarm.nodes[0].driver.clock.sleep_until_ms(_middle_of_training(swarm))
        assert_agree(swarm)
        assert height(swarm.nodes[0]) >= 20

    agreement = Agreement(
        **(SHORT_WINDOW if seed % 2 else {}), **(EARLY_FINALITY if seed % 4 > 1 else {})
    )
    play(scenario, SimSwarm(manifest(agreement=agreement)))


def _middle_of_training(swarm: SimSwarm) -> int:
    """A moment at which no node settles, whatever its clock says."""
    return swarm.nodes[0].driver.clock.now_ms() + 1_000
