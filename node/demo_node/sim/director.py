"""Lets a scenario happen to a world: what is planned, and what its mix draws from the seed."""

from demo_node.sim.scenario import Scenario
from demo_node.sim.world import World


class Director:
    """Plays one scenario."""

    def __init__(self, world: World, scenario: Scenario) -> None:
        self.world = world
        self.scenario = scenario

    def run(self, nodes: int, rounds: int) -> None:
        """From the first birth to the end of the last round."""
        world = self.world
        for _ in range(nodes):
            world.add()
        for actor in world.actors:
            actor.boot()
        for round_ in range(rounds):
            world.run_until_round(round_ + 1)
