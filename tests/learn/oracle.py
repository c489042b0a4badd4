"""The update once more, in numpy's 64-bit integers and loops: slow, plain, and independent.

Shares no code with learn/exact.py; the cosine table, the median, the shifts and the layout are
written out anew from PROTOCOL.md (E4 to E9, E15, T6).
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from demo_protocol.payload import Payload

Array = npt.NDArray[np.int64]


def cosine_table() -> Array:
    """rint(2^11 C), [position, frequency]."""
    table = np.zeros((64, 64), dtype=np.int64)
    for i in range(64):
        for f in range(64):
            norm = math.sqrt(1 / 64) if f == 0 else math.sqrt(2 / 64)
            table[i, f] = round(2048 * norm * math.cos(math.pi * (2 * i + 1) * f / 128))
    return table


def shift_to_ten_bits(block: Array) -> Array:
    """Until magnitudes are <= 1023, as rules E7 and E9 say."""
    shift = max(int(np.abs(block).max()).bit_length() - 10, 0)
    if shift:
        half = 1 << (shift - 1)
        block = np.sign(block) * ((np.abs(block) + half) >> shift)
    return np.clip(block, -1023, 1023)


def sum_votes(payloads: Sequence[Payload], chunk: int) -> Array:
    """Votes of one chunk, [64, 64]."""
    values = [
        (16 + int(p.scales[chunk]) % 16) * 2 ** (int(p.scales[chunk]) // 16) for p in payloads
    ]
    energies = [value**2 * p.k for value, p in zip(values, payloads, strict=True)]
    median = sorted(energies)[(len(energies) - 1) // 2]
    values = [
        min(value, math.isqrt(median // p.k)) for value, p in zip(values, payloads, strict=True)
    ]
    votes = np.zeros(4096, dtype=np.int64)
    for payload, value in zip(payloads, values, strict=True):
        for slot, negative in zip(payload.positions[chunk], payload.negative[chunk], strict=True):
            votes[slot] += -value if negative else value
    return votes.reshape(64, 64)


def chunk_signs(payloads: Sequence[Payload], chunk: int) -> Array:
    """Sign of the integer inverse DCT of one chunk."""
    table = cosine_table()
    columns = shift_to_ten_bits(sum_votes(payloads, chunk)) @ table.T
    signs: Array = np.sign(table @ shift_to_ten_bits(columns))
    return signs


def apply(
    state: Mapping[str, npt.NDArray[np.float32]],
    payloads: Sequence[Payload],
    lr: float,
    decay: float,
) -> dict[str, npt.NDArray[np.float32]]:
    """The next state; matrices by name first, then all vectors in common chunks."""
    moved: dict[str, npt.NDArray[np.float32]] = {}
    chunk = 0
    for name in sorted(n for n, t in state.items() if t.ndim >= 2):
        matrix = state[name].reshape(-1, state[name].shape[-1])
        signs = np.zeros((-(-matrix.shape[0] // 64) * 64, -(-matrix.shape[1] // 64) * 64))
        for y in range(0, signs.shape[0], 64):
            for x in range(0, signs.shape[1], 64):
                signs[y : y + 64, x : x + 64] = chunk_signs(payloads, chunk)
                chunk += 1
        cut = signs[: matrix.shape[0], : matrix.shape[1]].reshape(state[name].shape)
        moved[name] = _step(state[name], cut, lr, decay)
    vectors = sorted(n for n, t in state.items() if t.ndim < 2)
    chunks = -(-sum(state[n].size for n in vectors) // 4096)
    row = np.concatenate([chunk_signs(payloads, chunk + c).reshape(-1) for c in range(chunks)])
    for name in vectors:
        cut, row = row[: state[name].size], row[state[name].size :]
        moved[name] = _step(state[name], cut.reshape(state[name].shape), lr, decay)
    return moved


def _step(
    tensor: npt.NDArray[np.float32], signs: npt.NDArray[np.generic], lr: float, decay: float
) -> npt.NDArray[np.float32]:
    product = tensor * np.float32(decay)
    move = signs.astype(np.float32) * np.float32(lr)
    moved = np.asarray(product - move, dtype=np.float32)
    return np.where(np.abs(moved) < np.float32(2.0**-64), np.float32(0), moved)
