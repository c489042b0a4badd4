"""Small simulated worlds for tests, with a hand to reach into them at a chosen moment."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from demo_node.sim.director import Director
from demo_node.sim.founding import found
from demo_node.sim.learning import make_first
from demo_node.sim.scenario import Scenario
from demo_node.sim.simulation import plan_run
from demo_node.sim.trainer import ModelTrainer
from demo_node.sim.watching import Invariant, Watcher
from demo_node.sim.world import World
from demo_protocol.effects import Apply
from demo_protocol.manifest import compute_run_id
from demo_protocol.schedule import round_start_ms

QUIET = Scenario(nodes=8, rounds=10)
"""Eight honest nodes to which nothing happens."""

SEEDS = Path(__file__).parents[1] / "sim" / "seeds"
"""Scenarios that once broke something."""


class Stage:
    """One world that `invariants` watch."""

    def __init__(self, scenario: Scenario, *invariants: Invariant, seed: int = 1) -> None:
        self.scenario = scenario
        manifest = plan_run(scenario, seed)
        root = found(compute_run_id(manifest), 0 if scenario.from_genesis else scenario.nodes)
        self.watcher = Watcher(invariants)
        self.world = World(
            manifest,
            scenario,
            seed=seed,
            first=make_first(manifest, root, scenario.learner),
            watcher=self.watcher,
        )
        self.director = Director(self.world, scenario)

    def at(self, round_: int, action: Callable[[], object], ms: int = 100) -> None:
        """Let something happen so far into a round."""
        begin_ms = round_start_ms(self.world.manifest.schedule, round_)
        self.world.timeline.at(begin_ms + ms, action)

    def crash(self, index: int) -> None:
        """This node's life ends."""
        self.world.actors[index].crash()

    def run(self) -> list[str]:
        """The names of what was broken, in order."""
        self.director.run(self.scenario.nodes, self.scenario.rounds)
        return [violation.invariant for violation in self.watcher.violations]


def let_stray(monkeypatch: pytest.MonkeyPatch, *, node: int, round_: int) -> None:
    """From this round on the node computes with another state than it should have."""
    honest = ModelTrainer.apply

    def wrong(trainer: ModelTrainer, effect: Apply) -> None:
        if trainer._actor.index == node and effect.round == round_:
            trainer.states = dict.fromkeys(trainer.states, b"another!")
        honest(trainer, effect)

    monkeypatch.setattr(ModelTrainer, "apply", wrong)


def sized(scenario: Scenario, nodes: int, rounds: int) -> Scenario:
    """The same of another size."""
    return replace(scenario, nodes=nodes, rounds=rounds)
