"""A small state, three records and the digests after each: the start-up known-answer test.

Any implementation, on any device, must reproduce the digests before it contributes. The records
make every rule of exactness bite: odd shapes with padding (E13), 1 to 4 payloads of unlike k
(E8), scales from end to end (E7), all coefficients at full magnitude with one sign (E10), votes
that cancel (E6), parameters around 2^-64 and -0 (E4, E6), decay (E2, E5).
Source: PROTOCOL.md section 4, last paragraph.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from demo_protocol.fp32 import Step, round_to_fp32_bits
from demo_protocol.initial import compute_initial_state
from demo_protocol.payload import Payload
from demo_protocol.prng import compute_stream_key, compute_words
from demo_protocol.schema import SLOTS, Schema, TensorSpec, build_schema

SEED: Final = 2411_19870

KNOWN_DIGESTS: Final = ("62fca7126e803a9d", "d3f5bd2ee511b56f", "87f6e3f22d2524c5")
"""Digests after the first, second and third record."""

PLANTED: Final = (0x8000_0000, 0x0000_0001, 0x1F7F_FFFF, 0x1F80_0000, 0x9F80_0000, 0x807F_FFFF)
"""Bit patterns at the start of every tensor: -0, subnormals, and both sides of 2^-64."""


@dataclass(frozen=True, slots=True, eq=False)
class KnownRecord:
    """What a record comes to: the payloads it lists and the step it is applied with."""

    payloads: tuple[Payload, ...]
    step: Step


def known_schema() -> Schema:
    """Three tensors: a padded matrix, a whole one, a vector; six chunks."""
    return build_schema(
        [
            TensorSpec("matrix", (100, 70), 2),
            TensorSpec("square", (64, 64), 0),
            TensorSpec("vector", (70,), 4),
        ]
    )


def compute_known_state(schema: Schema) -> dict[str, npt.NDArray[np.float32]]:
    """The state before the first record, by name, fp32."""
    state = compute_initial_state(schema, SEED)
    for tensor in state.values():
        tensor.reshape(-1).view(np.uint32)[: len(PLANTED)] = PLANTED
    return state


def compute_known_records(schema: Schema) -> tuple[KnownRecord, ...]:
    """Three records: votes that cancel, ordinary ones of unlike peers, and extreme ones."""
    ordinary = [
        _draw_payload(schema, stream, k) for stream, k in ((1, 32), (2, 7), (3, 128), (4, 1))
    ]
    extreme = _all_alike(schema, code=255)
    one = _draw_payload(schema, 5, 16)
    opposite = Payload(one.k, one.positions, ~one.negative, one.scales)
    third = round_to_fp32_bits(1, 3)
    return (
        # First: what is planted is gone once it has moved.
        KnownRecord((one, opposite), Step(third, round_to_fp32_bits(1, 1))),
        KnownRecord(
            tuple(ordinary), Step(round_to_fp32_bits(1, 100), round_to_fp32_bits(999, 1000))
        ),
        KnownRecord((extreme, extreme, ordinary[0]), Step(third, third)),
    )


def _draw_payload(schema: Schema, stream: int, k: int) -> Payload:
    """k pseudo-random positions and signs per chunk, and scale codes; from integers alone."""
    key = compute_stream_key(b"demo-node/known-answer/1", stream.to_bytes(4, "little"))
    words = compute_words(key, np.arange(schema.chunks * SLOTS, dtype=np.uint32))
    words = words.reshape(schema.chunks, SLOTS)
    # The k largest words name the positions; no two are equal, since `mix` is a bijection.
    positions = np.sort(np.argsort(words, axis=1)[:, -k:], axis=1)
    return Payload(
        k=k,
        positions=positions.astype(np.uint16),
        negative=np.take_along_axis(words, positions, axis=1) % 2 == 1,
        scales=(words[:, 0] >> np.uint32(24)).astype(np.uint8),
    )


def _all_alike(schema: Schema, code: int) -> Payload:
    """Every coefficient of every chunk, all positive, of one scale: the largest sums there are."""
    positions = np.tile(np.arange(SLOTS, dtype=np.uint16), (schema.chunks, 1))
    return Payload(
        k=SLOTS,
        positions=positions,
        negative=np.zeros(positions.shape, dtype=np.bool_),
        scales=np.full(schema.chunks, code, dtype=np.uint8),
    )
