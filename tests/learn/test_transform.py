"""Rules E7 to E11, E15 and T6: votes and their integer inverse transform."""

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from demo_node.learn import votes
from demo_node.learn.dct import compute_basis, compute_integer_basis
from demo_node.learn.digest import compute_digest
from demo_node.learn.exact import (
    apply_update,
    compute_signs,
    pinned_precision,
)
from demo_node.learn.votes import add_votes, clip_votes
from demo_protocol.errors import LocalFault
from demo_protocol.fp32 import Step, round_to_fp32_bits
from demo_protocol.limits import CONTRIBUTIONS_MAX
from demo_protocol.payload import Payload
from demo_protocol.scale import SCALE_VALUES
from demo_protocol.schema import SLOTS, Schema, TensorSpec, build_schema
from tests.learn import oracle
from tests.learn.builders import (
    CPU,
    invert,
    make_payload,
    make_schema,
    make_state,
    shift,
    sum_votes,
)

SCHEMA = make_schema()
STEP = Step(round_to_fp32_bits(1, 100), round_to_fp32_bits(999, 1000))
BASIS = compute_integer_basis().float()
ONE_CHUNK = build_schema([TensorSpec("x", (64, 64), 2)])


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def one_chunk(values: list[int], *, positions: int = 1) -> list[Payload]:
    """Payloads of one chunk that all vote + for the same slots, with these scale codes."""
    return [
        Payload(
            k=positions,
            positions=np.arange(positions, dtype=np.uint16)[None],
            negative=np.zeros((1, positions), dtype=np.bool_),
            scales=np.array([value], dtype=np.uint8),
        )
        for value in values
    ]


# E7, E8, T6: votes


@pytest.mark.usefixtures("threads")
def test_e7_the_order_of_payloads_and_the_threads_do_not_matter() -> None:
    payloads = [make_payload(SCHEMA, 20, seed) for seed in range(6)]
    state = make_state(SCHEMA)
    digests = set()
    for threads, order in ((1, payloads), (2, payloads[::-1]), (4, payloads[3:] + payloads[:3])):
        torch.set_num_threads(threads)
        digests.add(compute_digest(apply_update(state, order, SCHEMA, STEP)))
    assert len(digests) == 1


def test_e7_every_scale_code_votes_with_its_integer() -> None:
    for code in range(256):
        votes = sum_votes(one_chunk([code]), ONE_CHUNK)
        assert votes.dtype == torch.int32
        assert votes.view(-1)[:2].tolist() == [(16 + code % 16) << (code // 16), 0]


def test_e7_as_many_payloads_of_the_largest_scale_as_a_record_lists_fit_and_more_are_refused() -> (
    None
):
    votes = sum_votes(one_chunk([255] * CONTRIBUTIONS_MAX), ONE_CHUNK)
    assert int(votes.max()) == CONTRIBUTIONS_MAX * (31 << 15) < 2**31
    # Its bit length less 10 is 21, and half of that shift is still added to it (rule E9).
    assert int(votes.max()) + (1 << 20) < 2**31
    assert int(shift(votes).max()) == (int(votes.max()) + (1 << 20)) >> 21
    with pytest.raises(LocalFault, match=str(CONTRIBUTIONS_MAX + 1)):
        apply_update(
            make_state(ONE_CHUNK), one_chunk([255] * (CONTRIBUTIONS_MAX + 1)), ONE_CHUNK, STEP
        )


@pytest.mark.parametrize("count", range(1, 9))
def test_e8_scales_are_clipped_to_the_lower_median(count: int) -> None:
    codes = [200, 16, 255, 32, 100, 48, 90, 7][:count]
    values = sorted(int(SCALE_VALUES[code]) for code in codes)
    median = values[(count - 1) // 2]
    votes = sum_votes(one_chunk(codes), ONE_CHUNK)
    assert int(votes.view(-1)[0]) == sum(min(value, median) for value in values)


def test_t6_one_huge_scale_cannot_outvote_two_peers() -> None:
    honest = one_chunk([100, 100], positions=4)
    liar = one_chunk([255], positions=4)[0]
    liar = replace(liar, negative=~liar.negative)
    votes = sum_votes([*honest, liar], ONE_CHUNK)
    assert (votes.view(-1)[:4] == int(SCALE_VALUES[100])).all()


def test_t6_energies_are_clipped_where_some_send_more_coefficients() -> None:
    payloads = [*one_chunk([100, 110], positions=8), *one_chunk([255], positions=32)]
    small, large = (int(SCALE_VALUES[code]) for code in (100, 110))
    votes = sum_votes(payloads, ONE_CHUNK).view(-1)
    median = 8 * large**2  # of 8 small^2, 8 large^2 and 32 times the largest there is
    assert int(votes[8]) == math.isqrt(median // 32) < large
    assert int(votes[0]) == small + large + math.isqrt(median // 32)
    assert 32 * int(votes[8]) ** 2 <= median


@given(st.lists(st.tuples(st.integers(1, 4096), st.integers(0, 255)), min_size=1, max_size=6))
def test_t6_clipped_values_are_the_roots_of_integers(votes: list[tuple[int, int]]) -> None:
    payloads = [make_payload(ONE_CHUNK, k, k, code_min=code, code_max=code) for k, code in votes]
    clipped = {
        (int(ballot.positions.shape[2]), int(value))
        for ballot in clip_votes(payloads)
        for value in ballot.values[:, 0]
    }
    values = [(k, int(SCALE_VALUES[code])) for k, code in votes]
    median = sorted(k * value**2 for k, value in values)[(len(values) - 1) // 2]
    assert clipped == {(k, min(value, math.isqrt(median // k))) for k, value in values}


def test_t6_votes_are_summed_sign_times_scale() -> None:
    payloads = [make_payload(SCHEMA, 30, seed) for seed in range(3)]
    votes = sum_votes(payloads, SCHEMA).numpy()
    for chunk in range(SCHEMA.chunks):
        assert np.array_equal(votes[chunk], oracle.sum_votes(payloads, chunk))


def test_t6_a_card_adds_the_same_votes(monkeypatch: pytest.MonkeyPatch) -> None:
    ballots = clip_votes([make_payload(SCHEMA, k, seed) for seed, k in enumerate((30, 30, 4))])
    expected, found = (torch.zeros((9, 64, 64), dtype=torch.int32) for _ in range(2))
    add_votes(ballots, range(9), expected)
    monkeypatch.setattr(votes, "_add_here", votes._add_there)
    for part in (range(5), range(5, 9)):
        add_votes(ballots, part, found[part.start : part.stop])
    assert torch.equal(found, expected)


# E9, E10, E15: the integer inverse


def test_e9_shifts_round_half_away_from_zero() -> None:
    table = {
        0: [0, 1, 2, 3, 4, 5, 6, 7, 8],
        1: [0, 1, 1, 2, 2, 3, 3, 4, 4],
        2: [0, 0, 1, 1, 1, 1, 2, 2, 2],
        3: [0, 0, 0, 0, 1, 1, 1, 1, 1],
    }
    for bits, expected in table.items():
        chunk = torch.zeros((1, 64, 64), dtype=torch.int32)
        chunk[0, 0, :9] = torch.arange(9)
        chunk[0, 1, :9] = -torch.arange(9)
        chunk[0, 63, 63] = 1 << (9 + bits)  # the largest says how far all are shifted
        shifted = shift(chunk)
        assert shifted[0, 0, :9].tolist() == expected
        assert shifted[0, 1, :9].tolist() == [-x for x in expected]


@pytest.mark.parametrize(
    ("largest", "value", "expected"),
    [
        (1023, -1023, -1023),
        (1024, 3, 2),
        (1024, -3, -2),
        (1024, -1, -1),
        (2047, 2047, 1023),  # 1023.5 rounds to 1024, which the product must not see
        (2047, -2047, -1023),
        (2**30, 2**20, 1),
        (0, 0, 0),
    ],
)
def test_e9_chunks_shift_by_the_bit_length_of_their_maximum(
    largest: int, value: int, expected: int
) -> None:
    chunk = torch.zeros((2, 64, 64), dtype=torch.int32)
    chunk[0, 0, 0], chunk[0, 5, 7] = largest, value
    chunk[1, 1, 1] = 1000
    shifted = shift(chunk)
    assert int(shifted[0, 5, 7]) == expected
    assert int(shifted[1, 1, 1]) == 1000, "a chunk's shift is its own"
    assert int(shifted.abs().max()) <= 1023


def test_e15_no_partial_sum_reaches_2_to_the_24() -> None:
    basis = compute_integer_basis().long()
    assert int(basis.abs().max()) == 362
    assert int(basis.abs().sum(dim=1).max()) * 1023 == 15_165_975 < 2**24


def test_e10_worst_case_vectors_are_exact_in_any_order() -> None:
    basis = compute_integer_basis()
    row = basis[basis.long().abs().sum(dim=1).argmax()]
    worst = torch.where(row < 0, -1023, 1023).to(torch.int32).expand(3, 64, 64).clone()
    worst[1] = 1023
    worst[2] = -worst[0].T
    exact_product = worst.long() @ basis.long().T
    assert int(exact_product.abs().max()) == 15_165_975
    for order in (torch.arange(64), torch.randperm(64, generator=torch.Generator().manual_seed(1))):
        product = worst[:, :, order].float() @ BASIS[:, order].T
        assert torch.equal(product.long(), exact_product)
    signs = invert(worst)
    for i, chunk in enumerate(worst):
        columns = oracle.shift_to_ten_bits(chunk.long().numpy()) @ oracle.cosine_table().T
        rows = oracle.cosine_table() @ oracle.shift_to_ten_bits(columns)
        assert np.array_equal(signs[i].numpy(), np.sign(rows))


def test_e10_autocast_and_low_precision_outside_do_not_reach_in() -> None:
    state = make_state(SCHEMA)
    payloads = [make_payload(SCHEMA, 100, seed) for seed in range(3)]
    expected = compute_digest(apply_update(state, payloads, SCHEMA, STEP))
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = compute_digest(apply_update(state, payloads, SCHEMA, STEP))
            rounded = (torch.full((64, 64), 1023.0) @ BASIS).float()
        assert torch.get_float32_matmul_precision() == "medium", "the setting is given back"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert found == expected
    assert not torch.equal(rounded, torch.full((64, 64), 1023.0) @ BASIS), "would not notice"


def test_e10_no_gradient_is_recorded() -> None:
    state = {n: t.requires_grad_() for n, t in make_state(SCHEMA).items()}
    moved = apply_update(state, [make_payload(SCHEMA, 4, 1)], SCHEMA, STEP)
    assert not any(tensor.requires_grad for tensor in moved.values())
    with pinned_precision(CPU):
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()


def test_e11_fp64_products_and_limbs_of_five_bits_give_the_same_signs() -> None:
    payloads = [make_payload(SCHEMA, 200, seed) for seed in range(4)]
    votes = sum_votes(payloads, SCHEMA)
    signs = invert(votes)

    def by_fp64(integers: Tensor) -> Tensor:
        return (integers.double() @ BASIS.double().T).to(torch.int32)

    def by_limbs(integers: Tensor) -> Tensor:
        high = integers >> 5  # floors, so that the low limb is 0 to 31
        low = integers - (high << 5)
        products = [(limb.float() @ BASIS.T).to(torch.int32) for limb in (high, low)]
        return (products[0] << 5) + products[1]

    for product in (by_fp64, by_limbs):
        columns = shift(product(shift(votes).int())).int()
        rows = product(columns.transpose(1, 2)).transpose(1, 2)
        assert torch.equal(rows.sign(), signs)


def test_e15_signs_differ_from_the_ideal_in_under_two_of_a_thousand() -> None:
    schema = build_schema([TensorSpec("x", (640, 640), 1)])
    payloads = [make_payload(schema, 64, seed) for seed in range(8)]
    votes = sum_votes(payloads, schema)
    signs = invert(votes)
    basis = compute_basis(64)
    ideal = basis @ votes.double() @ basis.T
    wrong = signs != ideal.sign()
    assert wrong.double().mean() < 2e-3
    assert ideal[wrong].abs().max() < 0.02 * ideal.pow(2).mean().sqrt()


def test_large_models_are_worked_through_in_blocks_with_the_same_result() -> None:
    schema: Schema = build_schema([TensorSpec("x", (64 * 20, 64 * 20), 1)])
    payload = make_payload(schema, 5, 1)
    signs = compute_signs([payload], schema, CPU)
    assert signs.shape == (400, 64, 64)
    assert payload.positions.max() < SLOTS
    for chunk in (0, 127, 128, 399):
        assert np.array_equal(signs[chunk].numpy(), oracle.chunk_signs([payload], chunk))
