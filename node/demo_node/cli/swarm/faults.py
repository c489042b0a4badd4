"""Which node suffers what, and when, with --kill-every: drawn from a seed before the start."""

import random
from typing import Final

from demo_node.sim.scenario import Do, Event

DOWN_MS: Final = (2_000, 5_000)
"""A killed node is started again after a time between these."""

STOPPED_MS: Final = 20_000
"""So long a node is stopped, or until the quiet end of the run, if that is sooner."""

LEAST_MS: Final = 1_000
"""Of a fault before the quiet end: a shorter one would show nothing."""

STARTING_MS: Final = 15_000
"""A killed node that was started again is left alone for so long: it imports torch and replays."""

QUIET_ROUNDS: Final = 5
QUIET_MS: Final = 20_000
"""The end of a run without faults, the longer of the two: whoever was away is back by then."""

KINDS: Final = (Do.KILL, Do.TRAINER_DIES, Do.STOP)
"""What can happen to a volunteer's machine in mid-round."""


def plan_faults(
    *, seed: int, nodes: int, every_ms: int, rounds: int, round_ms: int
) -> tuple[Event, ...]:
    """The faults of a run, oldest first, each of one node. Equal arguments give equal faults.

    The victim is any node that is not away then, and every kind comes once in three faults. But
    at least half of the nodes stay: while as many as may are away, others only lose trainers. A
    round has few proposer slots (rule 12), and a record only where one of them is present.
    """
    rng = random.Random(seed)
    quiet_ms = (rounds * round_ms) - max(QUIET_ROUNDS * round_ms, QUIET_MS)
    back_ms = [0] * nodes
    kinds: list[Do] = []
    faults = []
    for at_ms in range(every_ms, quiet_ms - LEAST_MS + 1, every_ms):
        kinds = kinds or rng.sample(KINDS, len(KINDS))
        present = [node for node in range(nodes) if back_ms[node] <= at_ms]
        if not present:
            continue
        node, may_go = rng.choice(present), 2 * (len(present) - 1) >= nodes or nodes == 1
        kind = kinds.pop() if may_go else Do.TRAINER_DIES
        lasts_ms = min(_draw_duration_ms(rng, kind), quiet_ms - at_ms)
        starting_ms = STARTING_MS if kind is Do.KILL else 0
        back_ms[node] = at_ms + lasts_ms + starting_ms
        round_, into_ms = divmod(at_ms, round_ms)
        faults.append(
            Event(
                do=kind,
                round=round_,
                at=into_ms / round_ms,
                nodes=(node,),
                rounds=lasts_ms / round_ms,
            )
        )
    return tuple(faults)


def _draw_duration_ms(rng: random.Random, kind: Do) -> int:
    if kind is Do.KILL:
        return rng.randint(*DOWN_MS)
    return STOPPED_MS if kind is Do.STOP else 0
