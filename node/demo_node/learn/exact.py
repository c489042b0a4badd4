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
from torch.nn import functional

from demo_node.learn.dct import compute_integer_basis, halve_basis, invert_halves, sort_basis
from demo_node.learn.flat import Flat, Layout, check_fp32
from demo_node.learn.votes import clip_votes, combine_votes
from demo_node.native import Codec, find_codec
from demo_protocol.errors import LocalFault, Reject
from demo_protocol.fp32 import Step
from demo_protocol.limits import CONTRIBUTIONS_MAX
from demo_protocol.payload import Payload
from demo_protocol.schema import CHUNK, Schema

MAGNITUDE_BITS: Final = 10
"""Both products take integers of at most 2^10 - 1 on this side."""

MAGNITUDE_MAX: Final = (1 << MAGNITUDE_BITS) - 1

SNAP_BELOW: Final = 2.0**-64
"""Smaller parameters become +0, so that no subnormal ever arises (rule E4)."""

SNAPPED_MAX: Final = SNAP_BELOW * (1 - 2.0**-24)
"""The largest fp32 number below."""

_BLOCK: Final = {"cpu": 32}
_BLOCK_CARD: Final = 8192
"""Chunks worked through at once: half a MB of a processor's cache, 128 MB of a graphics card."""

_SIGN: Final = -(1 << 31)
"""The bit of an fp32 number that says so. `copysign` would take five times as long."""

_SHIFTS: Final = 31 - MAGNITUDE_BITS + 1
"""From none to that of the largest int32."""


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
    device, halves = before.device, _integer_halves(before.device)
    ballots = clip_votes(payloads)
    old, new = before.view(-1, CHUNK), after.view(-1, CHUNK)
    for chunks in _split(layout.schema.chunks, device):
        lines = layout.lines(device)[chunks.start * CHUNK : chunks.stop * CHUNK]
        signs = invert_votes(combine_votes(ballots, chunks, device), halves)
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
    """p*f - lr*s with both products rounded to fp32; fp32 of one shape, s in {-1, 0, 1} -> fp32.

    `sign` None means that nobody sent anything: only the decay acts.
    """
    # Stored before anything is subtracted: no fused multiply-add can take p*f in (rule E2); lr*s
    # is exact, fused or not.
    moved = parameter * step.decay
    if sign is not None:
        moved = moved.sub_(sign, alpha=step.lr)
    # What is not beyond the snap becomes +0, and so does -0: one zero only (rules E4 and E6).
    return functional.hardshrink(moved, SNAPPED_MAX)


def compute_signs(payloads: Sequence[Payload], schema: Schema, device: torch.device) -> Tensor:
    """The update's direction, int8 [N, 64, 64] in {-1, 0, 1}, of at least one payload; in torch."""
    ballots, halves = clip_votes(payloads), _integer_halves(device)
    parts = _split(schema.chunks, device)
    signs = [invert_votes(combine_votes(ballots, chunks, device), halves) for chunks in parts]
    return torch.cat(signs).to(torch.int8)


def invert_votes(votes: Tensor, halves: Tensor) -> Tensor:
    """Signs of the integer inverse DCT of int32 votes, both [n, 64, 64], as fp32 (rule E15).

    votes: in the order of `combine_votes`. halves: of the integer basis B, fp32 [2, 32, 32]. Over
    columns first, then over rows; before each product a chunk's integers are shifted to
    magnitude <= 1023.
    """
    columns = invert_halves(halves, shift_votes(votes))
    rows = invert_halves(halves, shift_products(columns).transpose(1, 2))
    # Integers held in fp32, so this is their sign: compared, no library's notion of it (rule E6).
    return rows.clamp_(-1.0, 1.0)


def shift_votes(votes: Tensor) -> Tensor:
    """Shift each chunk of int32 [n, 64, 64] right until its magnitudes are <= 1023, as fp32.

    By the bit length of its largest magnitude less 10, rounding as rule E9 says:
    (|x| + 2^(s-1)) >> s. Rounding can carry 1023.5 to 1024; that becomes 1023.
    """
    magnitudes = votes.abs()
    powers, halves, _ = _shifts(votes.device)
    # Bit length - 10 = how many of 2^10, 2^11, ... are not above the maximum.
    shifts = torch.bucketize(magnitudes.amax(dim=(1, 2)), powers, right=True, out_int32=True)
    magnitudes.add_(halves[shifts][:, None, None])
    magnitudes.bitwise_right_shift_(shifts[:, None, None]).clamp_(max=MAGNITUDE_MAX)
    signs = votes >> 31  # 0 or -1; to take the complement and 1 off negates
    return magnitudes.bitwise_xor_(signs).sub_(signs).to(torch.float32)


def shift_products(products: Tensor) -> Tensor:
    """`shift_votes` of integers below 2^24 - 2^13 held in fp32: each step is exact there, too."""
    magnitudes = products.abs()
    powers, _, scales = _shifts(products.device)
    shifts = torch.bucketize(magnitudes.amax(dim=(1, 2)), powers, right=True)
    scaled = magnitudes.mul_(scales[shifts][:, None, None]).add_(0.5).floor_()
    scaled.clamp_(max=MAGNITUDE_MAX)
    scaled.view(torch.int32).bitwise_or_(products.view(torch.int32) & _SIGN)
    return scaled


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


@lru_cache(maxsize=8)
def _shifts(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """2^10, 2^11, ... int32 [21]; by shift, what is added first, int32, and 2^-s, fp32 [22]."""
    powers = [1 << bits for bits in range(MAGNITUDE_BITS, 31)]
    halves = [0, *(1 << (shift - 1) for shift in range(1, _SHIFTS))]
    scales = [2.0**-shift for shift in range(_SHIFTS)]
    return (
        torch.tensor(powers, dtype=torch.int32, device=device),
        torch.tensor(halves, dtype=torch.int32, device=device),
        torch.tensor(scales, device=device),
    )


@lru_cache(maxsize=8)
def _integer_halves(device: torch.device) -> Tensor:
    """Of B, as fp32 on `device`: its 4096 cosines take longer than the update of a tiny model."""
    return halve_basis(compute_integer_basis()).to(device, torch.float32)


@lru_cache(maxsize=1)
def _sorted_integer_basis() -> npt.NDArray[np.float32]:
    return sort_basis(compute_integer_basis())
