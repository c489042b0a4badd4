"""The state's fingerprint on any device, and the known-answer test of a trainer's start."""

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from demo_node.learn.exact import apply_update
from demo_protocol import digest as lanes
from demo_protocol.errors import LocalFault
from demo_protocol.known_answer import (
    KNOWN_DIGESTS,
    compute_known_records,
    compute_known_state,
    known_schema,
)

_BLOCK: Final = 1 << 22
"""Words mixed at once on a graphics card."""


def compute_digest(state: Mapping[str, Tensor]) -> bytes:
    """8 bytes that name the bits of `state`, as `demo_protocol.digest.compute_digest` (E12).

    Without a copy on the CPU; on CUDA the card mixes. Raises LocalFault unless all are fp32.
    """
    for name, tensor in state.items():
        if tensor.dtype != torch.float32:
            raise LocalFault(f"digest: {name} is {tensor.dtype}, the replicated state is fp32")
    if all(tensor.device.type != "cuda" for tensor in state.values()):
        return lanes.compute_digest({n: t.detach().cpu().numpy() for n, t in state.items()})
    first = second = position = 0
    for name in sorted(state):
        words = state[name].detach().reshape(-1).view(torch.int32)
        sums = sum_lanes(words, position)
        first, second = first + sums[0], second + sums[1]
        position += len(words)
    return lanes.pack_digest(first, second, position)


def compute_tensor_digests(state: Mapping[str, Tensor]) -> tuple[bytes, ...]:
    """The digest of every tensor by itself, in the order of their names (rule 20)."""
    return tuple(compute_digest({name: state[name]}) for name in sorted(state))


def sum_lanes(words: Tensor, position: int) -> tuple[int, int]:
    """`demo_protocol.digest.sum_lanes` for int32 words [n] on any device.

    Products wrap in 32-bit lanes. Sums are of fewer than 2^32 words in 64 bits: none wraps.
    """
    first = second = 0
    for start in range(0, len(words), _BLOCK):
        block = words[start : start + _BLOCK]
        places = torch.arange(
            position + start, position + start + len(block), device=words.device
        ).to(torch.int32)
        x = block ^ (places * _signed(lanes.POSITION_FACTOR))
        x = _fold(x, 16) * _signed(lanes.FIRST_FACTORS[0])
        x = _fold(x, 15) * _signed(lanes.FIRST_FACTORS[1])
        x = _fold(x, 16)
        first += int(x.sum(dtype=torch.int64))
        x = _fold(x * _signed(lanes.SECOND_FACTOR), 15)
        second += int(x.sum(dtype=torch.int64))
    return first & 0xFFFF_FFFF, second & 0xFFFF_FFFF


def known_answer(device: torch.device) -> bool:
    """Whether this device, with this process's settings, takes three known steps exactly.

    Run at every start of a trainer. False: use the CPU; False there too: do not contribute.
    """
    schema = known_schema()
    known = compute_known_state(schema)
    state: Mapping[str, Tensor] = {n: torch.from_numpy(t).to(device) for n, t in known.items()}
    for record, expected in zip(compute_known_records(schema), KNOWN_DIGESTS, strict=True):
        state = apply_update(state, record.payloads, schema, record.step)
        if compute_digest(state).hex() != expected:
            return False
    return True


def _signed(factor: int) -> int:
    """The int32 with the bits of an unsigned 32-bit factor."""
    return factor - (1 << 32) if factor >= 1 << 31 else factor


def _fold(x: Tensor, bits: int) -> Tensor:
    """x ^ (x >> bits) with a logical shift; int32's own shift would copy the sign."""
    return x ^ ((x >> bits) & ((1 << (32 - bits)) - 1))
