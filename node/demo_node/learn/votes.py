"""What payloads vote for, in integers: no order of adding them matters (rule T6)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from demo_protocol.payload import Payload
from demo_protocol.scale import SCALE_VALUES
from demo_protocol.schema import CHUNK, SLOTS

Integers = npt.NDArray[np.int32]

_RANKS: Final = np.arange(CHUNK) // 2 + CHUNK // 2 * (np.arange(CHUNK) % 2)
"""Of frequencies, even ones first: how dct.py's halves take them."""

PLACES: Final = (_RANKS * CHUNK + _RANKS[:, None]).reshape(-1)
"""Where in a chunk the votes for a position are put: int64 [4096]. Crossed, since the inverse works
on columns first and likes its frequencies one under the other."""


@dataclass(frozen=True, slots=True)
class Ballot:
    """The P payloads of one k: where they vote, which way, how much. N chunks."""

    positions: npt.NDArray[np.uint16]  # [P, N, k]
    negative: npt.NDArray[np.bool_]  # [P, N, k]
    values: Integers  # [P, N], clipped


def clip_votes(payloads: Sequence[Payload]) -> list[Ballot]:
    """Votes of at least one payload, its energy in a chunk clipped to their lower median (T6, E8).

    Energy is value^2 k. Where all send as many coefficients that clips values to their median; who
    sends more of them than others has no more to say for it.
    """
    values = SCALE_VALUES[np.stack([payload.scales for payload in payloads])]  # int32 [P, N]
    ks = np.array([payload.k for payload in payloads], dtype=np.int64)[:, None]
    energies = values.astype(np.int64) ** 2 * ks
    # One of the energies, never a mean of two.
    median = np.sort(energies, axis=0)[(len(payloads) - 1) // 2]
    # Exact where it matters: below 2^40 the root of an integer is on its side of every integer,
    # and beyond it clips no value.
    clipped = np.minimum(values, np.sqrt(median // ks).astype(np.int32))
    ballots = []
    for k in sorted({payload.k for payload in payloads}):
        alike = [place for place, payload in enumerate(payloads) if payload.k == k]
        ballots.append(
            Ballot(
                np.stack([payloads[place].positions for place in alike]),
                np.stack([payloads[place].negative for place in alike]),
                clipped[alike],
            )
        )
    return ballots


def add_votes(ballots: Sequence[Ballot], chunks: range, votes: Tensor) -> None:
    """Add sign x clipped value to int32 [n or more, 64, 64], of n `chunks`, in order of PLACES.

    At most 2048 payloads of values up to 31 << 15: the sums fit an int32.
    """
    add = _add_here if votes.device.type == "cpu" else _add_there
    for ballot in ballots:
        add(votes.view(-1), ballot, slice(chunks.start, chunks.stop))


def _add_here(votes: Tensor, ballot: Ballot, own: slice) -> None:
    """By numpy: a twentieth of index_add_'s time."""
    first = np.arange(own.stop - own.start)[:, None] * SLOTS  # int64: others would be copied
    slots = PLACES.take(ballot.positions[:, own])
    slots += first
    signs = 1 - 2 * ballot.negative[:, own].view(np.int8)  # a product: np.where is slow
    np.add.at(votes.numpy(), slots.reshape(-1), (signs * ballot.values[:, own, None]).reshape(-1))


def _add_there(votes: Tensor, ballot: Ballot, own: slice) -> None:
    """By a graphics card, which gets three bytes a vote and need not be waited for."""
    device = votes.device
    first = torch.arange(own.stop - own.start, device=device)[:, None] * SLOTS
    slots = _places_on(device)[_send(ballot.positions[:, own].view(np.int16), device).long()]
    signs = 1 - 2 * _send(ballot.negative[:, own].view(np.int8), device)
    values = _send(ballot.values[:, own, None], device)
    votes.index_add_(0, slots.add_(first).view(-1), (signs * values).view(-1))


def _send(array: npt.NDArray[np.signedinteger], device: torch.device) -> Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


@lru_cache(maxsize=8)
def _places_on(device: torch.device) -> Tensor:
    return torch.from_numpy(PLACES).to(device)
