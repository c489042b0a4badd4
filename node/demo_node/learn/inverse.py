"""The integer inverse DCT in torch: from votes to signs, the same bits on every device (rule E15).

Integers held in fp32, small enough that every partial sum is exact. Some chunks at a time, in
memory that is taken once: what torch would take anew for each block and operation costs as much as
the products (docs/decisions/codec.md). n chunks.
"""

from functools import lru_cache
from typing import Final

import torch
from torch import Tensor

from demo_node.learn.dct import compute_integer_basis, halve_basis, invert_halves
from demo_protocol.schema import CHUNK

MAGNITUDE_BITS: Final = 10
"""Both products take integers of at most 2^10 - 1 on this side."""

MAGNITUDE_MAX: Final = (1 << MAGNITUDE_BITS) - 1

_SIGN: Final = -(1 << 31)
"""The bit of a number's sign, in int32 and in fp32. `copysign` takes five times as long."""


class Inverse:
    """Room for the inverse of up to `size` chunks on a device."""

    def __init__(self, size: int, device: torch.device) -> None:
        self.votes = torch.zeros((size, CHUNK, CHUNK), dtype=torch.int32, device=device)
        """For those of the next block; all 0, as `invert` leaves it."""
        self._shifted, self._products, parts = (
            torch.empty(self.votes.shape, dtype=torch.float32, device=device) for _ in range(3)
        )
        self._parts = parts.view(2, size, CHUNK // 2, CHUNK)
        self._halves = _integer_halves(device)

    def invert(self, count: int) -> Tensor:
        """Signs fp32 [n, 64, 64] of the first n `votes`; valid until the next call.

        votes: in the order of votes.PLACES. Over columns first, then over rows; before each
        product a chunk's integers are shifted to magnitude <= 1023.
        """
        votes, shifted, products = (
            room[:count] for room in (self.votes, self._shifted, self._products)
        )
        parts = self._parts[:, :count]
        shift(votes, shifted, products)
        invert_halves(self._halves, shifted, parts, products)
        shift(votes.copy_(products), shifted, products)
        invert_halves(self._halves, shifted.transpose(1, 2), parts, products)
        votes.zero_()
        # Integers held in fp32, so this is their sign: compared, no library's notion of it (E6).
        return products.clamp_(-1.0, 1.0)


def shift(integers: Tensor, out: Tensor, room: Tensor) -> None:
    """Shift each chunk of int32 [n, 64, 64] right until its magnitudes are <= 1023, into fp32.

    By the bit length of its largest magnitude less 10, rounding as rule E9 says:
    (|x| + 2^(s-1)) >> s. Rounding can carry 1023.5 to 1024; that becomes 1023. All three have one
    shape; `integers` are used up, `room` is 4 bytes a number for what comes in between.
    """
    powers, roundings = _shift_constants(integers.device)
    signs = torch.bitwise_and(integers, _SIGN, out=room.view(torch.int32))
    integers.abs_()
    # Bit length - 10 = how many of 2^10, 2^11, ... are not above the maximum.
    shifts = torch.bucketize(integers.amax(dim=(1, 2)), powers, right=True, out_int32=True)
    integers.add_(roundings[shifts][:, None, None]).bitwise_right_shift_(shifts[:, None, None])
    out.copy_(integers).clamp_(max=MAGNITUDE_MAX)
    out.view(torch.int32).bitwise_or_(signs)


@lru_cache(maxsize=8)
def _shift_constants(device: torch.device) -> tuple[Tensor, Tensor]:
    """2^10, 2^11, ..., int32 [21]; by shift, 0 and more, what is added first, int32 [22]."""
    powers = [1 << bits for bits in range(MAGNITUDE_BITS, 31)]
    roundings = [1 << shift >> 1 for shift in range(len(powers) + 1)]
    return (
        torch.tensor(powers, dtype=torch.int32, device=device),
        torch.tensor(roundings, dtype=torch.int32, device=device),
    )


@lru_cache(maxsize=8)
def _integer_halves(device: torch.device) -> Tensor:
    """Of B, as fp32 on `device`: its 4096 cosines take longer than the update of a tiny model."""
    return halve_basis(compute_integer_basis()).to(device, torch.float32)
