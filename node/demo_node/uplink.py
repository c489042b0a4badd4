"""What an uplink carries, and how many coefficients of each chunk fit through it in time.

No clock, no sockets: numbers in, numbers out. Others measure (`mesh/uplink_meter.py`, the
simulator) and send (`sending.py`).
"""

import statistics
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from demo_node.ports import Slice

SLICE_S: Final = 0.25
"""Sending is measured in slices of this length: long against a round trip."""

ROUNDS_KEPT: Final = 5
"""The estimate is the median of so many rounds' fastest slices.

The fastest of a round, since in many it is a receiver that is slow; the median, since now and then
acknowledgements come all at once."""

ASSUMED_BYTES_PER_S: Final = 125_000.0
"""Before anything was measured: 1 Mbit/s, as slow as home uplinks commonly are."""

COPIES_ASSUMED: Final = 3
"""Copies of a payload that its author has to send, before a round has shown it."""

COPIES_KEPT: Final = 8
"""Rounds of which the one with the most copies counts."""

START_SHARE, KEEP_SHARE, GROW_SHARE = 0.75, 0.9, 0.6
"""Of what the uplink carries in the window: what a payload's copies may take up when k is chosen
anew, while it stays, and for a larger one. An estimate that wavers by less than half moves nothing:
0.9 is 1.5 times 0.6."""

OWN_SHARE: Final = 0.25
"""Of the uplink, at least so much is for our own payload, whatever goes out beside it: to send
less and less would free nothing more."""

GROW_ROUNDS: Final = 3
"""So many rounds in a row there must be room for a larger k, and then it grows by one step."""


def is_whole(seen: Slice) -> bool:
    """What was over sooner waited for a round trip more than for the uplink."""
    return seen.seconds >= SLICE_S


class FastestSlice:
    """The fastest slice since it was last asked for; a whole one, where there is any."""

    def __init__(self) -> None:
        self._best = Slice()

    def add(self, seen: Slice) -> None:
        """One more."""
        best = self._best
        if (is_whole(seen), seen.bytes_per_s) > (is_whole(best), best.bytes_per_s):
            self._best = seen

    def take(self) -> Slice:
        """It, and begin anew."""
        best, self._best = self._best, Slice()
        return best


class UplinkEstimate:
    """What an uplink carries, from the fastest slice of each round."""

    def __init__(self) -> None:
        self._rates: deque[float] = deque(maxlen=ROUNDS_KEPT)

    @property
    def bytes_per_s(self) -> float:
        """0 while nothing was seen."""
        return statistics.median_low(self._rates) if self._rates else 0.0

    def add(self, fastest: Slice) -> None:
        """Of one more round. A short one can show that the uplink is faster, and not slower."""
        rate = fastest.bytes_per_s
        if is_whole(fastest) or rate > self.bytes_per_s:
            self._rates.append(rate)


def list_points(k_max: int) -> list[int]:
    """The k to choose from, ascending: powers of two, and the run's own."""
    return sorted({k_max, *(1 << i for i in range(k_max.bit_length()) if 1 << i <= k_max)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What is known when k is chosen: bytes a second (0: not measured), copies that were asked for.

    `passed_on`: bytes of others' payloads that go out beside them. `cap`: the operator's own limit
    in bytes a second, 0 for none.
    """

    bytes_per_s: float
    copies: int
    passed_on: int = 0
    cap: float = 0.0

    @property
    def usable_bytes_per_s(self) -> float:
        """What may be planned with."""
        rate = self.bytes_per_s or ASSUMED_BYTES_PER_S
        return min(rate, self.cap) if self.cap else rate

    def compute_room(self, window_s: float) -> float:
        """Bytes of our own that leave in so much time."""
        carried = self.usable_bytes_per_s * window_s
        return max(carried - self.passed_on, OWN_SHARE * carried)


class KControl:
    """Chooses k round by round, so that a payload's copies leave in time; slow to rise.

    `sizes`: typical bytes of a payload, by k. `window_s`: from the train boundary until what came
    later is not counted.
    """

    def __init__(self, sizes: Mapping[int, int], window_s: float) -> None:
        self._sizes = dict(sorted(sizes.items()))
        self._window_s = window_s
        self._k = 0
        self._rounds_with_room = 0

    def choose(self, demand: Demand) -> int:
        """k of the next round."""
        room = demand.compute_room(self._window_s)
        needs = {k: size * max(demand.copies, 1) for k, size in self._sizes.items()}
        if not self._k or needs[self._k] > KEEP_SHARE * room:
            fitting = [k for k in needs if needs[k] <= START_SHARE * room and k <= (self._k or k)]
            self._k = max(fitting, default=min(needs))
            self._rounds_with_room = 0
            return self._k
        larger = next((k for k in needs if k > self._k), None)
        if larger is None or needs[larger] > GROW_SHARE * room:
            self._rounds_with_room = 0
            return self._k
        self._rounds_with_room += 1
        if self._rounds_with_room >= GROW_ROUNDS:
            self._k, self._rounds_with_room = larger, 0
        return self._k


class Given:
    """What was asked of this node in the last rounds."""

    def __init__(self) -> None:
        self._copies: deque[int] = deque([COPIES_ASSUMED], maxlen=COPIES_KEPT)
        self._passed_on: deque[int] = deque(maxlen=ROUNDS_KEPT)

    @property
    def copies(self) -> int:
        """Of our own payload, in the round with the most; at least one."""
        return max(1, *self._copies)

    @property
    def passed_on(self) -> int:
        """Bytes of others' payloads, in an ordinary round."""
        return statistics.median_high(self._passed_on) if self._passed_on else 0

    def add_copies(self, copies: int) -> None:
        """Of one more round in which this node sent."""
        self._copies.append(copies)

    def add_passed_on(self, passed_on: int) -> None:
        """In one more round, whether this node sent in it or not."""
        self._passed_on.append(passed_on)
