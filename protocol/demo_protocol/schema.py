"""Which tensors a run's state has, and where each lies in the chunks of a payload.

The state is the named parameters, each once (a tied embedding is one), sorted by name; buffers
such as RoPE tables are recomputed and belong to no state (rule E14). A chunk is a 64 x 64 block.
Matrices are cut into chunks of their own, zero-padded; all vectors share chunks at the end,
because a chunk per vector would cost more bytes than the vector.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import prod
from typing import Final

from demo_protocol.manifest import Model

CHUNK: Final = 64
"""Rows and columns of a chunk."""

SLOTS: Final = CHUNK * CHUNK
"""Coefficients of a chunk; slot = row frequency * 64 + column frequency."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One parameter tensor. `init_bits` b: state 0 is uniform in +-2^-b; None: it is all ones."""

    name: str
    shape: tuple[int, ...]
    init_bits: int | None = None

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class Grid:
    """A matrix, cut into `down` x `across` chunks that begin with chunk `first`, row by row."""

    name: str
    rows: int
    columns: int
    first: int
    down: int
    across: int

    @property
    def is_padded(self) -> bool:
        """Whether chunks at the edge hold slots that no element of the matrix fills."""
        return self.down * CHUNK != self.rows or self.across * CHUNK != self.columns


@dataclass(frozen=True, slots=True)
class Span:
    """A vector: `size` elements from `offset` of the common chunks, read as one long row."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Schema:
    """Tensors in canonical order and their place in (chunks, 64, 64)."""

    tensors: tuple[TensorSpec, ...]
    grids: tuple[Grid, ...]
    spans: tuple[Span, ...]
    parameters: int
    span_first: int
    """First of the chunks that the vectors share."""
    chunks: int
    shapes: dict[str, tuple[int, ...]] = field(compare=False, repr=False)


def build_schema(tensors: Iterable[TensorSpec]) -> Schema:
    """Lay out `tensors`: matrices in order of their names, then all vectors together.

    Three and more dimensions: the leading ones are merged. A scalar is a vector of one element.
    """
    ordered = tuple(sorted(tensors, key=lambda spec: spec.name))
    shapes = {spec.name: spec.shape for spec in ordered}
    if len(shapes) != len(ordered):
        raise ValueError("two tensors have the same name")
    grids: list[Grid] = []
    spans: list[Span] = []
    chunks = offset = 0
    for spec in ordered:
        if len(spec.shape) >= 2:
            rows, columns = prod(spec.shape[:-1]), spec.shape[-1]
            down, across = -(-rows // CHUNK), -(-columns // CHUNK)
            grids.append(Grid(spec.name, rows, columns, chunks, down, across))
            chunks += down * across
        else:
            spans.append(Span(spec.name, offset, spec.size))
            offset += spec.size
    return Schema(
        tensors=ordered,
        grids=tuple(grids),
        spans=tuple(spans),
        parameters=sum(spec.size for spec in ordered),
        span_first=chunks,
        chunks=chunks - (-offset // SLOTS),
        shapes=shapes,
    )


def compute_schema(model: Model) -> Schema:
    """The state of a decoder of this shape. Names are those of learn/model.py's parameters."""
    width, hidden, layers = model.width, model.hidden, model.layers
    # Half of 1 / sqrt(fan-in), less again where 2 * layers branches add up in the residual stream.
    inner, outer = _init_bits(width, 4), _init_bits(width, 8 * layers)
    tensors = [
        # Tied: it also makes the logits, which start with a deviation of about 0.6.
        TensorSpec("embedding.weight", (model.vocabulary, width), _init_bits(width, 3)),
        TensorSpec("norm.weight", (width,)),
    ]
    for layer in range(layers):
        at = f"layers.{layer}."
        tensors += [
            TensorSpec(at + "attention_norm.weight", (width,)),
            TensorSpec(at + "attention.query.weight", (width, width), inner),
            TensorSpec(at + "attention.key.weight", (width, width), inner),
            TensorSpec(at + "attention.value.weight", (width, width), inner),
            TensorSpec(at + "attention.output.weight", (width, width), outer),
            TensorSpec(at + "feed_forward_norm.weight", (width,)),
            TensorSpec(at + "feed_forward.gate.weight", (hidden, width), inner),
            TensorSpec(at + "feed_forward.up.weight", (hidden, width), inner),
            TensorSpec(
                at + "feed_forward.down.weight", (width, hidden), _init_bits(hidden, 8 * layers)
            ),
        ]
    return build_schema(tensors)


def _init_bits(fan_in: int, divisor: int) -> int:
    """b with 2^-b nearest, in ratio, to sqrt(3 / (fan_in * divisor)).

    Uniform in +-2^-b then has a variance of about 1 / (fan_in * divisor).
    """
    bits = 0
    # 2^-b > sqrt(2) * sqrt(3 / n), squared and asked in integers: half of it is nearer.
    while fan_in * divisor > 6 * 4**bits:
        bits += 1
    return bits
