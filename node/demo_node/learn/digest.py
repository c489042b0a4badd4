"""The state's fingerprint on any device, and the known-answer test of a trainer's start."""

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from demo_node.learn.exact import apply_update
from demo_node.learn.flat import check_fp32
from demo_protocol import digest as lanes
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
    check_fp32(state, "digest")
    if all(tensor.device.type != "cuda" for tensor in state.values()):
        return lanes.compute_digest({n: t.detach().cpu().numpy() for n, t in state.items()})
    return mix_at_once(state)


def mix_at_once(state: Mapping[str, Tensor]) -> bytes:
    """`compute_digest` for a card, from one copy of the state.

    As many operations whatever the number of tensors, and one wait.
    """
    words = torch.cat([state[name].detach().reshape(-1) for name in sorted(state)])
    sums = sum_lanes(words.view(torch.int32), 0)
    return lanes.pack_digest(*sums, len(words))


def compute_tensor_digests(state: Mapping[str, Tensor]) -> tuple[bytes, ...]:
    """The digest of every tensor by itself, in the order of their names (rule 20)."""
    return tuple(compute_digest({name: state[name]}) for name in sorted(state))


def sum_lanes(words: Tensor, position: int) -> tuple[int, int]:
    """`demo_protocol.digest.sum_lanes` for int32 words [n] on any device.

    Products wrap in 32-bit lanes. Sums are of fewer than 2^32 words in 64 bits: none wraps. They
    stay on the device until all is done.
    """
    sums = torch.zeros(2, dtype=torch.int64, device=words.device)
    for start in range(0, len(words), _BLOCK):
        block = words[start : start + _BLOCK]
        places = torch.arange(
            position + start, position + start + len(block), device=words.device
        ).to(torch.int32)
        x = block ^ (places * _signed(lanes.POSITION_FACTOR))
        x = _fold(x, 16) * _signed(lanes.FIRST_FACTORS[0])
        x = _fold(x, 15) * _signed(lanes.FIRST_FACTORS[1])
        x = _fold(x, 16)
        sums[0].add_(x.sum(dtype=torch.int64))
        x = _fold(x * _signed(lanes.SECOND_FACTOR), 15)
        sums[1].add_(x.sum(dtype=torch.int64))
    first, second = sums.tolist()
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
