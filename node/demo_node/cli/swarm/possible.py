"""What of a scenario a real swarm on this machine can let happen."""

import sys
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Final

from demo_node.cli.swarm.drive import plan_manifest
from demo_node.cli.swarm.nodes import SwarmOptions
from demo_node.sim.impossible import list_impossible
from demo_node.sim.scenario import Do, Expect, Links, Mix
from demo_node.sim.scenario_keys import IGNORED, get_keys
from demo_protocol.errors import ConfigError
from demo_protocol.manifest import Data

NODES_MAX: Final = 64
ROUNDS_MAX: Final = 9_000

IMPOSSIBLE: Final = {
    Do.CLOCK: "every node has this machine's clock",
    Do.SLOW: "all nodes have the same processors",
    Do.FULL_DISK: "all nodes have the same disk",
    Do.LIE: "real nodes are honest",
}

NO_TEXT: Final = Data(
    kind="stdlib-bytes", root="00" * 32, train_bytes=1 << 20, heldout_bytes=1 << 16
)
"""For a manifest that is only tried."""


def check_scenario(options: SwarmOptions) -> list[str]:
    """One line for each thing that will not happen. Raises ConfigError where nothing can."""
    scenario = options.scenario
    if not sys.platform.startswith("linux"):
        raise ConfigError(
            "--scenario needs Linux, whose kernel tells which node dials", exit_code=69
        )
    if scenario.nodes > NODES_MAX:
        raise ConfigError(f"{scenario.nodes} real nodes are too many; --nodes {NODES_MAX} at most")
    if scenario.rounds > ROUNDS_MAX:
        raise ConfigError(f"{scenario.rounds} rounds are too many; --rounds {ROUNDS_MAX} at most")
    plan_manifest(options, 0, NO_TEXT)
    return list(_list_ignored(options))


def _list_ignored(options: SwarmOptions) -> Iterator[str]:
    scenario = options.scenario
    default = Links()
    for field in fields(Links):
        value = getattr(scenario.links, field.name)
        if get_keys(Links)[field.name].real == IGNORED and value != getattr(default, field.name):
            yield f"links.{field.name} is ignored: only latency is put between real nodes"
    if scenario.mix != Mix():
        yield "mix is ignored: real nodes suffer what is planned, in [[event]]"
    if scenario.expect != Expect():
        yield "expect is ignored: of real nodes the report says what came of them"
    yield from list_impossible(replace(scenario, mix=Mix()))
    for do in dict.fromkeys(event.do for event in scenario.events):
        if do in IMPOSSIBLE:
            yield f"{do.value} is ignored: {IMPOSSIBLE[do]}"
        if do is Do.POWER_CUT:
            yield "power_cut only kills: what was written stays, synced to disk or not"
