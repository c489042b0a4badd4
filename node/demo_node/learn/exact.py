"""The step from one replicated state to the next: exact, so that every replica takes the same.

Votes and scales are integers and so are all sums; the inverse transform is a product of integers
small enough that fp32 holds every partial sum (rule E15); the parameters move by two separately
rounded operations (rules E2 and E5). Nothing here may be compiled or fused: a compiler would
contract them into one; C is compiled with that switched off. N chunks, P payloads, rows of S
numbers as in flat.py.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from demo_node.learn.dct import compute_integer_basis, sort_basis
from demo_node.learn.flat import Flat, Layout
from demo_node.native import Codec, find_codec
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

_BLOCK: Final = {"cpu": 64}
_BLOCK_CARD: Final = 8192
"""Chunks worked through at once: 1 MB of a processor's cache, 128 MB of a graphics card."""

_POWERS: Final = [1 << bits for bits in range(MAGNITUDE_BITS, 31)]


def apply_update(
    state: Mapping[str, Tensor], payloads: Sequence[Payload], schema: Schema, step: Step
) -> Flat:
    """The state after a record that lists `payloads`: p <- p*f, then p <- p - lr*s (rule T6).

    state: fp32 tensors of the schema's shapes, left as they are. payloads: those with k > 0, in
    any order. On the device of the state. Raises LocalFault when the state is not fp32 (E3).
    """
    for name, tensor in state.items():
        if tensor.dtype != torch.float32:
            raise LocalFault(f"apply: {name} is {tensor.dtype}, the replicated state is fp32")
    if len(payloads) > CONTRIBUTIONS_MAX:
        raise LocalFault(f"apply: {len(payloads)} payloads, at most {CONTRIBUTIONS_MAX} fit")
    device = next(iter(state.values())).device
    with pinned_precision(device):
        flat = Flat.of(state, schema)
        before, layout = flat.row.detach(), flat.layout
        codec = find_codec() if device.type == "cpu" else None
        if not payloads:
            after = step_parameter(before, None, step)
        elif codec is not None:
            after = torch.empty_like(before)
            _apply_compiled(codec, before, after, layout, payloads, step)
        else:
            after = torch.empty_like(before)
            _apply_blocks(before, after, layout, payloads, step)
        if len(layout.padding):
            after.index_fill_(0, layout.padding.to(device), 0.0)
    return Flat(after, layout)


def _apply_compiled(
    codec: Codec,
    before: Tensor,
    after: Tensor,
    layout: Layout,
    payloads: Sequence[Payload],
    step: Step,
) -> None:
    """In C, rows [S] in memory of the processor."""
    basis = _sorted_integer_basis()
    rows = before.numpy(), after.numpy()
    codec.apply(*rows, layout.places, payloads, step, basis, torch.get_num_threads())


def _apply_blocks(
    before: Tensor, after: Tensor, layout: Layout, payloads: Sequence[Payload], step: Step
) -> None:
    """In torch, rows [S], some chunks at a time; as many operations whatever the tensors are."""
    device, basis = before.device, _integer_basis(before.device)
    old, new = before.view(-1, CHUNK), after.view(-1, CHUNK)
    for chunks in _split(layout.schema.chunks, device):
        lines = layout.lines(device)[chunks.start * CHUNK : chunks.stop * CHUNK]
        signs = invert_votes(combine_votes(payloads, chunks, device), basis)
        moved = step_parameter(old.index_select(0, lines), signs.view(-1, CHUNK), step)
        new.index_copy_(0, lines, moved)


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
    """The update's direction, int8 [N, 64, 64] in {-1, 0, 1}, of at least one payload; in torch."""
    basis = _integer_basis(device)
    parts = _split(schema.chunks, device)
    return torch.cat([invert_votes(combine_votes(payloads, c, device), basis) for c in parts])


def combine_votes(payloads: Sequence[Payload], chunks: range, device: torch.device) -> Tensor:
    """Sum of the payloads' votes, sign x clipped scale: int32 [n, 64, 64] of n `chunks` (rule T6).

    At most 2048 payloads of values up to 31 << 15: the sums fit an int32.
    """
    own = slice(chunks.start, chunks.stop)
    values = SCALE_VALUES[np.stack([payload.scales[own] for payload in payloads])]  # int32 [P, n]
    # Lower median (rule E8): one of the values, never a mean of two.
    median = np.sort(values, axis=0)[(len(payloads) - 1) // 2]
    first = np.arange(len(chunks), dtype=np.int32)[:, None] * SLOTS
    clipped = np.minimum(values, median)[:, :, None]
    slots = [(first + payload.positions[own]).reshape(-1) for payload in payloads]
    signed = [
        np.where(payload.negative[own], -value, value).reshape(-1)
        for payload, value in zip(payloads, clipped, strict=True)
    ]
    votes = torch.zeros(len(chunks) * SLOTS, dtype=torch.int32, device=device)
    votes.index_add_(0, _send(np.concatenate(slots), device), _send(np.concatenate(signed), device))
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


def _split(chunks: int, device: torch.device) -> list[range]:
    """All chunks, some at a time."""
    size = _BLOCK.get(device.type, _BLOCK_CARD)
    return [range(first, min(first + size, chunks)) for first in range(0, chunks, size)]


def _send(array: npt.NDArray[np.int32], device: torch.device) -> Tensor:
    """To the device; a graphics card need not be waited for."""
    tensor = torch.from_numpy(array)
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


@lru_cache(maxsize=8)
def _integer_basis(device: torch.device) -> Tensor:
    """B as fp32 on `device`: its 4096 cosines take longer than the update of a tiny model."""
    return compute_integer_basis().to(device, torch.float32)


@lru_cache(maxsize=1)
def _sorted_integer_basis() -> npt.NDArray[np.float32]:
    return sort_basis(compute_integer_basis())
