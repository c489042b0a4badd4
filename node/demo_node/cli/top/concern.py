"""One thing that an operator should look at."""

from dataclasses import dataclass
from typing import Final

from demo_node.views import NodeState

TAKING_PART: Final = (NodeState.ACTIVE, NodeState.PAUSED)
"""States in which a node is level with a run that goes on."""


@dataclass(frozen=True, slots=True)
class Concern:
    """`is_urgent`: the node does not do its part, or does it for nothing."""

    name: str
    text: str
    remedy: str
    is_urgent: bool = True
