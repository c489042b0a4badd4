"""Bases and the layout of tensors in chunks."""

import math

import pytest
import torch

from demo_node.learn import dct
from demo_node.learn.dct import (
    compute_basis,
    compute_integer_basis,
    forward_dct,
    forward_halves,
    halve_basis,
    inverse_dct,
    invert_halves,
)
from demo_protocol.errors import LocalFault


@pytest.mark.parametrize("length", [1, 2, 3, 12, 31, 64])
def test_bases_are_orthonormal(length: int) -> None:
    basis = compute_basis(length)
    assert torch.allclose(basis @ basis.T, torch.eye(length, dtype=torch.float64), atol=1e-14)


def test_the_forward_transform_is_the_defining_sum() -> None:
    chunk = torch.randn(1, 64, 64, generator=torch.Generator().manual_seed(1))
    found = forward_dct(chunk, compute_basis(64).float())[0]
    for u, v in ((0, 0), (3, 5), (63, 1)):
        expected = 0.0
        for y in range(64):
            for x in range(64):
                wave = math.cos(math.pi * (2 * y + 1) * u / 128)
                wave *= math.cos(math.pi * (2 * x + 1) * v / 128)
                expected += chunk[0, y, x].item() * wave
        expected *= math.sqrt((2 - (u == 0)) / 64) * math.sqrt((2 - (v == 0)) / 64)
        assert found[u, v].item() == pytest.approx(expected, abs=1e-4)


def test_the_inverse_undoes_the_forward_transform() -> None:
    chunks = torch.randn(5, 64, 64, generator=torch.Generator().manual_seed(2))
    basis = compute_basis(64).float()
    assert torch.allclose(inverse_dct(forward_dct(chunks, basis), basis), chunks, atol=1e-5)


def test_e15_halves_give_the_dense_products_integers() -> None:
    basis = compute_integer_basis().float()
    halves = halve_basis(basis)
    integers = torch.randint(
        -1023, 1024, (3, 64, 64), generator=torch.Generator().manual_seed(1)
    ).float()
    evens_first = torch.cat((integers[:, 0::2], integers[:, 1::2]), dim=1)
    parts, found = torch.empty((2, 3, 32, 64)), torch.empty((3, 64, 64))
    invert_halves(halves, evens_first, parts, found)
    assert torch.equal(found, basis @ integers)
    forward_halves(halves, integers.clone(), parts)
    assert torch.equal(torch.stack(tuple(parts), dim=2).view(3, 64, 64), basis.T @ integers)


def test_e15_no_entry_of_the_integer_basis_is_near_a_rounding_edge() -> None:
    scaled = compute_basis(64) * 2**11
    assert (scaled - scaled.floor() - 0.5).abs().min() > 0.01
    assert (compute_integer_basis() - scaled).abs().max() < 0.49


def test_e15_a_wrong_integer_basis_is_a_local_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dct, "INTEGER_BITS", 10)
    with pytest.raises(LocalFault, match="basis"):
        compute_integer_basis()
