"""The step from one replicated state to the next: exact, so that every replica takes the same.

Votes and scales are integers and so are all sums; the inverse transform is a product of integers
small enough that fp32 holds every partial sum (rule E15); the parameters move by two separately
rounded operations (rules E2 and E5). Nothing here may be compiled or fused: a compiler would
contract them into one. N chunks, P payloads.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Final

import numpy as np
import torch
from torch import Tensor

from demo_node.learn.dct import compute_integer_basis, from_chunks
from demo_protocol.errors import LocalFault, Reject
from demo_protocol.fp32 import Step
from demo_protocol.limits import CONTRIBUTIONS_MAX
from demo_protocol.payload import Payload
from demo_protocol.scale import SCALE_VALUES
from demo_protocol.schema import CHUNK, SLOTS, Schema

MAGNITUDE_BITS: Final = 10
"""Both products take integers of at most 2^10 - 1 on this side."""

MAGNITUDE_MAX: Final = (1 << MAGNITUDE_BITS) - 1

SNAP_BELOW: Final = 2.0**-64
"""Smaller parameters become +0, so that no subnormal ever arises (rule E4)."""

_BLOCK: Final = {"cpu": 128}
_BLOCK_CARD: Final = 8192
"""Chunks transformed at once: 2 MB of a processor's cache, 128 MB of a graphics card's memory."""

_POWERS: Final = [1 << bits for bits in range(MAGNITUDE_BITS, 31)]


def apply_update(
    state: Mapping[str, Tensor], payloads: Sequence[Payload], schema: Schema, step: Step
) -> dict[str, Tensor]:
    """The state after a record that lists `payloads`: p <- p*f, then p <- p - lr*s (rule T6).

    state: fp32 tensors of the schema's shapes, left as they are. payloads: those with k > 0, in
    any order. On the device of the state. Raises LocalFault when the state is not fp32 (E3).
    """
    for name, tensor in state.items():
        if tensor.dtype != torch.float32:
            raise LocalFault(f"apply: {name} is {tensor.dtype}, the replicated state is fp32")
    device = next(iter(state.values())).device
    with pinned_precision(device):
        signs = from_chunks(compute_signs(payloads, schema, device), schema) if payloads else {}
        return {
            name: step_parameter(tensor, signs.get(name), step) for name, tensor in state.items()
        }


def validate_state(state: Mapping[str, Tensor], schema: Schema) -> None:
    """Raise Reject unless `state`, from outside, could have come out of `apply_update`.

    That is: the schema's names and shapes, fp32, finite, and no -0 or magnitude below 2^-64
    (rules E3, E4 and E6).
    """
    if state.keys() != schema.shapes.keys():
        raise Reject("state: not the tensors of this run's model")
    for name, tensor in state.items():
        if tensor.dtype != torch.float32 or tuple(tensor.shape) != schema.shapes[name]:
            raise Reject(f"state: {name} is {tensor.dtype} {tuple(tensor.shape)}")
        if not torch.isfinite(tensor).all():
            raise Reject(f"state: {name} holds a NaN or infinity")
        # Bit patterns: a comparison would call -0 and flushed subnormals zero.
        if ((tensor.abs() < SNAP_BELOW) & (tensor.view(torch.int32) != 0)).any():
            raise Reject(f"state: {name} holds -0 or a magnitude below 2^-64")


def step_parameter(parameter: Tensor, sign: Tensor | None, step: Step) -> Tensor:
    """p*f - lr*s with both products rounded to fp32; fp32 and int8 of one shape -> fp32.

    `sign` None means that nobody sent anything: only the decay acts.
    """
    moved = parameter * step.decay
    if sign is not None:
        # Stored before it is subtracted: no fused multiply-add can form (rule E2).
        move = sign.to(torch.float32) * step.lr
        moved = moved - move
    # abs makes -0 a 0 as well, so the snap leaves one zero only (rule E6).
    return moved.masked_fill_(moved.abs() < SNAP_BELOW, 0.0)


def compute_signs(payloads: Sequence[Payload], schema: Schema, device: torch.device) -> Tensor:
    """The update's direction, int8 [N, 64, 64] in {-1, 0, 1}, of at least one payload."""
    votes = combine_votes(payloads, schema, device)
    basis = _integer_basis(device)
    size = _BLOCK.get(device.type, _BLOCK_CARD)
    return torch.cat([invert_votes(block, basis) for block in torch.split(votes, size)])


def combine_votes(payloads: Sequence[Payload], schema: Schema, device: torch.device) -> Tensor:
    """Sum of the payloads' votes, sign x clipped scale: int32 [N, 64, 64] (rule T6).

    At most 2048 payloads of values up to 31 << 15: the sums fit an int32.
    """
    if len(payloads) > CONTRIBUTIONS_MAX:
        raise LocalFault(f"apply: {len(payloads)} payloads, at most {CONTRIBUTIONS_MAX} fit")
    values = SCALE_VALUES[np.stack([payload.scales for payload in payloads])]  # int32 [P, N]
    # Lower median (rule E8): one of the values, never a mean of two.
    median = np.sort(values, axis=0)[(len(payloads) - 1) // 2]
    votes = torch.zeros(schema.chunks * SLOTS, dtype=torch.int32, device=device)
    first_slots = np.arange(schema.chunks, dtype=np.int64)[:, None] * SLOTS
    for payload, value in zip(payloads, np.minimum(values, median), strict=True):
        slots = first_slots + payload.positions
        signed = np.where(payload.negative, -value[:, None], value[:, None])
        votes.index_add_(
            0,
            torch.from_numpy(slots.reshape(-1)).to(device),
            torch.from_numpy(signed.reshape(-1)).to(device),
        )
    return votes.view(-1, CHUNK, CHUNK)


def invert_votes(votes: Tensor, basis: Tensor) -> Tensor:
    """Signs int8 of the integer inverse DCT of int32 votes, both [n, 64, 64] (rule E15).

    basis: the integer basis B as fp32 [64, 64]. Over columns first, then over rows; before each
    product a chunk's integers are shifted to magnitude <= 1023.
    """
    columns = shift_chunks(votes).to(torch.float32) @ basis.T
    rows = basis @ shift_chunks(columns.to(torch.int32)).to(torch.float32)
    # Integers held in fp32; compared, not passed to a library's sign (rule E6).
    return (rows > 0).to(torch.int8) - (rows < 0).to(torch.int8)


def shift_chunks(integers: Tensor) -> Tensor:
    """Shift each chunk of int32 [n, 64, 64] right until its magnitudes are <= 1023.

    By the bit length of its largest magnitude less 10, rounding as rule E9 says. Rounding can
    carry 1023.5 to 1024; that becomes 1023.
    """
    magnitudes = integers.abs()
    powers = torch.tensor(_POWERS, dtype=torch.int32, device=integers.device)
    # Bit length - 10 = how many of 2^10, 2^11, ... are not above the maximum.
    shifts = torch.bucketize(magnitudes.amax(dim=(1, 2)), powers, right=True, out_int32=True)
    shifts = shifts[:, None, None]
    rounded = shift_rounding(magnitudes, shifts).clamp_(max=MAGNITUDE_MAX)
    return torch.where(integers < 0, -rounded, rounded)


def shift_rounding(magnitudes: Tensor, shifts: Tensor) -> Tensor:
    """(x + 2^(s-1)) >> s for int32 x >= 0 and s >= 0, x itself for s = 0 (rule E9)."""
    halves = torch.bitwise_left_shift(torch.ones_like(shifts), shifts) >> 1
    return torch.bitwise_right_shift(magnitudes + halves, shifts)


@contextmanager
def pinned_precision(device: torch.device) -> Iterator[None]:
    """No gradients, no autocast, full fp32 products inside, whatever the process set (E10)."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


@lru_cache(maxsize=8)
def _integer_basis(device: torch.device) -> Tensor:
    """B as fp32 on `device`: its 4096 cosines take longer than the update of a tiny model."""
    return compute_integer_basis().to(device, torch.float32)
