"""Discrete cosine transforms of chunks, and the two bases: exact to rounding, and integer.

C[i, f] = s(f) cos(pi (2i + 1) f / 2n), s(0) = sqrt(1/n), else sqrt(2/n): orthonormal DCT-II.
forward = C^T x C, inverse = C X C^T, for each chunk. N is the number of chunks.
"""

import hashlib
import math
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from demo_protocol.errors import LocalFault
from demo_protocol.schema import CHUNK

INTEGER_BITS: Final = 11
"""The integer basis is rint(2^11 C): the finest whose products stay below 2^24 (rule E15)."""

INTEGER_BASIS_SHA256: Final = "21138a721de0c1d1168f9c395e51f6983e38feb2d29ee57a238e89a0b4fa413e"


def compute_basis(length: int) -> Tensor:
    """C as fp64 [length, length]: rows are positions, columns frequencies."""
    rows = [[_basis_entry(i, f, length) for f in range(length)] for i in range(length)]
    return torch.tensor(rows, dtype=torch.float64)


def _basis_entry(position: int, frequency: int, length: int) -> float:
    # The angle modulo 2 pi, in integers: cos never sees a large argument.
    turn = (2 * position + 1) * frequency % (4 * length)
    scale = math.sqrt((1 if frequency == 0 else 2) / length)
    return scale * math.cos(math.pi * turn / (2 * length))


def compute_integer_basis() -> Tensor:
    """B = rint(2^11 C) for chunks of 64, as int16 [64, 64]; the same integers everywhere.

    No entry of 2^11 C lies within 0.01 of a rounding edge, so no libm can move one; should one
    do so all the same, the hash differs and LocalFault is raised.
    """
    basis = torch.round(compute_basis(CHUNK) * 2**INTEGER_BITS).to(torch.int16)
    found = hashlib.sha256(basis.numpy().astype("<i2").tobytes()).hexdigest()
    if found != INTEGER_BASIS_SHA256:
        raise LocalFault(f"the integer DCT basis has hash {found}: this machine's cos is wrong")
    return basis


def halve_basis(basis: Tensor) -> Tensor:
    """Its even and its odd frequencies at the first half of positions: [2, 32, 32], as given.

    That is all of it: at position 63 - i even cosines are those of i, and odd ones their negatives.
    """
    half = CHUNK // 2
    return torch.stack((basis[:half, 0::2], basis[:half, 1::2]))


def forward_halves(halves: Tensor, chunks: Tensor, out: Tensor) -> None:
    """basis.T @ chunks, [n, 64, 64], in half the products: even and odd rows into [2, n, 32, 64].

    `chunks` are used up.
    """
    half = CHUNK // 2
    first, second = chunks[:, :half], chunks[:, half:].flip(1)
    torch.sub(first, second, out=chunks[:, half:])
    first.add_(second)
    for parity in range(2):
        part = chunks[:, parity * half : (parity + 1) * half]
        torch.matmul(halves[parity].T, part, out=out[parity])


def invert_halves(halves: Tensor, evens_first: Tensor, parts: Tensor, out: Tensor) -> None:
    """basis @ x of [n, 64, 64], in half the products; `evens_first`: x, its even rows first.

    parts: room for [2, n, 32, 64]. No sum goes through a value that is larger than the dense
    product's largest (rule E15).
    """
    half = CHUNK // 2
    even = torch.matmul(halves[0], evens_first[:, :half], out=parts[0])
    odd = torch.matmul(halves[1], evens_first[:, half:], out=parts[1])
    torch.add(even, odd, out=out[:, :half])
    out[:, half:].copy_(even.sub_(odd).flip(1))


def sort_basis(basis: Tensor) -> npt.NDArray[np.float32]:
    """A basis [64, 64] as native/dct.h wants it: what each halving needs, and the constant."""
    entries, half, step = basis.to(torch.float32).numpy(), CHUNK // 2, 1
    parts = []
    while half:
        parts.append(entries[:half, step :: 2 * step].reshape(-1))
        half, step = half // 2, 2 * step
    return np.concatenate([*parts, entries[0, :1]])


def forward_dct(chunks: Tensor, basis: Tensor) -> Tensor:
    """Coefficients fp32 [N, 64, 64] of fp32 [N, 64, 64]."""
    return basis.T @ (chunks @ basis)


def inverse_dct(coefficients: Tensor, basis: Tensor) -> Tensor:
    """Inverse of `forward_dct`, up to rounding. The exact one is exact.py's."""
    return basis @ (coefficients @ basis.T)
