"""Rule 20 in simulation: digests accuse, a replay decides, and liars who agree get nowhere."""

from demo_node.sim.actor import Actor
from demo_node.sim.agreeing import OneChain
from demo_node.sim.books import NoWitness
from demo_node.sim.watching import Invariant
from demo_protocol.effects import Effect, Replay, ReplayAgreed
from demo_protocol.events import Event
from tests.simulate.stages import QUIET, Stage, sized

NODE = 3


class Replays(Invariant):
    """Who computed again, and what came of it. Nothing breaks it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[int, type[Effect]]] = []

    def on_step(self, actor: Actor, event: Event, effects: list[Effect]) -> None:
        self.found += [
            (actor.index, type(e)) for e in effects if isinstance(e, Replay | ReplayAgreed)
        ]


def test_an_error_in_memory_is_mended_by_one_replay() -> None:
    replays = Replays()
    stage = Stage(sized(QUIET, 8, 14), replays, NoWitness(), OneChain())

    def flip_a_bit() -> None:
        states = stage.world.actors[NODE].trainer.states
        states.update(dict.fromkeys(states, b"another!"))

    stage.at(8, flip_a_bit)
    assert stage.run() == []
    assert replays.found == [(NODE, Replay), (NODE, ReplayAgreed)]
    assert len({node.trainer.states[node.view.head] for node in stage.world.actors}) == 1
    assert len({node.view.head for node in stage.world.actors}) == 1
