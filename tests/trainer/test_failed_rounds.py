"""A round in which a number is not finite, or memory too short: told, and without a trace."""

from collections.abc import Callable

import pytest
import torch

from demo_node.learn.model import Decoder
from demo_node.trainer.divergence import OFTEN
from demo_node.trainer.learner import LocalLearner
from demo_protocol.limits import LOSS_MICRONATS_MAX
from demo_protocol.manifest import Learning
from demo_protocol.pb import wire_pb2
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


def heard_learner(learning: Learning | None = None) -> tuple[LocalLearner, Heard]:
    heard = Heard()
    one = learner(learning, on_event=heard)
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


def poison(loss: torch.Tensor) -> torch.Tensor:
    """The loss is fine, its gradient is not."""
    loss.register_hook(diverge)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return loss


def sound(loss: torch.Tensor) -> torch.Tensor:
    return loss


def lack_memory(_loss: torch.Tensor) -> torch.Tensor:
    raise torch.OutOfMemoryError("out of memory: tried to allocate 2 GiB")


def assert_same_round(one: LocalLearner, other: LocalLearner, round_: int) -> None:
    """Bit for bit, also what is left."""
    trained, expected = (each.train(train_order(round=round_)) for each in (one, other))
    assert trained.k == 2
    assert (trained.payload, trained.samples) == (expected.payload, expected.samples)
    assert torch.equal(one._encoder.residual, other._encoder.residual)
    assert torch.isfinite(one._encoder.residual).all()


@pytest.mark.parametrize("fail", [diverge, poison])
@pytest.mark.parametrize(("bad", "order"), [(0, {"sample_first": 4}), (2, {"sample_first": 0})])
def test_a_step_that_is_not_finite_has_never_been(
    bad: int, order: dict[str, int], fail: Callable[[torch.Tensor], torch.Tensor], fails: Fails
) -> None:
    """The first or the last of three steps; the other learner has only the other two."""
    (one, heard), other = heard_learner(), learner()
    fails.extend(fail if step == bad else sound for step in range(3))
    trained = one.train(train_order(round=5))
    expected = other.train(train_order(round=5, sample_count=8, **order))
    assert (trained.payload, trained.loss_micronats) == (expected.payload, expected.loss_micronats)
    assert (trained.samples, trained.tokens, trained.steps) == (8, 8 * 16, 2)
    assert (trained.norms, trained.nonfinite_gradients) == (expected.norms, 1)
    assert heard.events == [("step.skipped", {"round": 5, "in_a_row": 1, "skipped": 1})]
    assert_same_round(one, other, 6)


@pytest.mark.parametrize("fail", [diverge, poison])
@pytest.mark.parametrize("local", ["steps", "accumulate"])
def test_a_round_without_a_finite_gradient_is_a_heartbeat_that_has_never_been(
    local: str, fail: Callable[[torch.Tensor], torch.Tensor], fails: Fails
) -> None:
    """With "accumulate" a single one is enough."""
    learning = Learning(k=2, micro_batch=4, local=local)
    (one, heard), other = heard_learner(learning), learner(learning)
    for each in (one, other):
        each.train(train_order(round=4))
    fails.extend([fail] * 3 if local == "steps" else [sound, fail, sound])
    trained = one.train(train_order(round=5))
    assert (trained.k, trained.payload, trained.samples, trained.norms) == (0, b"", 0, None)
    assert trained.nonfinite_gradients == (3 if local == "steps" else 1)
    assert trained.nonfinite_deltas == 0
    assert heard.names() == ["training.diverged"]
    assert torch.equal(one._encoder.residual, other._encoder.residual)
    assert_same_round(one, other, 6)


@pytest.mark.parametrize("k", [2, 0])
@pytest.mark.parametrize("card", [True, False])
def test_a_delta_that_is_not_finite_never_reaches_the_residual(card: bool, k: int) -> None:
    """A card says so when its payload comes, or at the round's end."""
    (one, heard), other = heard_learner(), learner()
    if card:
        for each in (one, other):
            each._encoder._looks_at_once, each._encoder._codec = False, None
    matrices = one._trainer._optimizer.groups[0]
    decay = matrices.decay
    for each in (one, other):
        each.train(train_order(round=4))
    before = one._encoder.residual.clone()
    matrices.decay = 1e42  # gradients and moments are finite, their step is not
    trained = one.train(train_order(round=5, sample_count=4, k=k))
    assert (trained.k, trained.payload, trained.samples, trained.norms) == (0, b"", 0, None)
    assert (trained.nonfinite_gradients, trained.nonfinite_deltas) == (0, 1)
    assert heard.names() == ["training.diverged"]
    assert torch.equal(one._encoder.residual, before)
    # Its gradient was sound: it stays in the moments.
    other.train(train_order(round=5, sample_count=4))
    other._encoder.residual.copy_(before)
    matrices.decay = decay
    assert_same_round(one, other, 6)


def test_a_round_without_memory_is_a_heartbeat_and_keeps_what_the_optimizer_knew(
    fails: Fails,
) -> None:
    (one, heard), other = heard_learner(), learner()
    # The second batch, down to a single sample: the step before it is in the moments.
    fails.extend([sound, *[lack_memory] * 3])
    trained = one.train(train_order(round=5))
    assert (trained.k, trained.payload, trained.samples) == (0, b"", 0)
    assert "training.out_of_memory" in heard.names()
    assert not one._encoder.residual.any()
    other.train(train_order(round=5, sample_count=4))
    other._encoder.residual.zero_()
    one._trainer.micro_batch = 4
    assert_same_round(one, other, 6)


def test_who_diverges_again_and_again_is_told_clearly(fails: Fails) -> None:
    """Skipped steps and lost rounds alike; a sound round ends it, one without work does not."""
    one, heard = heard_learner()
    plans: list[Fails] = [[diverge] * 3, [sound, poison, sound], [poison] * 3]
    for round_, plan in enumerate(plans):
        fails.extend(plan)
        one.train(train_order(round=round_))
        one.train(train_order(round=round_, deadline_ms=0, sample_count=0))
    assert len(plans) == OFTEN
    assert heard.names() == [
        "training.diverged",
        "step.skipped",
        "training.diverged",
        "training.keeps_diverging",
    ]
    assert f"{OFTEN} rounds in a row" in str(heard.events[-1][1]["detail"])
    one.train(train_order(round=8))
    fails.append(diverge)
    one.train(train_order(round=9))
    assert heard.events[-1] == ("step.skipped", {"round": 9, "in_a_row": 1, "skipped": 1})


def test_a_loss_beyond_what_a_header_can_say_is_said_to_be_the_largest(fails: Fails) -> None:
    """It is finite, and its gradient is: the round counts."""
    one, heard = heard_learner()
    fails.extend([lambda loss: loss * 1e6] * 3)
    trained = one.train(train_order())
    assert (trained.k, trained.samples, heard.events) == (2, 12, [])
    assert trained.loss_micronats == LOSS_MICRONATS_MAX
    wire_pb2.Header(loss_micronats=trained.loss_micronats)
    with pytest.raises(ValueError, match="out of range"):
        wire_pb2.Header(loss_micronats=trained.loss_micronats + 1)


def test_short_memory_halves_the_micro_batch_and_the_round_still_counts(fails: Fails) -> None:
    one, heard = heard_learner()
    fails.extend([sound, lack_memory])
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
    fails.extend([sound, lack_memory])  # one sample is measured first
    fresh.rehearse(AMPLE)
    assert fresh.micro_batch == 2
