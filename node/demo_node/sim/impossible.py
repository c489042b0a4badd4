"""What of a scenario can never happen, told before it is played."""

import math
from collections.abc import Iterator

from demo_node.sim.scenario import Do, Event, Scenario

NODES_NAMED = 5
"""Of one event, in one line."""


def list_impossible(scenario: Scenario) -> list[str]:
    """A line for each event that comes too late, or names nodes that there can never be."""
    nodes_max = _count_nodes_max(scenario)
    return [
        f"event {number}: {reason}"
        for number, event in enumerate(scenario.events, 1)
        for reason in _list_reasons(event, scenario.rounds, nodes_max)
    ]


def _list_reasons(event: Event, rounds: int, nodes_max: float) -> Iterator[str]:
    if event.round >= rounds:
        yield f"there is no round {event.round}, the last one is {rounds - 1}"
    named = {*event.nodes, *(node for side in event.sides for node in side)}
    if missing := sorted(node for node in named if node >= nodes_max):
        some = ", ".join(map(str, missing[:NODES_NAMED]))
        more = " and others" if len(missing) > NODES_NAMED else ""
        yield f"there is never a node {some}{more}, the last one is {nodes_max - 1}"


def _count_nodes_max(scenario: Scenario) -> float:
    """Nodes that there ever are, at most; infinite where that is drawn."""
    joins = [event for event in scenario.plan() if event.do is Do.JOIN]
    if scenario.mix.join or any(event.share for event in joins):
        return math.inf
    return scenario.nodes + sum(event.count_of(0) for event in joins)
