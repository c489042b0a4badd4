"""What `bench semantics` compares: three ways from the nodes' deltas to the next state."""

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from demo_node.bench.exchange import Exchange, OwnExchange, ReferenceExchange
from demo_node.bench.ideal import IdealExchange
from demo_node.learn.dct import compute_basis, forward_dct
from demo_node.learn.reference import DeMo
from demo_protocol.fp32 import compute_step
from demo_protocol.manifest import Learning
from demo_protocol.schema import CHUNK, TensorSpec, build_schema
from tests.learn.builders import cut, make_delta, make_schema, make_state

LEARNING = Learning(k=16, beta_ppm=900_000, lr_ppb=10_000_000)


def moved(exchange: Exchange, *rounds: list[dict[str, Tensor]]) -> Tensor:
    """Signs in which the last of `rounds` (deltas of every node) moves the parameters."""
    state: Mapping[str, Tensor] = make_state(make_schema())
    for round_, deltas in enumerate(rounds):
        before, state = state, exchange.advance(round_, state, deltas)
    return torch.cat([(before[name] - state[name]).sign().flatten() for name in sorted(state)])


def test_integers_and_float64_mostly_decide_alike() -> None:
    """Codes are 3 % apart and the integer transform has ten bits: close calls differ, no others."""
    schema = make_schema()
    common = make_delta(schema, 0)
    rounds = [
        [
            {name: common[name] + own for name, own in make_delta(schema, 4 * r + n).items()}
            for n in range(1, 4)
        ]
        for r in range(3)
    ]
    ours, ideal = (make(schema, LEARNING, 3) for make in (OwnExchange, IdealExchange))
    agree = (moved(ours, *rounds) == moved(ideal, *rounds)).double().mean().item()
    assert 0.97 < agree < 1


def test_what_float64_sends_leaves_the_residual_to_the_last_bit_but_its_rounding() -> None:
    """The chunk's mean magnitude with each coefficient's sign; the rest stays, and decays."""
    schema = build_schema([TensorSpec("a.weight", (CHUNK, CHUNK), 3)])
    learning = replace(LEARNING, k=2)
    exchange = IdealExchange(schema, learning, 1)
    delta = make_delta(schema, 1)
    basis = compute_basis(CHUNK)
    coefficients = forward_dct(cut(delta, schema).double(), basis).flatten()
    largest = coefficients.abs().topk(2).indices
    mean = coefficients[largest].abs().mean()
    left = coefficients.clone()
    left[largest] -= coefficients[largest].sign() * mean
    exchange.advance(0, make_state(schema), [delta])
    torch.testing.assert_close(exchange.residuals.flatten(), left, rtol=1e-12, atol=1e-15)
    zero = {name: torch.zeros_like(tensor) for name, tensor in delta.items()}
    second = (left * 0.9).abs().topk(2).indices
    exchange.advance(1, make_state(schema), [zero])
    kept = torch.ones_like(left, dtype=torch.bool).scatter_(0, second, False)
    torch.testing.assert_close(
        exchange.residuals.flatten()[kept], left[kept] * 0.9, rtol=1e-12, atol=1e-15
    )


def test_float64_hears_a_loud_node_as_the_median() -> None:
    schema = make_schema()
    deltas = [make_delta(schema, seed) for seed in range(3)]
    outcomes = [
        moved(
            IdealExchange(schema, LEARNING, 3),
            [deltas[0], deltas[1], {name: t * factor for name, t in deltas[2].items()}],
        )
        for factor in (1e3, 1e6)
    ]
    alone = moved(IdealExchange(schema, LEARNING, 1), [deltas[2]])
    assert torch.equal(*outcomes)
    assert (outcomes[0] == alone).double().mean() < 0.9


def test_the_reference_is_its_optimizer_stepped_with_the_same_gradients() -> None:
    schema, learning = make_schema(), replace(LEARNING, lr_warmup_rounds=3)
    state: Mapping[str, Tensor] = make_state(schema)
    parameters = {name: torch.nn.Parameter(tensor.clone()) for name, tensor in state.items()}
    optimizer = DeMo(parameters.values(), compression_decay=0.9, compression_topk=16)
    exchange = ReferenceExchange(schema, learning, 1)
    for round_ in range(3):
        gradient = make_delta(schema, round_)
        lr = compute_step(learning, round_).lr
        state = exchange.advance(round_, state, [{n: g * lr for n, g in gradient.items()}])
        for name, parameter in parameters.items():
            parameter.grad = gradient[name]
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
    equal = [(state[name] == parameters[name]).double().mean().item() for name in state]
    assert min(equal) > 0.99  # g * lr / lr is g, but for its last bit


def test_one_loud_node_is_all_that_the_reference_hears() -> None:
    """What the bounded votes are there for: it shows that the sides are not one and the same."""
    schema = make_schema()
    deltas = [make_delta(schema, seed) for seed in range(3)]
    deltas[2] = {name: tensor * 1e6 for name, tensor in deltas[2].items()}
    alone = moved(ReferenceExchange(schema, LEARNING, 1), [deltas[2]])
    together = moved(ReferenceExchange(schema, LEARNING, 3), deltas)
    assert math.isclose((together == alone).double().mean().item(), 1, abs_tol=0.02)
