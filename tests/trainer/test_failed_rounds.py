"""A round that diverges, or that memory does not suffice for: it is told, and leaves no trace."""

from collections.abc import Callable

import pytest
import torch

from demo_node.learn.model import Decoder
from demo_node.trainer.learner import DIVERGED_OFTEN, LocalLearner
from tests.trainer.builders import learner, train_order

AMPLE = 1 << 40
"""Bytes."""

Fails = list[Callable[[torch.Tensor], torch.Tensor]]


class Heard:
    """What a learner had to say."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, object]]] = []

    def __call__(self, name: str, **fields: object) -> None:
        self.events.append((name, fields))

    def names(self) -> list[str]:
        return [name for name, _fields in self.events]


def heard_learner() -> tuple[LocalLearner, Heard]:
    heard = Heard()
    one = learner(on_event=heard)
    return one, heard


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch) -> Fails:
    """What happens to losses, one entry per batch; nothing where the list is empty."""
    planned: Fails = []
    real = Decoder.loss

    def loss(decoder: Decoder, batch: torch.Tensor) -> torch.Tensor:
        found = real(decoder, batch)
        return planned.pop(0)(found) if planned else found

    monkeypatch.setattr(Decoder, "loss", loss)
    return planned


def diverge(loss: torch.Tensor) -> torch.Tensor:
    return loss * float("nan")


def lack_memory(_loss: torch.Tensor) -> torch.Tensor:
    raise torch.OutOfMemoryError("out of memory: tried to allocate 2 GiB")


@pytest.mark.parametrize("fail", [diverge, lack_memory])
def test_a_round_that_comes_to_nothing_is_a_heartbeat_and_leaves_no_trace(
    fail: Callable[[torch.Tensor], torch.Tensor], fails: Fails
) -> None:
    (one, heard), fresh = heard_learner(), learner()
    # The second batch: the optimizer has moments by then. Memory lacks down to a single sample.
    fails.extend([lambda loss: loss, *[fail] * 3])
    trained = one.train(train_order(round=5))
    assert (trained.k, trained.payload, trained.samples) == (0, b"", 0)
    expected = "training.diverged" if fail is diverge else "training.out_of_memory"
    assert expected in heard.names()
    assert not one._encoder.residual.any()
    fails.clear()
    one._trainer.micro_batch = 4
    assert one.train(train_order(round=6)).payload == fresh.train(train_order(round=6)).payload


def test_a_diverged_delta_never_reaches_the_residual(fails: Fails) -> None:
    one, heard = heard_learner()
    # The step goes wrong, the loss before it was fine.
    fails.append(lambda loss: (loss - loss.detach()) * float("inf") + loss.detach())
    assert one.train(train_order(sample_count=4)).k == 0
    assert heard.names() == ["training.diverged"]
    assert torch.isfinite(one._encoder.residual).all()
    assert one.train(train_order(round=1)).k == 2
    assert torch.isfinite(one._encoder.residual).all()


def test_who_diverges_again_and_again_is_told_clearly(fails: Fails) -> None:
    one, heard = heard_learner()
    for round_ in range(DIVERGED_OFTEN):
        fails.extend([diverge] * 3)
        one.train(train_order(round=round_))
    assert heard.names() == ["training.diverged"] * DIVERGED_OFTEN + ["training.keeps_diverging"]
    assert f"{DIVERGED_OFTEN} rounds in a row" in str(heard.events[-1][1]["detail"])
    one.train(train_order(round=8))
    fails.append(diverge)
    one.train(train_order(round=9))
    assert heard.events[-1][1]["in_a_row"] == 1


def test_short_memory_halves_the_micro_batch_and_the_round_still_counts(fails: Fails) -> None:
    one, heard = heard_learner()
    fails.extend([lambda loss: loss, lack_memory])
    trained = one.train(train_order())
    assert (trained.k, trained.samples, trained.steps) == (2, 12, 3)
    (event,) = heard.events
    assert event[0] == "trainer.micro_batch_halved"
    assert (event[1]["before"], event[1]["samples"], one.micro_batch) == (4, 2, 2)


def test_a_rehearsal_finds_the_micro_batch_and_changes_nothing_else(fails: Fails) -> None:
    (one, heard), fresh = heard_learner(), learner()
    one.rehearse(AMPLE)
    assert (one.micro_batch, heard.events) == (4, [])
    assert one.train(train_order()).payload == fresh.train(train_order()).payload
    fails.extend([lambda loss: loss, lack_memory])  # one sample is measured first
    fresh.rehearse(AMPLE)
    assert fresh.micro_batch == 2
