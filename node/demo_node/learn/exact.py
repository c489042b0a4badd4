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
from demo_node.learn.flat import Flat, Layout, check_fp32, put_lines
from demo_node.learn.inverse import Inverse
from demo_node.learn.votes import add_votes, clip_votes
from demo_node.native import Codec, find_codec
from demo_protocol.errors import LocalFault, Reject
from demo_protocol.fp32 import Step
from demo_protocol.limits import CONTRIBUTIONS_MAX
from demo_protocol.payload import Payload
from demo_protocol.schema import CHUNK, Schema

SNAP_BELOW: Final = 2.0**-64
"""Smaller parameters become +0, so that no subnormal ever arises (rule E4)."""

SNAPPED_MAX: Final = SNAP_BELOW * (1 - 2.0**-24)
"""The largest fp32 number below."""

_BLOCK: Final = 64
_BLOCK_CARD: Final = 8192
"""Chunks worked through at once, in five arrays of a MB on a processor, of 128 MB on a card."""


def apply_update(
    state: Mapping[str, Tensor], payloads: Sequence[Payload], schema: Schema, step: Step
) -> Flat:
    """The state after a record that lists `payloads`: p <- p*f, then p <- p - lr*s (rule T6).

    state: fp32 tensors of the schema's shapes, left as they are. payloads: those with k > 0, in
    any order. On the device of the state. Raises LocalFault when the state is not fp32 (E3).
    """
    check_fp32(state, "apply")
    if len(payloads) > CONTRIBUTIONS_MAX:
        raise LocalFault(f"apply: {len(payloads)} payloads, at most {CONTRIBUTIONS_MAX} fit")
    flat = Flat.of(state, schema)
    before, layout = flat.row.detach(), flat.layout
    device = before.device
    with pinned_precision(device):
        codec = find_codec() if device.type == "cpu" else None
        if not payloads:
            after = step_parameter(before, None, step)
        elif codec is not None:
            after = torch.empty_like(before)
            _apply_compiled(codec, before, after, layout, payloads, step)
        else:
            after = torch.empty_like(before)
            _apply_blocks(before, after, layout, payloads, step)
        if len(padding := layout.padding_on(device)):
            after.index_fill_(0, padding, 0.0)
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
    old, new = before.view(-1, CHUNK), after.view(-1, CHUNK)
    lines, room = layout.lines(before.device), before.new_empty(0)
    for chunks, signs in _compute_blocks(payloads, layout.schema.chunks, before.device):
        own = lines[chunks.start * CHUNK : chunks.stop * CHUNK]
        torch.index_select(old, 0, own, out=room.resize_(len(own), CHUNK))
        put_lines(new, own, step_parameter(room, signs.view(-1, CHUNK), step, out=room))


def _compute_blocks(
    payloads: Sequence[Payload], count: int, device: torch.device
) -> Iterator[tuple[range, Tensor]]:
    """Some of `count` chunks after the other, and their signs fp32 [n, 64, 64] while it lasts."""
    size = min(_BLOCK if device.type == "cpu" else _BLOCK_CARD, count)
    ballots = clip_votes(payloads)
    inverse = Inverse(size, device)
    for first in range(0, count, size):
        chunks = range(first, min(first + size, count))
        add_votes(ballots, chunks, inverse.votes)
        yield chunks, inverse.invert(len(chunks))


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


def step_parameter(
    parameter: Tensor, sign: Tensor | None, step: Step, out: Tensor | None = None
) -> Tensor:
    """p*f - lr*s with both products rounded to fp32; fp32 of one shape, s in {-1, 0, 1} -> fp32.

    `sign` None means that nobody sent anything: only the decay acts. `out`, where given, takes
    the result; it may be `parameter` itself.
    """
    # Stored before anything is subtracted: no fused multiply-add can take p*f in (rule E2); lr*s
    # is exact, fused or not.
    moved = torch.mul(parameter, step.decay, out=out)
    if sign is not None:
        moved = moved.sub_(sign, alpha=step.lr)
    # What is not beyond the snap becomes +0, and so does -0: one zero only (rules E4 and E6).
    return torch.hardshrink(moved, SNAPPED_MAX, out=moved)


def compute_signs(payloads: Sequence[Payload], schema: Schema, device: torch.device) -> Tensor:
    """The update's direction, int8 [N, 64, 64] in {-1, 0, 1}, of at least one payload; in torch."""
    blocks = _compute_blocks(payloads, schema.chunks, device)
    return torch.cat([signs.to(torch.int8) for _, signs in blocks])


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


@lru_cache(maxsize=1)
def _sorted_integer_basis() -> npt.NDArray[np.float32]:
    return sort_basis(compute_integer_basis())
