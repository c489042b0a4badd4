"""What a node said at one moment, and what only several such moments tell."""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from demo_node.views import HealthView, RoundView, StatusView, SwarmPeersView
from demo_protocol.common_time import PEERS_MIN

ROUNDS_READ: Final = 120
"""Newest rounds that are asked for: as many as the widest chart shows."""

WINDOW_S: Final = 10.0
"""Bytes per second are those of so long: gossip and payloads come in bursts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One answer of the node to everything. `rounds`: newest, oldest first.

    Bytes per second are NaN before two answers. `age_s`: how old this is; `silent_s`: how long the
    next answer has been awaited; `unverified_s`: how long nobody vouches for the clock, although
    there are enough peers to ask.
    """

    status: StatusView
    rounds: Sequence[RoundView]
    swarm: SwarmPeersView
    health: HealthView
    bytes_in_per_s: float = math.nan
    bytes_out_per_s: float = math.nan
    age_s: float = 0.0
    silent_s: float = 0.0
    unverified_s: float = 0.0

    @property
    def now_ms(self) -> int:
        """The node's clock now, Unix ms: it goes on between two answers."""
        return self.swarm.now_ms + round(self.age_s * 1000)

    @property
    def lag_rounds(self) -> int:
        """Rounds from the head's to the one that is running now. There must be a run."""
        status = self.status
        return max(0, (self.now_ms - status.genesis_ms) // status.round_ms - status.head_round)


@dataclass(frozen=True, slots=True)
class _Sample:
    at_s: float
    bytes_in: int
    bytes_out: int


class Readings:
    """Makes readings of answers: remembers traffic of a while, and what lasts."""

    def __init__(self) -> None:
        self._samples: deque[_Sample] = deque()
        self._pid = 0
        self._unverified_since_s: float | None = None

    def add(
        self,
        status: StatusView,
        rounds: Sequence[RoundView],
        swarm: SwarmPeersView,
        health: HealthView,
        at_s: float,
    ) -> Reading:
        """The node's answers, given at `at_s` of a clock that never goes back."""
        if status.pid != self._pid:  # another process: it counts from 0
            self._samples.clear()
            self._pid = status.pid
            self._unverified_since_s = None
        if status.clock.verified or status.peers < PEERS_MIN:
            self._unverified_since_s = None
        elif self._unverified_since_s is None:
            self._unverified_since_s = at_s
        since_s = self._unverified_since_s
        self._samples.append(_Sample(at_s, status.bytes_in, status.bytes_out))
        while at_s - self._samples[0].at_s > WINDOW_S and len(self._samples) > 2:
            self._samples.popleft()
        first = self._samples[0]
        return Reading(
            status=status,
            rounds=rounds,
            swarm=swarm,
            health=health,
            bytes_in_per_s=compute_rate(status.bytes_in - first.bytes_in, at_s - first.at_s),
            bytes_out_per_s=compute_rate(status.bytes_out - first.bytes_out, at_s - first.at_s),
            unverified_s=0.0 if since_s is None else at_s - since_s,
        )


def compute_rate(amount: float, seconds: float) -> float:
    """Amount per second; NaN of no time."""
    return amount / seconds if seconds > 0 else math.nan
