"""Payloads that a peer sends to do harm, made from what the others send.

Whoever waits until the others' payloads can be pulled knows them all, so an attacker may. N chunks,
k coefficients each.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from demo_protocol.payload import Payload
from demo_protocol.scale import SCALE_VALUES
from demo_protocol.schema import CHUNK, SLOTS

HUGE: Final = 255
"""The largest scale code."""

MORE: Final = 4
"""Times as many coefficients as the others send, where the manifest allows that."""


@dataclass(frozen=True, slots=True)
class Swarm:
    """The payloads of a round, all honest, and the peer among them that is not."""

    payloads: Sequence[Payload]
    hostile: int

    @property
    def own(self) -> Payload:
        """What the hostile peer would send if it were honest."""
        return self.payloads[self.hostile]

    @property
    def others(self) -> list[Payload]:
        """What all others send."""
        return [p for peer, p in enumerate(self.payloads) if peer != self.hostile]

    def with_attack(self, payload: Payload) -> list[Payload]:
        """The round's payloads with `payload` in place of the hostile peer's own."""
        return [payload if peer == self.hostile else p for peer, p in enumerate(self.payloads)]


Random = np.random.Generator
Attack = Callable[[Swarm, Random], Payload]
Numbers = npt.NDArray[np.int64]


def flip_signs(swarm: Swarm, random: Random) -> Payload:
    """The yardstick: the honest payload, every sign turned."""
    return replace(swarm.own, negative=~swarm.own.negative)


def shout(swarm: Swarm, random: Random) -> Payload:
    """The honest payload at the largest magnitude there is, everywhere."""
    return replace(swarm.own, scales=_huge(swarm.own))


def shout_flipped(swarm: Swarm, random: Random) -> Payload:
    """Every sign turned, at the largest magnitude."""
    return replace(flip_signs(swarm, random), scales=_huge(swarm.own))


def shout_in_one_chunk(swarm: Swarm, random: Random) -> Payload:
    """Every sign turned, one chunk of it at the largest magnitude."""
    flipped = flip_signs(swarm, random)
    scales = flipped.scales.copy()
    scales[random.integers(len(scales))] = HUGE
    return replace(flipped, scales=scales)


def shout_low_frequencies(swarm: Swarm, random: Random) -> Payload:
    """One smooth bump in every chunk: the k lowest frequencies, all positive."""
    rows, columns = np.divmod(np.arange(SLOTS), CHUNK)
    lowest = np.argsort(rows**2 + columns**2, kind="stable")[: swarm.own.k]
    places = np.tile(lowest, (len(swarm.own.scales), 1))
    return _make(places, np.zeros(places.shape, dtype=np.bool_))


def shout_one_coefficient(swarm: Swarm, random: Random) -> Payload:
    """One coefficient per chunk, against what most agree on: demo.md's attacker with k = 1."""
    return _oppose(sum_votes(swarm.others), 1, largest=True)


def shout_noise(swarm: Swarm, random: Random) -> Payload:
    """Random signs in random slots."""
    shape = (len(swarm.own.scales), swarm.own.k)
    places = np.argsort(random.random((shape[0], SLOTS)), axis=1)[:, : shape[1]]
    return _make(places, random.random(shape) < 0.5)


def shout_noise_in_own_slots(swarm: Swarm, random: Random) -> Payload:
    """Random signs where an honest payload has its own."""
    return _make(
        swarm.own.positions.astype(np.int64), random.random(swarm.own.negative.shape) < 0.5
    )


def oppose_majority(swarm: Swarm, random: Random) -> Payload:
    """Against the others, in the k slots of every chunk where they agree most."""
    return _oppose(sum_votes(swarm.others), swarm.own.k, largest=True)


def oppose_outcome(swarm: Swarm, random: Random) -> Payload:
    """Against what all nine honest payloads add up to, in its k largest slots."""
    return _oppose(sum_votes(swarm.payloads), swarm.own.k, largest=True)


def tip_the_balance(swarm: Swarm, random: Random) -> Payload:
    """Against the others in the k slots where the fewest votes decide."""
    return _oppose(sum_votes(swarm.others), swarm.own.k, largest=False)


def oppose_with_more(swarm: Swarm, random: Random) -> Payload:
    """Against the others in four times as many slots as they send."""
    return _oppose(sum_votes(swarm.others), MORE * swarm.own.k, largest=True)


def shout_flipped_and_noise(swarm: Swarm, random: Random) -> Payload:
    """Every sign turned, and noise in three times as many slots besides."""
    key = random.random((len(swarm.own.scales), SLOTS))
    np.put_along_axis(key, swarm.own.positions.astype(np.int64), 2.0, axis=1)
    count = (MORE - 1) * swarm.own.k
    others = np.argsort(key, axis=1)[:, :count]
    places = np.concatenate([swarm.own.positions.astype(np.int64), others], axis=1)
    noise = random.random(others.shape) < 0.5
    return _make(places, np.concatenate([~swarm.own.negative, noise], axis=1))


ATTACKS_WITH_MORE: Final[tuple[Attack, ...]] = (oppose_with_more, shout_flipped_and_noise)

ATTACKS: Final[tuple[Attack, ...]] = (
    shout,
    shout_flipped,
    shout_in_one_chunk,
    shout_low_frequencies,
    shout_one_coefficient,
    shout_noise,
    shout_noise_in_own_slots,
    oppose_majority,
    oppose_outcome,
    tip_the_balance,
)


def _huge(payload: Payload) -> npt.NDArray[np.uint8]:
    return np.full_like(payload.scales, HUGE)


def _make(places: Numbers, negative: npt.NDArray[np.bool_]) -> Payload:
    """At the largest magnitude: slots int64 [N, k] in any order, and which are negative [N, k]."""
    order = np.argsort(places, axis=1)
    return Payload(
        k=places.shape[1],
        positions=np.take_along_axis(places, order, axis=1).astype(np.uint16),
        negative=np.take_along_axis(negative, order, axis=1),
        scales=np.full(len(places), HUGE, dtype=np.uint8),
    )


def sum_votes(payloads: Sequence[Payload]) -> Numbers:
    """Votes int64 [N, 4096] of sign x scale, as rule T6 has them but for its clip."""
    votes = np.zeros((len(payloads[0].scales), SLOTS), dtype=np.int64)
    for payload in payloads:
        values = SCALE_VALUES[payload.scales].astype(np.int64)[:, None]
        rows = np.arange(len(votes))[:, None]
        votes[rows, payload.positions] += np.where(payload.negative, -values, values)
    return votes


def _oppose(votes: Numbers, k: int, *, largest: bool) -> Payload:
    """Against the k largest votes of every chunk, or against the k smallest that are none."""
    sizes = np.abs(votes)
    key = -sizes if largest else np.where(sizes == 0, np.iinfo(np.int64).max, sizes)
    places = np.argsort(key, axis=1, kind="stable")[:, :k]
    return _make(places, np.take_along_axis(votes, places, axis=1) > 0)
