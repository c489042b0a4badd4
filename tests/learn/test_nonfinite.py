"""A gradient or a loss that is not finite: its step is as if it had never been."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from demo_node.learn.adamw import MOMENTS, AdamW
from demo_node.learn.local import LocalTrainer, LocalWork
from demo_node.learn.model import Decoder
from demo_protocol.manifest import Learning
from tests.learn.builders import CPU
from tests.learn.test_local import LEARNING, MODEL, Clock, make_batches, train

NAN, INF = float("nan"), float("inf")
NAMES = [name for name, _parameter in Decoder(MODEL).named_parameters()]


def make_trainer(learning: Learning = LEARNING, *, is_fused: bool = True) -> LocalTrainer:
    trainer = LocalTrainer(MODEL, learning, CPU, Clock())
    trainer._optimizer = AdamW(trainer.decoder.parameters(), learning, fused=is_fused)
    return trainer


def poison(trainer: LocalTrainer, parts: Sequence[int], name: str, value: float = NAN) -> None:
    """One number in the gradient of `name` becomes `value`, in backward passes 0, 1, 2, ..."""
    calls: list[int] = []

    def spoil(gradient: Tensor) -> Tensor | None:
        calls.append(len(calls))
        if calls[-1] not in parts:
            return None
        spoilt = gradient.clone()
        spoilt.flatten()[-1] = value
        return spoilt

    parameter = trainer.decoder.get_parameter(name)
    parameter.register_hook(spoil)  # type: ignore[no-untyped-call]  # torch leaves it untyped


def get_moments(trainer: LocalTrainer) -> list[Tensor]:
    """What AdamW keeps, of every parameter."""
    kept = (trainer._optimizer.state[p] for p in trainer.decoder.parameters())
    return [state[key].clone() for state in kept for key in MOMENTS]


def assert_same(work: LocalWork, expected: LocalWork) -> None:
    """Bit for bit, but for what was left out and the time that it took."""
    assert all(torch.equal(work.delta[name], expected.delta[name]) for name in NAMES)
    assert replace(work, nonfinite=0, busy_ns=0) == replace(
        expected, delta=work.delta, nonfinite=0, busy_ns=0
    )


def assert_same_state(one: LocalTrainer, other: LocalTrainer) -> None:
    assert all(map(torch.equal, get_moments(one), get_moments(other)))


@pytest.mark.parametrize("is_fused", [True, False])
@pytest.mark.parametrize("bad", range(4))
@pytest.mark.parametrize("value", [NAN, INF, -INF, 1e30])
def test_a_step_with_such_a_gradient_has_never_been(value: float, bad: int, is_fused: bool) -> None:
    """The last batch is the short one; of 1e30 the square is infinite."""
    batches = make_batches(4)
    batches[3] = batches[3][:1]
    one, other = make_trainer(is_fused=is_fused), make_trainer(is_fused=is_fused)
    poison(one, [bad], "embedding.weight", value)
    work = train(one, batches)
    expected = train(other, [*batches[:bad], *batches[bad + 1 :]])
    assert (work.nonfinite, expected.nonfinite) == (1, 0)
    assert_same(work, expected)
    assert_same_state(one, other)
    assert_same(train(one, batches, round_=1), train(other, batches, round_=1))
    assert_same_state(one, other)


@pytest.mark.parametrize("name", NAMES)
def test_no_parameter_escapes(name: str) -> None:
    one, other, batches = make_trainer(), make_trainer(), make_batches(2)
    poison(one, [0], name)
    assert_same(train(one, batches), train(other, batches[1:]))
    assert_same_state(one, other)


def test_a_step_taken_in_parts_is_left_out_as_a_whole() -> None:
    one, other, batches = make_trainer(), make_trainer(), make_batches(3)
    one.micro_batch = other.micro_batch = 1
    poison(one, [3], "embedding.weight")
    work = train(one, batches)
    assert work.nonfinite == 1
    assert_same(work, train(other, [batches[0], batches[2]]))
    assert_same_state(one, other)


@pytest.mark.parametrize("value", [NAN, INF])
def test_a_step_with_such_a_loss_has_never_been(
    value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gradient alone looks sound: nobody can know whether it is."""
    one, other, batches = make_trainer(), make_trainer(), make_batches(3)
    expected = train(other, [batches[0], batches[2]])
    real, calls = Decoder.loss, []

    def loss(decoder: Decoder, batch: Tensor) -> Tensor:
        calls.append(batch)
        return real(decoder, batch) + (value if len(calls) == 2 else 0)

    monkeypatch.setattr(Decoder, "loss", loss)
    work = train(one, batches)
    assert work.nonfinite == 1
    assert_same(work, expected)
    assert_same_state(one, other)


def test_a_round_of_such_steps_moves_nothing_at_all() -> None:
    one, batches = make_trainer(), make_batches(3)
    train(one, batches)
    before = get_moments(one)
    poison(one, range(3), "embedding.weight")
    work = train(one, batches, round_=1)
    assert (work.samples, work.tokens, work.steps, work.nonfinite) == (0, 0, 0, 3)
    assert (work.loss, work.gradient_norm) == (0.0, 0.0)
    assert not any(moved.any() for moved in work.delta.values())
    assert all(map(torch.equal, get_moments(one), before))


@pytest.mark.parametrize("bad", range(3))
def test_accumulated_with_others_it_leaves_nothing_of_the_round(bad: int) -> None:
    learning = replace(LEARNING, local="accumulate")
    one, other, batches = make_trainer(learning), make_trainer(learning), make_batches(3)
    poison(one, [bad], "embedding.weight")
    work = train(one, batches)
    assert (work.samples, work.tokens, work.steps, work.nonfinite) == (0, 0, 0, 1)
    assert not any(moved.any() for moved in work.delta.values())
    assert_same(train(one, batches, round_=1), train(other, batches, round_=1))


def test_the_largest_gradient_that_is_taken_leaves_finite_moments() -> None:
    """Else one of them would make every later step one that is not finite."""
    one = make_trainer(replace(LEARNING, clip_ppm=10**30))  # nothing is ever clipped
    poison(one, range(100), "embedding.weight", 1.8e19)  # squared, just below what fp32 holds
    work = train(one, make_batches(100))
    assert (work.nonfinite, work.steps) == (0, 100)
    largest = max(moment.abs().max().item() for moment in get_moments(one))
    assert 3e38 < largest < INF
    assert all(torch.isfinite(moved).all() for moved in work.delta.values())
