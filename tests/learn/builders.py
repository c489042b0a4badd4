"""Valid values for tests of the learning rooms; everything from an explicit seed."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from demo_node.learn import inverse
from demo_node.learn.flat import Flat, find_layout
from demo_node.learn.inverse import Inverse
from demo_node.learn.votes import PLACES, add_votes, clip_votes
from demo_protocol.initial import compute_initial_state
from demo_protocol.payload import Payload
from demo_protocol.schema import CHUNK, SLOTS, Schema, TensorSpec, build_schema

CPU = torch.device("cpu")


def make_schema() -> Schema:
    """A padded matrix, a whole one and two vectors: nine chunks."""
    return build_schema(
        [
            TensorSpec("a.weight", (100, 130), 2),
            TensorSpec("b.weight", (128, 64), 3),
            TensorSpec("c.bias", (70,)),
            TensorSpec("d.bias", ()),
        ]
    )


def make_payload(
    schema: Schema, k: int, seed: int, *, code_min: int = 0, code_max: int = 255
) -> Payload:
    """k random positions and signs per chunk; scale codes in [code_min, code_max]."""
    random = np.random.default_rng(seed)
    positions = np.argsort(random.random((schema.chunks, SLOTS)), axis=1)[:, :k]
    return Payload(
        k=k,
        positions=np.sort(positions, axis=1).astype(np.uint16),
        negative=random.random((schema.chunks, k)) < 0.5,
        scales=random.integers(code_min, code_max + 1, schema.chunks).astype(np.uint8),
    )


def make_state(schema: Schema, seed: int = 1) -> dict[str, Tensor]:
    """State 0 as torch tensors."""
    state = compute_initial_state(schema, seed)
    return {name: torch.from_numpy(array) for name, array in state.items()}


def make_delta(schema: Schema, seed: int, scale: float = 1e-2) -> dict[str, Tensor]:
    """Normally distributed tensors of the schema's shapes."""
    generator = torch.Generator().manual_seed(seed)
    return {
        spec.name: torch.randn(spec.shape, generator=generator) * scale for spec in schema.tensors
    }


def sum_votes(payloads: Sequence[Payload], schema: Schema) -> Tensor:
    """Votes as int32 [N, 64, 64], by position."""
    votes = torch.zeros((schema.chunks, CHUNK, CHUNK), dtype=torch.int32)
    add_votes(clip_votes(payloads), range(schema.chunks), votes)
    return votes.view(-1, SLOTS)[:, PLACES].view(votes.shape)


def invert(votes: Tensor) -> Tensor:
    """Signs of the integer inverse of int32 [N, 64, 64], by position."""
    room = Inverse(len(votes), CPU)
    room.votes.view(-1, SLOTS)[:, PLACES] = votes.reshape(-1, SLOTS)
    signs = room.invert(len(votes))
    assert not room.votes.any(), "the next block begins with none"
    return signs


def shift(integers: Tensor) -> Tensor:
    """inverse.shift of int32 [N, 64, 64], which stay."""
    shifted = torch.empty(integers.shape)
    inverse.shift(integers.clone(), shifted, torch.empty(integers.shape))
    return shifted


def cut(tensors: Mapping[str, Tensor], schema: Schema) -> Tensor:
    """Chunks [N, 64, 64] of the schema's tensors."""
    return find_layout(schema).cut(Flat.of(tensors, schema).row)
