"""A payload's bytes: which coefficients of the whole model a peer sends, and their signs.

Positions are as good as uniform, so the gaps between them are what is cheap to name: a Golomb-Rice
code whose parameter follows from k takes 8.5 bits where no code takes less than 8.3
(docs/decisions/payload-format.md). Scales of neighbours are alike: the difference is sent, coded
so, too. Layout, bits lowest first:

    version (1 byte), k (2 bytes, little-endian)
    fixed section:  per chunk  1 bit of the scale's code, then per coefficient  sign, r bits of gap
    unary section:  per chunk  the rest of the scale's code, then per coefficient  that of its gap,
                    each as so many zeros and a one

Each section fills whole bytes. Both come chunk by chunk in the schema's order, so one pass with two
cursors reads them; and what is in the first lies where k says, so arrays read it at once. The
length depends on what is sent, within bounds that schema and k state (rule T8). There is exactly
one encoding of a payload.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from demo_protocol.errors import Reject
from demo_protocol.limits import K_MAX
from demo_protocol.schema import SLOTS, Schema

PAYLOAD_VERSION: Final = 2

PREFIX_BYTES: Final = 3
"""Version and k."""

SCALE_START: Final = 128
"""The first chunk's scale code is told as a difference to this one."""

FOLDED_MAX: Final = 255
"""A difference of scale codes, folded: 0, -1, 1, -2, ... become 0, 1, 2, 3, ..."""

Bits = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Payload:
    """k coefficients of every chunk: where they are, which are negative, how large they are.

    positions: uint16 [chunks, k], ascending, < 4096; negative: bool [chunks, k];
    scales: uint8 [chunks], codes of rule E7.
    """

    k: int
    positions: npt.NDArray[np.uint16]
    negative: npt.NDArray[np.bool_]
    scales: npt.NDArray[np.uint8]


def rice_bits(k: int) -> int:
    """r: bits of a gap that are sent as they are. About log2 of half of the mean gap.

    The best parameter for geometric gaps changes where 2^r is 0.48 of the mean (Kiely 2004).
    """
    return ((SLOTS - k) // (k + 1) // 2).bit_length()


def payload_bytes_range(schema: Schema, k: int) -> range:
    """Lengths that a payload with k coefficients per chunk can have (rule T8); k = 0: none."""
    if k == 0:
        return range(1)
    ones = schema.chunks * (k + 1)
    zeros = schema.chunks * (((SLOTS - k) >> rice_bits(k)) + FOLDED_MAX // 2)
    fixed = PREFIX_BYTES + fixed_bytes(schema, k)
    return range(fixed + _whole_bytes(ones), fixed + _whole_bytes(ones + zeros) + 1)


def typical_payload_bytes(schema: Schema, k: int) -> int:
    """What a payload of trained coefficients has, within some 2 %: for plans and simulations."""
    if k == 0:
        return 0
    quotients = 3 * ((SLOTS - k) >> rice_bits(k)) // 4
    unary = schema.chunks * (k + 1 + quotients + 1)
    return PREFIX_BYTES + fixed_bytes(schema, k) + _whole_bytes(unary)


def fixed_bytes(schema: Schema, k: int) -> int:
    """Length of the fixed section."""
    return _whole_bytes(schema.chunks * (1 + k * (1 + rice_bits(k))))


def encode_payload(payload: Payload) -> bytes:
    """Bytes of `payload`, k >= 1. Its own sender made it: it is not validated here."""
    k, chunks = payload.k, len(payload.scales)
    r = rice_bits(k)
    gaps = np.empty((chunks, k), dtype=np.uint16)
    gaps[:, 0] = payload.positions[:, 0]
    gaps[:, 1:] = payload.positions[:, 1:] - payload.positions[:, :-1] - np.uint16(1)
    folded = _fold(payload.scales)
    fixed = np.empty((chunks, 1 + k * (1 + r)), dtype=np.uint8)
    fixed[:, 0] = folded & 1
    coefficients = fixed[:, 1:].reshape(chunks, k, 1 + r)
    coefficients[:, :, 0] = payload.negative
    for bit in range(r):
        coefficients[:, :, 1 + bit] = (gaps >> bit) & 1
    fixed[:, 1:] = coefficients.reshape(chunks, -1)
    quotients = np.empty((chunks, k + 1), dtype=np.int64)
    quotients[:, 0] = folded >> 1
    quotients[:, 1:] = gaps >> r
    ends = np.cumsum(quotients.reshape(-1) + 1) - 1
    unary = np.zeros(ends[-1] + 1, dtype=np.uint8)
    unary[ends] = 1
    prefix = bytes([PAYLOAD_VERSION]) + k.to_bytes(2, "little")
    return prefix + _pack(fixed) + _pack(unary)


def check_prefix(raw: bytes, schema: Schema, k_max: int) -> int:
    """k of a payload, for bytes from a peer whose header claims k <= `k_max`.

    Raises Reject where version, k or length are wrong: before anything is unpacked (rule T8).
    """
    # [REJECT] it has a prefix of this version
    if len(raw) < PREFIX_BYTES or raw[0] != PAYLOAD_VERSION:
        raise Reject("payload: unknown version")
    k = int.from_bytes(raw[1:PREFIX_BYTES], "little")
    # [REJECT] k is in range
    if not 1 <= k <= min(k_max, K_MAX):
        raise Reject(f"payload: k {k} is not in 1 to {min(k_max, K_MAX)}")
    # [REJECT] the length is one that this schema and k can have
    lengths = payload_bytes_range(schema, k)
    if len(raw) not in lengths:
        raise Reject(
            f"payload: {len(raw)} bytes; {lengths.start} to {lengths.stop - 1} belong to k {k}"
        )
    return k


def decode_payload(raw: bytes, schema: Schema, k_max: int) -> Payload:
    """Inverse of `encode_payload`. Raises Reject, with bounded memory whatever `raw` holds."""
    k = check_prefix(raw, schema, k_max)
    chunks, r = schema.chunks, rice_bits(k)
    middle = PREFIX_BYTES + fixed_bytes(schema, k)
    bits = np.unpackbits(np.frombuffer(raw[PREFIX_BYTES:middle], np.uint8), bitorder="little")
    used = chunks * (1 + k * (1 + r))
    # [REJECT] spare bits are zero: one payload has one hash
    if bits[used:].any():
        raise Reject("payload: spare bits are set")
    fixed = bits[:used].reshape(chunks, -1)
    quotients = _read_unary(raw[middle:], chunks * (k + 1)).reshape(chunks, k + 1)
    # [REJECT] a scale's code is one of 256
    if (quotients[:, 0] > FOLDED_MAX // 2).any():
        raise Reject("payload: a scale code is out of range")
    coefficients = fixed[:, 1:].reshape(chunks, k, 1 + r)
    low = np.zeros((chunks, k), dtype=np.uint16)
    for bit in range(r, 0, -1):
        low <<= 1
        low |= coefficients[:, :, bit]
    gaps = (quotients[:, 1:] << r) + low  # int64: whatever was sent, they fit
    # Ascending and none twice, whatever was sent: no peer votes twice in a slot.
    positions = np.cumsum(gaps + 1, axis=1) - 1
    # [REJECT] positions are slots of a chunk
    if (positions[:, -1] >= SLOTS).any():
        raise Reject("payload: a position is beyond the chunk's end")
    return Payload(
        k=k,
        positions=positions.astype(np.uint16),
        negative=coefficients[:, :, 0].astype(np.bool_),
        scales=_unfold(quotients[:, 0] << 1 | fixed[:, 0]),
    )


def _read_unary(raw: bytes, count: int) -> npt.NDArray[np.int64]:
    """`count` numbers, each so many zeros and a one; Reject unless they fill `raw`."""
    bits = np.unpackbits(np.frombuffer(raw, np.uint8), bitorder="little")
    ends = np.flatnonzero(bits.view(np.bool_))  # ten times as fast as of integers
    # [REJECT] as many codes as k says, and not a byte behind them
    if len(ends) != count or raw[-1] == 0:
        raise Reject("payload: it has more or fewer codes than its k")
    return np.diff(ends, prepend=-1) - 1


def _fold(scales: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Differences of successive codes, modulo 256 nearest to 0, folded to 0 to 255."""
    steps = np.diff(scales, prepend=np.uint8(SCALE_START)).view(np.int8)
    return (steps.astype(np.int16) << 1 ^ steps >> 7).astype(np.uint8)


def _unfold(folded: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    steps = folded >> 1 ^ -(folded & 1)
    return (SCALE_START + np.cumsum(steps)).astype(np.uint8)


def _pack(bits: Bits) -> bytes:
    return np.packbits(bits, bitorder="little").tobytes()


def _whole_bytes(bits: int) -> int:
    return (bits + 7) // 8
