"""How an encoder works on a card, where nobody looks at a delta before a payload comes back.

On the processor, told to wait with its look, too.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from demo_node.learn import demo
from demo_node.learn.demo import Encoder
from demo_node.learn.faults import Diverged
from demo_protocol.manifest import Learning
from demo_protocol.payload import encode_payload
from tests.learn.builders import CPU, make_delta, make_schema

SCHEMA = make_schema()
LEARNING = Learning(k=16, beta_ppm=900_000, inner_lr_ppb=3_000_000)


@pytest.fixture(autouse=True)
def torch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "find_codec", lambda: None)


def make_encoder(*, card: bool = True, learning: Learning = LEARNING) -> Encoder:
    encoder = Encoder(SCHEMA, learning, CPU)
    encoder._looks_at_once = not card
    return encoder


def take_round(encoder: Encoder, seed: int, *, sends: bool = True) -> bytes:
    encoder.accumulate(make_delta(SCHEMA, seed))
    payload = encode_payload(encoder.encode(16, seed)) if sends else b""
    encoder.confirm()
    return payload


def spoil(encoder: Encoder, bad: float = float("nan")) -> None:
    delta = make_delta(SCHEMA, 99)
    delta["c.bias"][3] = bad
    encoder.accumulate(delta)


def test_a_card_does_what_a_processor_does() -> None:
    card, processor = make_encoder(), make_encoder(card=False)
    for seed in range(4):
        sends = seed != 2
        assert take_round(card, seed, sends=sends) == take_round(processor, seed, sends=sends)
        assert torch.equal(card.residual, processor.residual)
    card.restore(1)
    processor.restore(1)
    assert torch.equal(card.residual, processor.residual)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1e38])
@pytest.mark.parametrize("sends", [True, False])
def test_a_delta_that_is_not_finite_is_told_late_and_leaves_the_residual(
    bad: float, sends: bool
) -> None:
    card, other = make_encoder(), make_encoder()
    take_round(card, 1)
    take_round(other, 1)
    before = card.residual.clone()
    spoil(card, bad)
    ask = (lambda: card.encode(16, 2)) if sends else card.confirm
    with pytest.raises(Diverged, match="finite"):
        ask()
    assert torch.equal(card.residual, before)
    card.restore(2)  # nothing was sent
    card.confirm()  # and it is said once
    assert torch.equal(card.residual, before)
    assert take_round(card, 3) == take_round(other, 3)
    card.restore(1)
    other.restore(1)
    assert torch.equal(card.residual, other.residual), "as often decayed"


@pytest.mark.parametrize("asked", ["accumulate", "restore", "export"])
def test_after_an_encoding_that_failed_it_goes_on(
    asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A delta that was not sound is then said to nobody: not to the round after it, either."""
    card, other = make_encoder(), make_encoder()
    for encoder in (card, other):
        take_round(encoder, 1)
    spoil(card)
    with monkeypatch.context() as patched:
        patched.setattr(demo, "find_largest", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            card.encode(16, 2)
    for encoder in (card, other):
        if asked == "restore":
            encoder.restore(1)
        elif asked == "export":
            encoder.adopt(encoder.export())
    assert take_round(card, 3) == take_round(other, 3)
    assert card.export().decays == other.export().decays == 2
    for encoder in (card, other):
        encoder.restore(1)
    assert torch.equal(card.residual, other.residual)


def test_t3_what_does_not_arrive_has_not_left_the_residual(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    card = make_encoder(learning=replace(LEARNING, beta_ppm=1_000_000))
    card.accumulate(make_delta(SCHEMA, 1))
    before = card.residual.clone()

    def fail(_numbers: torch.Tensor) -> np.ndarray:
        raise torch.OutOfMemoryError

    with monkeypatch.context() as patched:
        patched.setattr(demo, "_fetch", fail)
        with pytest.raises(torch.OutOfMemoryError):
            card.encode(16, 1)
    assert torch.equal(card.residual, before)
    payload = card.encode(16, 1)
    assert not torch.equal(card.residual, before)
    assert payload.positions.shape == (SCHEMA.chunks, 16)
