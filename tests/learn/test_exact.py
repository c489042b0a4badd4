"""Rules E2 to E6 and E15: the step every replica takes alike."""

import ast
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from demo_node.learn import exact
from demo_node.learn.digest import compute_digest
from demo_node.learn.exact import (
    apply_update,
    compute_signs,
    step_parameter,
    validate_state,
)
from demo_protocol.errors import LocalFault, Reject
from demo_protocol.fp32 import Step, round_to_fp32_bits
from demo_protocol.payload import decode_payload
from demo_protocol.schema import TensorSpec, build_schema
from tests.learn import oracle
from tests.learn.builders import CPU, make_payload, make_schema, make_state

SCHEMA = make_schema()
STEP = Step(round_to_fp32_bits(1, 100), round_to_fp32_bits(999, 1000))
ONE_CHUNK = build_schema([TensorSpec("x", (64, 64), 2)])
F32 = npt.NDArray[np.float32]


@pytest.fixture
def flushing() -> Iterator[None]:
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormals")
    yield
    torch.set_flush_denormal(False)


def words(tensor: Tensor) -> list[int]:
    return tensor.reshape(-1).view(torch.int32).tolist()


# The whole step


@pytest.mark.parametrize("peers", [1, 2, 3, 5])
def test_e15_apply_equals_the_oracle_in_64_bit_integers(peers: int) -> None:
    state = make_state(SCHEMA)
    payloads = [make_payload(SCHEMA, 3 + 40 * i, i) for i in range(peers)]
    expected = oracle.apply({n: t.numpy() for n, t in state.items()}, payloads, STEP.lr, STEP.decay)
    moved = apply_update(state, payloads, SCHEMA, STEP)
    assert moved.keys() == expected.keys()
    for name, tensor in moved.items():
        assert words(tensor) == words(torch.from_numpy(expected[name])), name


def test_golden_records_lead_to_these_digests() -> None:
    cases = json.loads((Path(__file__).parents[1] / "vectors" / "apply.json").read_bytes())
    state: Mapping[str, Tensor] = make_state(SCHEMA, 1)
    assert len(cases) == 4
    for case in cases:
        payloads = [decode_payload(bytes.fromhex(raw), SCHEMA, 64) for raw in case["payloads"]]
        state = apply_update(state, payloads, SCHEMA, Step(case["lr_bits"], case["decay_bits"]))
        assert compute_digest(state).hex() == case["digest"]


def test_the_state_before_is_left_as_it_was() -> None:
    state = make_state(SCHEMA)
    before = compute_digest(state)
    after = apply_update(state, [make_payload(SCHEMA, 8, 1)], SCHEMA, STEP)
    assert compute_digest(state) == before != compute_digest(after)


def test_t4_a_round_of_heartbeats_only_decays() -> None:
    state = make_state(SCHEMA)
    moved = apply_update(state, [], SCHEMA, STEP)
    for name, tensor in moved.items():
        assert torch.equal(tensor, state[name] * STEP.decay)


def test_one_flipped_bit_of_one_payload_changes_the_digest() -> None:
    state, payload = make_state(SCHEMA), make_payload(SCHEMA, 16, 1)
    flipped = replace(payload, negative=payload.negative.copy())
    flipped.negative[3, 5] ^= True
    digests = {compute_digest(apply_update(state, [p], SCHEMA, STEP)) for p in (payload, flipped)}
    assert len(digests) == 2


# E2, E5: two separately rounded operations


def fused(p: F32, sign: F32, step: Step) -> F32:
    """p*f - lr*s with p*f unrounded, as a fused multiply-add computes it."""
    return (p.astype(np.float64) * step.decay - sign * step.lr).astype(np.float32)


def test_e2_the_product_is_rounded_before_the_subtraction() -> None:
    random = np.random.default_rng(1)
    p = random.standard_normal(10_000).astype(np.float32)
    sign = random.integers(-1, 2, 10_000).astype(np.float32)
    product = p * np.float32(STEP.decay)
    expected = product - sign * np.float32(STEP.lr)
    assert np.mean(fused(p, sign, STEP) != expected) > 0.1, "the test data would not notice"
    moved = step_parameter(torch.from_numpy(p), torch.from_numpy(sign).to(torch.int8), STEP)
    assert np.array_equal(moved.numpy(), expected)


def test_e2_nothing_in_exact_is_compiled_or_fused() -> None:
    source = Path(exact.__file__).read_text()
    names = {node.attr for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)}
    assert not names & {"compile", "jit", "script", "trace", "addcmul", "addcmul_", "triton"}
    assert "step_parameter" in source


def test_e5_golden_words_of_a_step() -> None:
    p = torch.tensor([1.0, -1.0, 0.1, -0.3, 123.456, 2.0**-63])
    sign = torch.tensor([1, -1, 0, 1, -1, 0], dtype=torch.int8)
    moved = step_parameter(p, sign, Step(0x3C23_D70A, 0x3F7F_BE77))
    expected = [0x3F7D_2F1B, -0x4082_D0E5, 0x3DCC_985F, -0x4161_6F00, 0x42F6_AF63, 0x1FFF_BE77]
    assert words(moved) == expected


# E3, E4, E6: what a state may hold


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_e3_a_state_that_is_not_fp32_is_a_local_fault(dtype: torch.dtype) -> None:
    state = {name: tensor.to(dtype) for name, tensor in make_state(SCHEMA).items()}
    with pytest.raises(LocalFault, match="fp32"):
        apply_update(state, [], SCHEMA, STEP)
    with pytest.raises(LocalFault, match="fp32"):
        compute_digest(state)


def walk_near_zero() -> bytes:
    """Fifty steps with shrinking lr from parameters around the smallest there are."""
    # As bits, since a flushing processor would write them as 0: 2^-63, 2^-64, ..., 2^-149.
    bits = [0x2000_0000, 0x1F80_0000, 0x1F00_0000, 0x0080_0000, 1, 0x200 - 2**31]
    tiny = torch.tensor(bits, dtype=torch.int32).view(torch.float32)
    state: Mapping[str, Tensor] = {"x": tiny.repeat(683)[:4096].reshape(64, 64).clone()}
    for round_ in range(50):
        step = Step(round_to_fp32_bits(1, 1 << (round_ + 14)), round_to_fp32_bits(7, 8))
        state = apply_update(state, [make_payload(ONE_CHUNK, 9, round_)], ONE_CHUNK, step)
        assert not ((state["x"] != 0) & (state["x"].abs() < 2.0**-64)).any()
    return compute_digest(state)


@pytest.mark.usefixtures("flushing")
def test_e4_flushing_subnormals_changes_nothing() -> None:
    subnormal = torch.tensor([1], dtype=torch.int32).view(torch.float32)  # 2^-149
    assert (subnormal * 1.0).view(torch.int32).item() == 0, "the mode is not on"
    flushed = walk_near_zero()
    torch.set_flush_denormal(False)
    assert (subnormal * 1.0).view(torch.int32).item() == 1
    assert walk_near_zero() == flushed


def test_e4_parameters_below_2_to_the_minus_64_become_plus_zero() -> None:
    edge = 2.0**-64
    p = torch.tensor([edge, -edge, edge * 0.999, -edge * 0.999, 2.0**-149, -0.0, 0.0])
    moved = step_parameter(p, None, Step(round_to_fp32_bits(1, 10), 0x3F80_0000))
    assert words(moved) == [0x1F80_0000, 0x1F80_0000 - 2**31, 0, 0, 0, 0, 0]


@given(st.lists(st.sampled_from([-1, 0, 1]), min_size=4, max_size=4))
def test_e6_no_step_leaves_a_negative_zero(signs: list[int]) -> None:
    lr = STEP.lr
    p = torch.tensor([0.0, -0.0, lr, -lr])
    step = Step(STEP.lr_bits, 0x3F80_0000)
    moved = step_parameter(p, torch.tensor(signs, dtype=torch.int8), step)
    assert -(2**31) not in words(moved)


def test_e6_votes_that_cancel_move_nothing() -> None:
    one = make_payload(SCHEMA, 9, 1)
    payloads = [one, replace(one, negative=~one.negative)]
    assert not compute_signs(payloads, SCHEMA, CPU).any()


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), -float("inf"), -0.0, 2.0**-65, -(2.0**-149)]
)
def test_e6_a_state_that_no_update_makes_is_rejected(value: float) -> None:
    state = make_state(SCHEMA)
    validate_state(state, SCHEMA)
    state["c.bias"][3] = value
    with pytest.raises(Reject, match=r"c\.bias"):
        validate_state(state, SCHEMA)


def test_a_state_of_another_model_is_rejected() -> None:
    state = make_state(SCHEMA)
    with pytest.raises(Reject, match="tensors"):
        validate_state({n: t for n, t in state.items() if n != "c.bias"}, SCHEMA)
    for wrong in (state["c.bias"][:-1], state["c.bias"].double()):
        with pytest.raises(Reject, match=r"c\.bias"):
            validate_state({**state, "c.bias": wrong}, SCHEMA)
