"""Rules T1, T3 and E13: what a node sends and what it keeps."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from demo_node.learn.dct import compute_basis, forward_dct, inverse_dct
from demo_node.learn.demo import Encoder
from demo_node.learn.faults import Diverged
from demo_protocol.errors import LocalFault
from demo_protocol.manifest import Learning
from demo_protocol.payload import Payload, decode_payload, encode_payload
from demo_protocol.scale import SCALE_VALUES
from tests.learn.builders import CPU, cut, make_delta, make_schema

SCHEMA = make_schema()
LEARNING = Learning(k=16, beta_ppm=900_000, inner_lr_ppb=3_000_000)
BASIS = compute_basis(64).float()


def make_encoder(learning: Learning = LEARNING) -> Encoder:
    encoder = Encoder(SCHEMA, learning, CPU)
    encoder.accumulate(make_delta(SCHEMA, 1))
    return encoder


def transform(delta: dict[str, Tensor]) -> Tensor:
    return forward_dct(cut(delta, SCHEMA), BASIS).flatten(1)


def sent_by(payload: Payload, unit: float) -> Tensor:
    """What the payload stands for, fp32 [chunks, 4096]."""
    values = torch.from_numpy(SCALE_VALUES[payload.scales].astype(np.float32) * unit)[:, None]
    signed = torch.where(torch.from_numpy(payload.negative), -values, values)
    slots = torch.from_numpy(payload.positions.astype(np.int64))
    return torch.zeros(SCHEMA.chunks, 4096).scatter_(1, slots, signed)


def test_t1_the_residual_decays_and_takes_the_transformed_delta_once_per_round() -> None:
    encoder = Encoder(SCHEMA, LEARNING, CPU)
    first, second = make_delta(SCHEMA, 1), make_delta(SCHEMA, 2)
    encoder.accumulate(first)
    assert torch.allclose(encoder.residual, transform(first), atol=1e-6)
    encoder.accumulate(second)
    expected = 0.9 * transform(first) + transform(second)
    assert torch.allclose(encoder.residual, expected, atol=1e-6)


def test_the_k_largest_coefficients_of_each_chunk_are_sent_in_ascending_order() -> None:
    encoder = make_encoder()
    before = encoder.residual.clone()
    payload = encoder.encode(16, 0)
    for chunk in range(SCHEMA.chunks):
        largest = before[chunk].abs().argsort(descending=True)[:16].sort().values
        assert payload.positions[chunk].tolist() == largest.tolist()
        assert payload.negative[chunk].tolist() == (before[chunk][largest] < 0).tolist()
        mean = before[chunk][largest].abs().mean().item() / encoder.unit
        gap = np.abs(SCALE_VALUES - mean)
        assert gap[payload.scales[chunk]] == pytest.approx(gap.min(), rel=1e-4)


def test_a_payload_survives_the_wire() -> None:
    payload = make_encoder().encode(16, 0)
    decoded = decode_payload(encode_payload(payload), SCHEMA, 16)
    assert np.array_equal(decoded.positions, payload.positions)
    assert np.array_equal(decoded.scales, payload.scales)


def test_t3_exactly_what_was_sent_leaves_the_residual() -> None:
    encoder = make_encoder()
    before = encoder.residual.clone()
    payload = encoder.encode(16, 0)
    assert torch.equal(encoder.residual, before - sent_by(payload, encoder.unit))


@pytest.mark.parametrize("local", ["steps", "accumulate"])
def test_the_unit_is_a_power_of_two_so_that_values_are_exact_in_fp32(local: str) -> None:
    encoder = make_encoder(replace(LEARNING, local=local))
    assert np.frexp(encoder.unit)[0] == 0.5
    exact = SCALE_VALUES.astype(np.float64) * encoder.unit
    assert np.array_equal(exact.astype(np.float32).astype(np.float64), exact)


def test_t3_a_payload_that_did_not_count_is_added_back() -> None:
    encoder = make_encoder()
    before = encoder.residual.clone()
    encoder.encode(16, 7)
    assert not torch.allclose(encoder.residual, before, atol=1e-4)
    encoder.restore(7)
    assert torch.allclose(encoder.residual, before, atol=1e-7)
    encoder.restore(7)
    assert torch.allclose(encoder.residual, before, atol=1e-7), "only once"


def test_t3_restored_late_it_has_decayed_as_if_it_had_never_been_sent() -> None:
    sender, keeper = make_encoder(), make_encoder()
    sender.encode(16, 0)
    for encoder in (sender, keeper):
        for seed in (5, 6, 7):
            encoder.accumulate(make_delta(SCHEMA, seed))
    sender.restore(0)
    for encoder in (sender, keeper):
        encoder.accumulate(make_delta(SCHEMA, 8))  # also drops what restoring put into padding
    assert torch.allclose(sender.residual, keeper.residual, atol=1e-6)


def test_t3_a_payload_that_counted_is_forgotten() -> None:
    encoder = make_encoder()
    encoder.encode(16, 0)
    after = encoder.residual.clone()
    encoder.release(0)
    encoder.restore(0)
    assert torch.equal(encoder.residual, after)


def test_rounds_are_restored_independently() -> None:
    encoder = make_encoder(replace(LEARNING, beta_ppm=1_000_000))
    first = encoder.residual.clone()
    encoder.encode(16, 0)
    second = encoder.residual.clone()
    encoder.encode(16, 1)
    encoder.release(0)
    encoder.restore(1)
    assert torch.allclose(encoder.residual, second, atol=1e-7)
    assert not torch.allclose(encoder.residual, first, atol=1e-4)


def test_error_feedback_delivers_everything_in_the_end() -> None:
    encoder = make_encoder(replace(LEARNING, beta_ppm=1_000_000))
    wanted = encoder.residual.clone()
    delivered = torch.zeros_like(wanted)
    for round_ in range(400):
        delivered += sent_by(encoder.encode(512, round_), encoder.unit)
        encoder.release(round_)
    assert (wanted - delivered).norm() < 0.01 * wanted.norm()


def test_e13_what_leaked_into_padding_is_dropped_before_each_round() -> None:
    encoder = make_encoder(replace(LEARNING, beta_ppm=1_000_000))
    support = cut({n: torch.ones(s) for n, s in SCHEMA.shapes.items()}, SCHEMA)

    def leaked() -> float:
        spatial = inverse_dct(encoder.residual.view(-1, 64, 64), BASIS)
        return float((spatial * (1 - support)).norm())

    for round_ in range(5):
        encoder.encode(16, round_)
    assert leaked() > 0.01, "the test data would not notice"
    inside = inverse_dct(encoder.residual.view(-1, 64, 64), BASIS) * support
    encoder.accumulate({n: torch.zeros(s) for n, s in SCHEMA.shapes.items()})
    assert leaked() < 1e-4
    outcome = inverse_dct(encoder.residual.view(-1, 64, 64), BASIS) * support
    assert torch.allclose(outcome, inside, atol=1e-5), "elements keep what they had"


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1e38])
def test_a_delta_that_is_not_finite_is_refused_and_leaves_the_residual(bad: float) -> None:
    encoder = make_encoder()
    before = encoder.residual.clone()
    delta = make_delta(SCHEMA, 2)
    delta["c.bias"][3] = bad
    with pytest.raises(Diverged, match="finite"):
        encoder.accumulate(delta)
    assert torch.equal(encoder.residual, before)


@pytest.mark.parametrize("k", [0, 4097])
def test_k_out_of_range_is_a_local_fault(k: int) -> None:
    with pytest.raises(LocalFault, match="k"):
        make_encoder().encode(k, 0)


def test_a_chunk_of_zeros_sends_the_smallest_scale_and_stays_near_zero() -> None:
    encoder = Encoder(SCHEMA, LEARNING, CPU)
    for round_ in range(20):
        payload = encoder.encode(16, round_)
        encoder.accumulate({n: torch.zeros(s) for n, s in SCHEMA.shapes.items()})
        assert (payload.scales <= 16).all()
    assert encoder.residual.abs().max() <= 64 * encoder.unit
