"""Who trains on which samples, computed by everyone from a record alone (rules T5 and T2).

A run numbers the samples it consumes 0, 1, 2, ...; number j stands for sample perm(j mod N) of
epoch j // N, with a permutation of the N samples that any node computes at any point, in no
memory. Members take consecutive intervals of numbers in a pseudo-random order; the chain keeps
the cursor. So no sample is given out twice in an epoch.
Source: reference/algorithms.md 3.3; the order's key is that of rule 11, not the parent's hash.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from demo_protocol.prng import compute_stream_key, compute_words

HISTORY: Final = 8
"""Sample counts that an interval's length looks back on."""

_FEISTEL_ROUNDS: Final = 6

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Interval:
    """Running sample numbers first, first + 1, ..., first + count - 1."""

    first: int
    count: int


def compute_draw(label: bytes, key: bytes, round_: int) -> bytes:
    """H(label, key, round): 32 bytes that order draws; nothing a proposer writes enters it."""
    return hashlib.sha256(
        b"demo-node/draw/1\0" + bytes([len(label)]) + label + key + round_.to_bytes(8, "little")
    ).digest()


def interval_length(counts: Sequence[int], samples_start: int) -> int:
    """How many samples a member is given: 1.5 x the lower median of its last 8 counts (rule T2).

    Rounded up. Rounds without training (count 0) say nothing about speed. Never less than
    `samples_start`, which a member without counts gets: a round cut short would else hold its
    author back for dozens of rounds (docs/decisions/sample-intervals.md).
    """
    recent = sorted(count for count in counts[-HISTORY:] if count > 0)
    median = recent[(len(recent) - 1) // 2] if recent else 0
    return max((3 * median + 1) // 2, samples_start, 1)


def compute_intervals(
    members: Iterable[tuple[bytes, bytes, int]], round_: int, cursor: int
) -> tuple[dict[bytes, Interval], int]:
    """Intervals of `round_` for members (peer, key_m, length), and the cursor after them.

    Consecutive from `cursor`, in the order of H("d", key_m, round); equal keys by peer.
    """
    ordered = sorted(members, key=lambda member: (compute_draw(b"d", member[1], round_), member[0]))
    intervals: dict[bytes, Interval] = {}
    for peer, _, length in ordered:
        intervals[peer] = Interval(cursor, length)
        cursor += length
    return intervals, cursor


def compute_samples(run_id: bytes, data_root: bytes, total: int, numbers: Indices) -> Indices:
    """Sample indices in [0, total) of running sample `numbers` [n] (all >= 0) -> int64 [n]."""
    epochs, places = numbers // total, numbers % total
    samples = np.empty_like(places)
    for epoch in np.unique(epochs):
        chosen = epochs == epoch
        key = compute_stream_key(
            b"demo-node/samples/1", run_id, data_root, int(epoch).to_bytes(8, "little")
        )
        samples[chosen] = permute(key, total, places[chosen])
    return samples


def compute_probation_samples(
    key: bytes, round_: int, total: int, first: int, count: int
) -> Indices:
    """Draws first .. first + count - 1 of a candidate: indices in [0, total), by H("p", key, r).

    With replacement, outside the intervals: a candidate's work is a probe, not part of an epoch.
    """
    stream = compute_stream_key(b"demo-node/probation/1", compute_draw(b"p", key, round_))
    words = compute_words(stream, np.arange(first, first + count, dtype=np.uint32))
    return ((words.astype(np.uint64) * np.uint64(total)) >> np.uint64(32)).astype(np.int64)


def permute(key: tuple[int, ...], total: int, places: Indices) -> Indices:
    """A bijection of [0, total): a Feistel network with cycle walking. `places` int64 [n].

    The network permutes a power of four; a value outside [0, total) goes through it again.
    """
    half = max(((total - 1).bit_length() + 1) // 2, 1)
    values = _feistel(key, half, places.astype(np.uint64))
    outside = np.flatnonzero(values >= total)
    # At least a quarter of all values is inside, and every walk ends on its own cycle.
    while len(outside):
        values[outside] = _feistel(key, half, values[outside])
        outside = outside[values[outside] >= total]
    return values.astype(np.int64)


def _feistel(
    key: tuple[int, ...], half: int, values: npt.NDArray[np.uint64]
) -> npt.NDArray[np.uint64]:
    """A bijection of 2 * half bits."""
    shift, mask = np.uint64(half), np.uint32((1 << half) - 1)
    left = (values >> shift).astype(np.uint32)
    right = values.astype(np.uint32) & mask
    for turn in range(_FEISTEL_ROUNDS):
        left, right = right, left ^ (compute_words((key[turn], key[turn + 1]), right) & mask)
    return (left.astype(np.uint64) << shift) | right
