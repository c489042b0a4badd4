"""What quiet hours change: caps, or whether the node trains; and what the operator says wins."""

from pathlib import Path
from typing import cast

import pytest

from demo_node.config import Config
from demo_node.operations import NodeOperations
from demo_node.ports import OpenMesh
from demo_node.quietness import Quietness
from demo_node.sim.whole.silent_observer import SilentObserver
from demo_node.sim.whole.swarm import SimSwarm
from demo_node.stopping import Stopping
from demo_node.views import NodeState
from tests.sim.scenes import play

HOURS = "22:00-07:00"


class Capped:
    """A mesh that notes its caps, bytes a second up and down."""

    def __init__(self) -> None:
        self.caps: list[tuple[float, float]] = []

    def set_caps(self, upload_bytes_per_s: float, download_bytes_per_s: float) -> None:
        self.caps.append((upload_bytes_per_s, download_bytes_per_s))


def make_quietness(
    operations: NodeOperations | None = None, keys: dict[str, int] | None = None
) -> Quietness:
    config = Config(datadir=Path("/"), quiet_hours=HOURS, **(keys or {}))  # type: ignore[arg-type]
    mesh = cast(OpenMesh, Capped())
    return Quietness(config, mesh, cast(NodeOperations, operations), SilentObserver())


@pytest.mark.parametrize(
    ("keys", "quiet", "usual"),
    [
        ({"quiet_upload_kbit_s": 8}, (1_000, 0), (0, 0)),
        ({"upload_kbit_s": 80, "quiet_upload_kbit_s": 8}, (1_000, 0), (10_000, 0)),
        ({"upload_kbit_s": 80, "quiet_download_kbit_s": 8}, (10_000, 1_000), (10_000, 0)),
        # It may be the night in which others sleep: then the caps are larger.
        ({"download_kbit_s": 8, "quiet_download_kbit_s": 80}, (0, 10_000), (0, 1_000)),
    ],
)
def test_caps_of_their_own_hold_in_the_quiet_hours(
    keys: dict[str, int], quiet: tuple[int, int], usual: tuple[int, int]
) -> None:
    quietness = make_quietness(keys=keys)  # no operations: training goes on
    mesh = quietness._mesh
    assert isinstance(mesh, Capped)
    assert quietness.upload_bytes_per_s == usual[0]
    quietness.on_change(True)
    assert quietness.upload_bytes_per_s == quiet[0]
    quietness.on_change(False)
    assert quietness.upload_bytes_per_s == usual[0]
    assert mesh.caps == [quiet, usual]


def test_without_such_caps_nothing_is_trained_and_what_the_operator_says_wins() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(2)
        node = swarm.nodes[0]
        mesh = swarm.network.find(node.name)
        assert mesh is not None
        operations = NodeOperations(clock=node.clock, mesh=mesh, stopping=Stopping())
        quietness = make_quietness(operations)
        quietness.on_change(True)  # before there is anything that could train
        assert operations.quiet_until == "07:00"
        operations.driver, operations.learner = node.driver, node.learner
        operations.manifest = swarm.manifest
        operations.set_state(NodeState.ACTIVE)
        quietness.on_change(False)
        assert not node.machine.paused

        await swarm.run_until_round(4)
        quietness.on_change(True)
        assert node.machine.paused
        status = operations.status()
        assert status.state is NodeState.PAUSED
        assert status.detail == "quiet hours: not training until 07:00 or demo-node resume"
        quietness.on_change(False)
        assert not node.machine.paused
        assert operations.status().state is NodeState.ACTIVE

        quietness.on_change(True)
        operations.resume()
        assert not node.machine.paused
        quietness.on_change(False)
        assert not node.machine.paused

        operations.pause()
        quietness.on_change(True)
        quietness.on_change(False)
        assert node.machine.paused
        quietness.on_change(True)
        operations.resume()
        quietness.on_change(False)
        quietness.on_change(True)
        operations.pause()
        quietness.on_change(False)
        assert node.machine.paused
        assert operations.status().detail == "not training until demo-node resume"

    play(scenario)
