"""How long after a cut has healed until all nodes hold one head."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from demo_node.cli.swarm.lives import TAKES_PART
from demo_node.cli.swarm.node import SwarmNode


@dataclass(slots=True)
class Heal:
    """The moment from which on no cut was left; `agreed_s` None while they have not agreed."""

    round: int
    agreed_s: float | None = None
    begin_s: float = field(default_factory=time.monotonic)


class Agreeing:
    """Looks at the nodes' heads after every heal."""

    def __init__(self) -> None:
        self.heals: list[Heal] = []

    def on_cut(self) -> None:
        """The wires are cut: a heal before which they had no time to agree does not count."""
        if self.heals and self.heals[-1].agreed_s is None:
            self.heals.pop()

    def on_heal(self, round_: int) -> None:
        """No cut is left."""
        self.heals.append(Heal(round_))

    def look(self, nodes: Sequence[SwarmNode]) -> None:
        """Take note if those that take part agree now."""
        heal = self.heals[-1] if self.heals else None
        if heal is None or heal.agreed_s is not None:
            return
        statuses = [node.status for node in nodes if node.status]
        heads = {status.head for status in statuses if status.state in TAKES_PART}
        if len(heads) == 1:
            heal.agreed_s = time.monotonic() - heal.begin_s
