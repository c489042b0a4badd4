"""Which node suffers what, and when: drawn from a seed before the swarm starts."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

DOWN_MS: Final = (2_000, 5_000)
"""A killed node is started again after a time between these."""

STALL_MS: Final = 20_000
"""So long a node is stopped, or until the quiet end of the run, if that is sooner."""

LEAST_MS: Final = 1_000
"""Of a fault before the quiet end: a shorter one would show nothing."""

STARTING_MS: Final = 15_000
"""A killed node that was started again is left alone for so long: it imports torch and replays."""

QUIET_ROUNDS: Final = 5
QUIET_MS: Final = 20_000
"""The end of a run without faults, the longer of the two: whoever was away is back by then."""


class FaultKind(StrEnum):
    """What can happen to a volunteer's machine in mid-round."""

    KILL = "kill"  # SIGKILL of the node process, which is started again on its data folder
    KILL_TRAINER = "kill-trainer"  # SIGKILL of its trainer only
    STALL = "stall"  # SIGSTOP of the node process, then SIGCONT


@dataclass(frozen=True, slots=True)
class Fault:
    """One node's misfortune. Times in milliseconds, `at_ms` from genesis on."""

    at_ms: int
    node: int
    kind: FaultKind
    lasts_ms: int
    """How long the node is down or stopped; 0 for a trainer, which its node starts again."""


def plan_faults(
    *, seed: int, nodes: int, every_ms: int, rounds: int, round_ms: int
) -> Sequence[Fault]:
    """The faults of a run, oldest first. Equal arguments give equal faults.

    The victim is any node that is not away then, and every kind comes once in three faults. But
    at least half of the nodes stay: while as many as may are away, others only lose trainers. A
    round has few proposer slots (rule 12), and a record only where one of them is present.
    """
    rng = random.Random(seed)
    quiet_ms = (rounds * round_ms) - max(QUIET_ROUNDS * round_ms, QUIET_MS)
    back_ms = [0] * nodes
    kinds: list[FaultKind] = []
    faults = []
    for at_ms in range(every_ms, quiet_ms - LEAST_MS + 1, every_ms):
        kinds = kinds or rng.sample(list(FaultKind), len(FaultKind))
        present = [node for node in range(nodes) if back_ms[node] <= at_ms]
        if not present:
            continue
        node, may_go = rng.choice(present), 2 * (len(present) - 1) >= nodes or nodes == 1
        kind = kinds.pop() if may_go else FaultKind.KILL_TRAINER
        lasts_ms = min(_draw_duration_ms(rng, kind), quiet_ms - at_ms)
        starting_ms = STARTING_MS if kind is FaultKind.KILL else 0
        back_ms[node] = at_ms + lasts_ms + starting_ms
        faults.append(Fault(at_ms, node, kind, lasts_ms))
    return faults


def _draw_duration_ms(rng: random.Random, kind: FaultKind) -> int:
    match kind:
        case FaultKind.KILL:
            return rng.randint(*DOWN_MS)
        case FaultKind.KILL_TRAINER:
            return 0
        case FaultKind.STALL:
            return STALL_MS
