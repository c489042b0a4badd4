"""Rule 25 in simulation: who goes on elsewhere goes only where its final record is on the way."""

from dataclasses import replace

import pytest

from demo_node.sim.agreeing import OneChain
from demo_protocol.events import StartMoved
from demo_protocol.finality import Final
from tests.simulate.stages import QUIET, Stage

NODE = 3


@pytest.mark.parametrize("is_theirs", [True, False])
def test_a_snapshot_is_taken_of_a_chain_through_the_final_record_only(is_theirs: bool) -> None:
    stage = Stage(replace(QUIET, agreement=(("snapshot_every", 2),)), OneChain())
    found: list[bool] = []

    def look_elsewhere() -> None:
        actor = stage.world.actors[NODE]
        final = actor.view.final
        assert final is not None
        elsewhere = replace(actor.view.head_state, record=bytes(32))
        actor.trainer.states[elsewhere.record] = b"another!"
        actor.post(StartMoved(actor.now_ms(), elsewhere, b"another!"))
        actor.view.final = final if is_theirs else Final(bytes(32), final.round, final.height)
        found.append(stage.world.find_elsewhere(actor, 0) is not None)
        actor.crash()

    stage.at(8, look_elsewhere)
    stage.run()
    assert found == [is_theirs]
