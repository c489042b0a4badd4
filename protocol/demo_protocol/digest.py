"""The fingerprint of a state: 8 bytes that travel in every header (rule E12).

Every 32-bit word is mixed with its position in the state and the mixed words are summed, twice,
modulo 2^32. Sums do not depend on the order of work, so blocks, threads and graphics cards may
share it; 32-bit lanes need no 64-bit wrap-around. It accuses, it does not prove: a collision
can be constructed. What must resist that carries a SHA-256 root (rule 21).
"""

from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from demo_protocol.errors import LocalFault

POSITION_FACTOR: Final = 0x9E3779B1
FIRST_FACTORS: Final = (0x7FEB352D, 0x846CA68B)
SECOND_FACTOR: Final = 0xC2B2AE35
"""Odd multipliers: multiplication by them loses nothing."""

_BLOCK: Final = 1 << 15
"""Words mixed at once; they stay in the processor's cache."""


def compute_digest(state: Mapping[str, npt.NDArray[np.float32]]) -> bytes:
    """8 bytes that name the bit patterns of `state`; tensors count in the order of their names.

    Raises LocalFault unless every tensor is fp32 (rule E3).
    """
    first = second = position = 0
    for name in sorted(state):
        tensor = state[name]
        if tensor.dtype != np.float32:
            raise LocalFault(f"digest: {name} is {tensor.dtype}, the replicated state is fp32")
        words = np.ascontiguousarray(tensor).reshape(-1).view(np.uint32)
        sums = sum_lanes(words, position)
        first, second = first + sums[0], second + sums[1]
        position += len(words)
    return pack_digest(first, second, position)


def sum_lanes(words: npt.NDArray[np.uint32], position: int) -> tuple[int, int]:
    """Both sums over `words` [n], whose first one stands at `position` of the state."""
    first = second = 0
    for start in range(0, len(words), _BLOCK):
        block = words[start : start + _BLOCK]
        places = np.arange(len(block), dtype=np.uint32) + np.uint32(
            (position + start) & 0xFFFF_FFFF
        )
        x = block ^ (places * np.uint32(POSITION_FACTOR))
        x ^= x >> np.uint32(16)
        x *= np.uint32(FIRST_FACTORS[0])
        x ^= x >> np.uint32(15)
        x *= np.uint32(FIRST_FACTORS[1])
        x ^= x >> np.uint32(16)
        first += int(x.sum(dtype=np.uint64))
        # Another bijection of the same word: the sums agree by chance only once in 2^64.
        x *= np.uint32(SECOND_FACTOR)
        x ^= x >> np.uint32(15)
        second += int(x.sum(dtype=np.uint64))
    return first & 0xFFFF_FFFF, second & 0xFFFF_FFFF


def pack_digest(first: int, second: int, words: int) -> bytes:
    """The digest of a state of `words` words with these sums."""
    first, second = (first + words) & 0xFFFF_FFFF, second & 0xFFFF_FFFF
    return first.to_bytes(4, "little") + second.to_bytes(4, "little")
