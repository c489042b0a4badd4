"""Text in and out of the model."""

import numpy as np
import pytest
import torch
from torch import Tensor

from demo_node.learn.data import evaluate, gather_batch, generate, iterate_batches
from demo_node.learn.digest import compute_digest
from demo_node.learn.model import Decoder, load_state
from demo_protocol.presets import PRESETS
from demo_protocol.schema import compute_schema
from tests.learn.builders import make_state

TINY = PRESETS["tiny"].model
TEXT = torch.arange(0, 3000).to(torch.uint8)


def make_decoder(seed: int = 1) -> Decoder:
    decoder = Decoder(TINY)
    load_state(decoder, make_state(compute_schema(TINY), seed))
    return decoder


def digest_of(decoder: Decoder) -> bytes:
    return compute_digest(dict(decoder.named_parameters()))


def test_sample_i_is_its_bytes_and_the_next() -> None:
    batch = gather_batch(TEXT, torch.tensor([0, 3]), 64)
    assert batch.dtype == torch.int64
    assert batch[1].tolist() == [(3 * 64 + i) % 256 for i in range(65)]
    assert batch[0, -1] == 64


def test_batches_keep_the_order_and_the_last_may_be_smaller() -> None:
    samples = np.array([5, 1, 4, 2, 3], dtype=np.int64)
    batches = list(iterate_batches(TEXT, samples, 64, 2))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    firsts = torch.cat(batches)[:, 0].tolist()
    assert firsts == [int(s) * 64 % 256 for s in samples]


def test_no_samples_are_no_batches() -> None:
    assert list(iterate_batches(TEXT, np.array([], dtype=np.int64), 64, 2)) == []


def test_held_out_loss_is_the_mean_over_the_first_16_kib() -> None:
    generator = torch.Generator().manual_seed(3)
    text = torch.randint(0, 256, (20_000,), generator=generator).to(torch.uint8)
    decoder = make_decoder()
    loss = evaluate(decoder, text)
    samples = gather_batch(text, torch.arange(255), 64)
    assert loss == pytest.approx(decoder.loss(samples).item(), abs=1e-5)
    changed = text.clone()
    changed[16 << 10 :] = 0
    assert evaluate(decoder, changed) == loss
    changed[100] += 1
    assert evaluate(decoder, changed) != loss


def test_less_held_out_text_than_16_kib_is_used_whole() -> None:
    decoder = make_decoder()
    expected = decoder.loss(gather_batch(TEXT, torch.arange(46), 64)).item()
    assert evaluate(decoder, TEXT) == pytest.approx(expected, abs=1e-5)


def test_equal_parameters_say_the_same_text() -> None:
    one, two = make_decoder(), make_decoder()
    text = generate(one, digest_of(one), 120)
    assert text == generate(two, digest_of(two), 120)
    assert len(text) == 120
    assert all(byte == 10 or 32 <= byte < 127 for byte in text)
    other = make_decoder(2)
    assert text != generate(other, digest_of(other), 120)


def test_text_follows_what_the_model_finds_likely(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = make_decoder()

    def after_a_comes_b(tokens: Tensor) -> Tensor:
        logits = torch.zeros(*tokens.shape, 256)
        logits[..., ord("b")] = 40.0 * (tokens == ord("a"))
        logits[..., ord("a")] = 40.0 * (tokens != ord("a"))
        return logits

    monkeypatch.setattr(decoder, "forward", after_a_comes_b)
    assert generate(decoder, b"", 8) == b"abababab"
