"""Rules T1 and T2: one round's local work."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from demo_node.learn.faults import OutOfMemory, is_out_of_memory
from demo_node.learn.local import LocalTrainer, LocalWork
from demo_node.learn.model import Decoder, load_state
from demo_protocol.fp32 import compute_step
from demo_protocol.manifest import Learning, Model
from demo_protocol.schema import compute_schema
from tests.learn.builders import CPU, make_state

MODEL = Model(layers=1, width=64, hidden=64, heads=2, context=16)
SCHEMA = compute_schema(MODEL)
LEARNING = Learning(micro_batch=2, lr_decay_rounds=10)


class Clock:
    """Each reading is `tick_ns` later than the one before."""

    def __init__(self, tick_ns: int = 5) -> None:
        self.now_ns = 0
        self.tick_ns = tick_ns

    def __call__(self) -> int:
        self.now_ns += self.tick_ns
        return self.now_ns


def make_batches(count: int, seed: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 256, (2, 17), generator=generator) for _ in range(count)]


def make_trainer(learning: Learning = LEARNING) -> LocalTrainer:
    return LocalTrainer(MODEL, learning, CPU, Clock())


def train(trainer: LocalTrainer, batches: list[Tensor], round_: int = 0) -> LocalWork:
    return trainer.train(make_state(SCHEMA), round_, iter(batches), lambda _: True)


def gradient(batch: Tensor) -> dict[str, Tensor]:
    decoder = Decoder(MODEL)
    load_state(decoder, make_state(SCHEMA))
    decoder.loss(batch).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return {n: p.grad for n, p in decoder.named_parameters() if p.grad is not None}


def norm(tensors: Mapping[str, Tensor]) -> float:
    return float(torch.cat([t.flatten() for t in tensors.values()]).norm())


def test_t1_delta_is_start_minus_end_of_adamw_steps_clipped_to_norm_1() -> None:
    batches = make_batches(3)
    work = train(make_trainer(), batches)
    decoder = Decoder(MODEL)
    start = make_state(SCHEMA)
    load_state(decoder, start)
    matrices = [p for p in decoder.parameters() if p.ndim >= 2]
    vectors = [p for p in decoder.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=3e-3, betas=(0.9, 0.95), foreach=False)
    for batch in batches:
        optimizer.zero_grad()
        decoder.loss(batch).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
    for name, p in decoder.named_parameters():
        expected = start[name] - p.detach()
        assert torch.allclose(work.delta[name], expected, atol=3e-5), name


def test_t1_every_round_starts_from_the_replicated_parameters_with_the_nodes_own_state() -> None:
    trainer, batches = make_trainer(), make_batches(1, seed=2)
    train(trainer, make_batches(1))
    second, fresh = train(trainer, batches), train(make_trainer(), batches)
    assert second.loss == fresh.loss, "the start is the same"
    assert norm({n: second.delta[n] - fresh.delta[n] for n in fresh.delta}) > 1e-3


def test_the_state_given_is_left_as_it_was() -> None:
    state = make_state(SCHEMA)
    make_trainer().train(state, 0, iter(make_batches(2)), lambda _: True)
    assert all(torch.equal(state[name], t) for name, t in make_state(SCHEMA).items())


def test_t1_accumulate_gives_lr_times_the_clipped_mean_gradient() -> None:
    learning = replace(LEARNING, local="accumulate", clip_ppm=10_000)
    batches = [*make_batches(2), make_batches(1, seed=2)[0][:1]]
    work = train(make_trainer(learning), batches, round_=3)
    mean = gradient(torch.cat(batches))
    lr = compute_step(learning, 3).lr
    assert norm(mean) > 0.01, "the clip would not act"
    for name, expected in mean.items():
        wanted = lr * expected * 0.01 / norm(mean)
        assert torch.allclose(work.delta[name], wanted, atol=1e-8), name
    again = train(make_trainer(learning), batches, round_=3)
    assert all(torch.equal(work.delta[n], again.delta[n]) for n in work.delta)


@pytest.mark.parametrize("local", ["steps", "accumulate"])
def test_the_norm_of_gradients_is_taken_before_they_are_clipped(local: str) -> None:
    trainer = make_trainer(replace(LEARNING, local=local))
    (batch,) = make_batches(1)
    expected = norm(gradient(batch))
    assert expected > 1, "else nothing is clipped"
    for _ in range(2):  # nothing of a round stays in the next
        assert train(trainer, [batch]).gradient_norm == pytest.approx(expected, rel=1e-4)
    assert train(trainer, []).gradient_norm == 0


def test_t1_accumulate_averages_over_all_samples() -> None:
    unclipped = replace(LEARNING, local="accumulate", clip_ppm=10**9)
    batches = [*make_batches(2), make_batches(1, seed=2)[0][:1]]
    work = train(make_trainer(unclipped), batches)
    lr = compute_step(unclipped, 0).lr
    for name, expected in gradient(torch.cat(batches)).items():
        assert torch.allclose(work.delta[name], lr * expected, atol=1e-7), name


def test_the_inner_lr_follows_the_schedule() -> None:
    fast, slow = (norm(train(make_trainer(), make_batches(1), r).delta) for r in (0, 10))
    assert slow == pytest.approx(0.1 * fast, rel=0.01)


@pytest.mark.parametrize("local", ["steps", "accumulate"])
def test_samples_tokens_and_mean_loss_are_counted(local: str) -> None:
    batches = [*make_batches(3), make_batches(1)[0][:1]]
    work = train(make_trainer(replace(LEARNING, local=local, inner_lr_ppb=1)), batches)
    assert (work.samples, work.tokens, work.steps) == (7, 7 * 16, 4)
    decoder = Decoder(MODEL)
    load_state(decoder, make_state(SCHEMA))
    assert work.loss == pytest.approx(decoder.loss(torch.cat(batches)).item(), abs=1e-4)
    assert work.busy_ns == 4 * 5


@pytest.mark.parametrize("local", ["steps", "accumulate"])
def test_a_round_without_time_moves_nothing(local: str) -> None:
    trainer = make_trainer(replace(LEARNING, local=local))
    work = trainer.train(make_state(SCHEMA), 0, iter(make_batches(3)), lambda _: False)
    assert (work.samples, work.steps, work.loss, work.busy_ns) == (0, 0, 0.0, 0)
    assert work.delta.keys() == SCHEMA.shapes.keys()
    assert norm(work.delta) == 0


def test_t2_the_slowest_of_the_last_four_steps_decides_whether_one_more_fits() -> None:
    clock = Clock()
    trainer = LocalTrainer(MODEL, LEARNING, CPU, clock)
    ticks, seen = iter([5, 90, 7, 8, 9, 10, 11]), []

    def should_continue(expected_ns: int) -> bool:
        seen.append(expected_ns)
        clock.tick_ns = next(ticks)
        return len(seen) < 7

    trainer.train(make_state(SCHEMA), 0, iter(make_batches(20)), should_continue)
    assert seen == [0, 5, 90, 90, 90, 90, 10]


def test_who_runs_out_of_samples_idles() -> None:
    work = train(make_trainer(), make_batches(2))
    assert work.steps == 2


def assert_same_work(work: LocalWork, expected: LocalWork) -> None:
    assert work.loss == expected.loss
    assert all(torch.equal(work.delta[n], expected.delta[n]) for n in expected.delta)


class Memory:
    """Holds `samples` at once: larger batches fail as torch's CPU allocator does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, samples: int) -> None:
        self.samples = samples
        self.asked: list[int] = []
        real = Decoder.loss

        def loss(decoder: Decoder, batch: Tensor) -> Tensor:
            self.asked.append(len(batch))
            if len(batch) > self.samples:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to")
            return real(decoder, batch)

        monkeypatch.setattr(Decoder, "loss", loss)


AMPLE = 1 << 40
"""Bytes."""

EIGHT = replace(LEARNING, micro_batch=8, clip_ppm=10**9)


@pytest.mark.parametrize("local", ["steps", "accumulate"])
@pytest.mark.parametrize("samples", [1, 3, 4])
def test_what_does_not_fit_is_halved_and_adds_up_to_the_same_step(
    local: str, samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    learning = replace(EIGHT, local=local)
    batches = [torch.cat(make_batches(4, seed)) for seed in (1, 2)]
    batches[1] = batches[1][:7]
    whole = train(make_trainer(learning), batches)
    Memory(monkeypatch, samples)
    trainer = make_trainer(learning)
    work = train(trainer, batches)
    assert trainer.micro_batch in (samples, samples - 1)
    assert (work.samples, work.steps) == (whole.samples, whole.steps)
    assert work.loss == pytest.approx(whole.loss, abs=1e-5)
    for name, expected in whole.delta.items():
        # AdamW's first steps are of one length: where a gradient is almost 0 its sign decides.
        differs = (work.delta[name] - expected).abs() > 1e-5 + 1e-3 * expected.abs()
        assert differs.float().mean() < 0.01, name


def test_a_part_that_fails_half_way_leaves_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    learning = replace(EIGHT, local="accumulate")
    batches = [torch.cat(make_batches(4, seed)) for seed in (1, 2)]
    whole = train(make_trainer(learning), batches)
    real, calls = torch.autograd.grad, []

    def grad(loss: Tensor, parameters: list[Tensor]) -> tuple[Tensor, ...]:
        gradients = real(loss, parameters)
        calls.append(loss)
        if len(calls) == 2:
            raise torch.OutOfMemoryError
        return gradients

    monkeypatch.setattr(torch.autograd, "grad", grad)
    trainer = make_trainer(learning)
    work = train(trainer, batches)
    assert (trainer.micro_batch, len(calls)) == (4, 4)
    for name, expected in whole.delta.items():
        assert torch.allclose(work.delta[name], expected, atol=1e-8), name


def test_a_step_given_up_half_way_is_not_in_the_next_round(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batches = [torch.cat(make_batches(4))]
    expected = train(make_trainer(EIGHT), batches)
    trainer = make_trainer(EIGHT)
    trainer.micro_batch = 1
    real, calls = Decoder.loss, []

    def loss(decoder: Decoder, batch: Tensor) -> Tensor:
        calls.append(batch)
        if len(calls) == 2:
            raise torch.OutOfMemoryError
        return real(decoder, batch)

    monkeypatch.setattr(Decoder, "loss", loss)
    with pytest.raises(OutOfMemory):
        train(trainer, batches)
    trainer.micro_batch = 8
    assert_same_work(train(trainer, batches), expected)


def test_other_errors_are_not_taken_for_a_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def loss(_decoder: Decoder, _batch: Tensor) -> Tensor:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(Decoder, "loss", loss)
    with pytest.raises(RuntimeError, match="shapes"):
        train(make_trainer(), make_batches(1))


def test_a_rehearsal_finds_what_fits_and_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = train(make_trainer(EIGHT), make_batches(2))
    rehearsed = make_trainer(EIGHT)
    rehearsed.rehearse(AMPLE)
    assert rehearsed.micro_batch == 8
    assert_same_work(train(rehearsed, make_batches(2)), expected)
    memory = Memory(monkeypatch, 2)
    small = make_trainer(EIGHT)
    small.rehearse(AMPLE)
    assert (small.micro_batch, memory.asked) == (2, [1, 8, 4, 2, 2, 2, 2])


@pytest.mark.parametrize("local", ["steps", "accumulate"])
def test_who_cannot_take_one_sample_says_so(local: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Memory(monkeypatch, 0)
    trainer = make_trainer(replace(EIGHT, local=local))
    with pytest.raises(RuntimeError) as caught:
        trainer.rehearse(AMPLE)
    assert is_out_of_memory(caught.value)
    with pytest.raises(OutOfMemory):
        train(trainer, make_batches(1))


def test_what_cannot_fit_is_not_even_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    one, memory = make_trainer(EIGHT), Memory(monkeypatch, 8)
    sample_bytes = one._measure_sample()
    # At least its 16 positions' probabilities of 256 bytes and both layers' 64 wide inputs.
    assert 4 * 16 * (256 + 2 * 64) < sample_bytes < 1 << 20
    memory.asked.clear()
    one.rehearse(5 * sample_bytes)
    assert (one.micro_batch, memory.asked) == (4, [1, 4, 4])
    with pytest.raises(OutOfMemory):
        make_trainer(EIGHT).rehearse(sample_bytes - 1)


def test_a_sample_takes_twice_as_much_where_there_are_twice_the_layers() -> None:
    shallow, deep = (
        LocalTrainer(replace(MODEL, layers=layers), EIGHT, CPU, Clock()) for layers in (4, 8)
    )
    ratio = deep._measure_sample() / shallow._measure_sample()
    assert 1.7 < ratio < 2
