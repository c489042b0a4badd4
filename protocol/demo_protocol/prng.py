"""Pseudo-random 32-bit words from integers alone: the same on every machine (rules E1 and T5).

A word is a function of a key and a counter, so any element of any stream is computed by itself.
Not for secrets: keys come from SHA-256, but the mixing is only statistical.
"""

import hashlib

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint32]


def compute_stream_key(tag: bytes, *parts: bytes) -> tuple[int, ...]:
    """Eight 32-bit key words: SHA-256 over the tag and the length-prefixed parts."""
    hashed = hashlib.sha256(tag + b"\0")
    for part in parts:
        hashed.update(len(part).to_bytes(4, "little") + part)
    return tuple(np.frombuffer(hashed.digest(), dtype="<u4").tolist())


def mix(words: Words) -> Words:
    """A bijection of 32 bits in which every input bit reaches every output bit; any shape.

    Source: Ettinger's hash prospector, the "triple32" constants.
    """
    x = words ^ (words >> np.uint32(17))
    x *= np.uint32(0xED5AD4BB)
    x ^= x >> np.uint32(11)
    x *= np.uint32(0xAC4C1B51)
    x ^= x >> np.uint32(15)
    x *= np.uint32(0x31848BAB)
    x ^= x >> np.uint32(14)
    return x


def compute_words(key: tuple[int, ...], counters: Words) -> Words:
    """The words at `counters` of the stream named by the first two words of `key`; any shape."""
    return mix(mix(counters + np.uint32(key[0])) ^ np.uint32(key[1]))
