"""A payload's bytes: which coefficients of the whole model a peer sends, and their signs.

Layout, little-endian: version (1 byte), k (2 bytes), then for every chunk in the schema's order
k ascending 12-bit positions, k sign bits (1 = negative), one scale code. Positions and signs
each fill whole bytes, lowest bits first; spare bits are zero. Every chunk takes the same number
of bytes, so the length is a function of schema and k (rule T8) and a chunk is found without
reading those before it. There is exactly one encoding of a payload.
"""

import functools
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from demo_protocol.errors import Reject
from demo_protocol.limits import K_MAX
from demo_protocol.schema import SLOTS, Schema

PAYLOAD_VERSION: Final = 1

PREFIX_BYTES: Final = 3
"""Version and k."""


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


def payload_bytes(schema: Schema, k: int) -> int:
    """Exact length of a payload with k coefficients per chunk; a heartbeat (k = 0) has none."""
    return PREFIX_BYTES + schema.chunks * _chunk_bytes(k) if k > 0 else 0


def encode_payload(payload: Payload) -> bytes:
    """Bytes of `payload`, k >= 1. Its own sender made it: it is not validated here."""
    k, chunks = payload.k, len(payload.scales)
    places, signs = _position_bytes(k), _sign_bytes(k)
    body = np.zeros((chunks, _chunk_bytes(k)), dtype=np.uint8)
    pairs = np.zeros((chunks, k + k % 2), dtype=np.uint16)
    pairs[:, :k] = payload.positions
    low, high = pairs[:, 0::2], pairs[:, 1::2]
    packed = np.empty((chunks, low.shape[1], 3), dtype=np.uint8)
    packed[:, :, 0] = low & 0xFF
    packed[:, :, 1] = (low >> 8) | ((high & 0xF) << 4)
    packed[:, :, 2] = high >> 4
    body[:, :places] = packed.reshape(chunks, -1)[:, :places]
    body[:, places : places + signs] = np.packbits(payload.negative, axis=1, bitorder="little")
    body[:, -1] = payload.scales
    return bytes([PAYLOAD_VERSION]) + k.to_bytes(2, "little") + body.tobytes()


def decode_payload(raw: bytes, schema: Schema, k_max: int) -> Payload:
    """Inverse of `encode_payload`, for bytes from a peer whose header claims k <= `k_max`.

    Raises Reject, before anything is unpacked where length or prefix are wrong.
    """
    # [REJECT] it has a prefix of this version
    if len(raw) < PREFIX_BYTES or raw[0] != PAYLOAD_VERSION:
        raise Reject("payload: unknown version")
    k = int.from_bytes(raw[1:PREFIX_BYTES], "little")
    # [REJECT] k is in range
    if not 1 <= k <= min(k_max, K_MAX):
        raise Reject(f"payload: k {k} is not in 1 to {min(k_max, K_MAX)}")
    # [REJECT] the length is the one of this schema and k
    if len(raw) != payload_bytes(schema, k):
        raise Reject(f"payload: {len(raw)} bytes, {payload_bytes(schema, k)} belong to k {k}")
    body = np.frombuffer(raw, dtype=np.uint8, offset=PREFIX_BYTES).reshape(schema.chunks, -1)
    places, signs = _position_bytes(k), _sign_bytes(k)
    bits = np.unpackbits(body[:, places : places + signs], axis=1, bitorder="little")
    # [REJECT] spare bits are zero: one payload has one hash
    if bits[:, k:].any():
        raise Reject("payload: spare sign bits are set")
    return Payload(
        k=k,
        positions=_decode_positions(body[:, :places], k),
        negative=bits[:, :k].astype(np.bool_),
        scales=body[:, -1].copy(),
    )


def _decode_positions(places: npt.NDArray[np.uint8], k: int) -> npt.NDArray[np.uint16]:
    """uint8 [chunks, bytes] -> uint16 [chunks, k]; Reject unless ascending."""
    chunks = len(places)
    pairs = k + k % 2
    packed = np.zeros((chunks, pairs // 2, 3), dtype=np.uint16)
    packed.reshape(chunks, -1)[:, : places.shape[1]] = places
    positions = np.empty((chunks, pairs), dtype=np.uint16)
    positions[:, 0::2] = packed[:, :, 0] | ((packed[:, :, 1] & 0xF) << 8)
    positions[:, 1::2] = (packed[:, :, 1] >> 4) | (packed[:, :, 2] << 4)
    # [REJECT] spare bits are zero
    if positions[:, k:].any():
        raise Reject("payload: spare position bits are set")
    positions = positions[:, :k]
    # [REJECT] positions ascend strictly: none twice, so no peer votes twice in a slot
    if (positions[:, 1:] <= positions[:, :-1]).any():
        raise Reject("payload: positions do not ascend")
    return positions


def _position_bytes(k: int) -> int:
    return (12 * k + 7) // 8


def _sign_bytes(k: int) -> int:
    return (k + 7) // 8


@functools.cache
def _chunk_bytes(k: int) -> int:
    return _position_bytes(k) + _sign_bytes(k) + 1


# 12 bits name any slot of a chunk, and no other.
assert SLOTS == 1 << 12
