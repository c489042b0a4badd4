"""Parameters and gradients in one row: the same training, bit for bit, and no copy too many."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from demo_node.learn.flat import Flat
from demo_node.learn.local import LocalTrainer, LocalWork
from demo_node.learn.model import Decoder
from demo_protocol.fp32 import compute_inner_lr, compute_step
from demo_protocol.manifest import Learning
from demo_protocol.presets import PRESETS
from demo_protocol.schema import compute_schema
from tests.learn.builders import CPU, make_state
from tests.learn.recorder import Recorder

TINY = PRESETS["tiny"]
SCHEMA = compute_schema(TINY.model)
SAMPLES = 8
LEARNING = replace(TINY.learning, micro_batch=SAMPLES)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums depend on how many share them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_batches(round_: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(round_)
    size = (SAMPLES, TINY.model.context + 1)
    return [torch.randint(0, 256, size, generator=generator) for _ in range(2)]


class Plain:
    """What LocalTrainer does, with a tensor for every parameter and every gradient."""

    def __init__(self, learning: Learning, micro_batch: int) -> None:
        self.learning = learning
        self.micro_batch = micro_batch
        self.decoder = Decoder(TINY.model)
        own = {name: tensor.clone() for name, tensor in self.decoder.flat.items()}
        self.decoder.load_state_dict(own, assign=True)
        self.parameters = list(self.decoder.parameters())
        groups = [
            {"params": [p for p in self.parameters if p.ndim >= 2], "weight_decay": 0.1},
            {"params": [p for p in self.parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        betas = (learning.inner_beta1_ppm / 1e6, learning.inner_beta2_ppm / 1e6)
        assert learning.inner_weight_decay_ppm == 100_000
        self.optimizer = torch.optim.AdamW(groups, betas=betas, fused=True)

    def train(self, round_: int) -> dict[str, Tensor]:
        """The delta of a round."""
        start = make_state(SCHEMA)
        with torch.no_grad():
            for name, parameter in self.decoder.named_parameters():
                parameter.copy_(start[name])
        for group in self.optimizer.param_groups:
            group["lr"] = compute_inner_lr(self.learning, round_)
        batches = make_batches(round_)
        is_stepping = self.learning.local == "steps"
        for batch in batches:
            for part in torch.split(batch, self.micro_batch):
                loss = self.decoder.loss(part) * (len(part) / (len(batch) if is_stepping else 1))
                loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            if is_stepping:
                self.clip()
                self.optimizer.step()
                self.optimizer.zero_grad()
        named = dict(self.decoder.named_parameters())
        if is_stepping:
            return {name: start[name] - named[name].detach() for name in start}
        for parameter in self.parameters:
            assert parameter.grad is not None
            parameter.grad /= sum(map(len, batches))
        self.clip()
        lr = compute_step(self.learning, round_).lr
        delta = {n: p.grad * lr for n, p in named.items() if p.grad is not None}
        self.optimizer.zero_grad()
        return delta

    def clip(self) -> None:
        most = self.learning.clip_ppm / 1e6
        torch.nn.utils.clip_grad_norm_(self.parameters, most, foreach=True)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("micro_batch", [SAMPLES, 3])
@pytest.mark.parametrize("local", ["steps", "accumulate"])
def test_t1_training_in_a_row_has_the_bits_of_training_apart(local: str, micro_batch: int) -> None:
    learning = replace(LEARNING, local=local)
    trainer, plain = make_trainer(learning), Plain(learning, micro_batch)
    trainer.micro_batch = micro_batch
    for round_ in range(3):
        work, expected = train(trainer, round_), plain.train(round_)
        assert work.delta.keys() == expected.keys()
        assert work.delta.row.any()
        assert all(torch.equal(work.delta[name], expected[name]) for name in expected)
        assert not work.delta.row[work.delta.layout.padding].any()
        for mine, theirs in zip(trainer.decoder.parameters(), plain.parameters, strict=True):
            state = trainer._optimizer.state.get(mine, {})
            other = plain.optimizer.state[theirs]
            assert state.keys() == other.keys()
            assert bool(state) == (local == "steps")
            assert all(torch.equal(state[key], other[key]) for key in state)


def make_trainer(learning: Learning) -> LocalTrainer:
    return LocalTrainer(TINY.model, learning, CPU, lambda: 0)


def train(trainer: LocalTrainer, round_: int = 0) -> LocalWork:
    start = Flat.of(make_state(SCHEMA), SCHEMA)
    return trainer.train(start, round_, iter(make_batches(round_)), lambda _: True)


@pytest.mark.parametrize("local", ["steps", "accumulate"])
def test_a_delta_is_its_receivers(local: str) -> None:
    """The next round neither changes it nor starts from it."""
    learning = replace(LEARNING, local=local, inner_beta1_ppm=0, inner_beta2_ppm=0)
    trainer = make_trainer(learning)
    work = train(trainer)
    kept = work.delta.row.clone()
    again = train(trainer)
    assert torch.equal(work.delta.row, kept)
    work.delta.row.fill_(float("nan"))
    assert torch.equal(again.delta.row, train(trainer).delta.row)
    assert torch.isfinite(again.delta.row).all()


@pytest.mark.parametrize("local", ["steps", "accumulate"])
def test_a_round_makes_one_row_its_delta(local: str) -> None:
    """Gradients that are added up become it; a loaded state is copied into what is there."""
    trainer = make_trainer(replace(LEARNING, local=local))
    start, batches = Flat.of(make_state(SCHEMA), SCHEMA), make_batches(0)
    with Recorder() as recorder:
        work = trainer.train(start, 0, iter(batches), lambda _: True)
    whole = work.delta.row.untyped_storage().nbytes()
    assert [size for size in recorder.sizes if size >= whole] == [whole]
