"""On a graphics card: the processor's bits, and nobody waits for it but for a payload."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from demo_node.learn.demo import Encoder
from demo_node.learn.digest import compute_digest, known_answer
from demo_node.learn.exact import apply_update
from demo_node.learn.faults import Diverged
from demo_node.learn.flat import Flat
from demo_protocol.fp32 import compute_step
from demo_protocol.payload import Payload
from demo_protocol.presets import PRESETS
from demo_protocol.schema import compute_schema
from tests.learn.builders import CPU, make_delta, make_payload, make_state

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

CARD = torch.device("cuda", 0)
TINY = PRESETS["tiny"]
LEARNING = TINY.learning
SCHEMA = compute_schema(TINY.model)


@contextmanager
def forbid_waiting() -> Iterator[None]:
    """Whoever waits for the card inside gets an error; an event's wait, asked for, is none."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def make_state_on(device: torch.device) -> Flat:
    return Flat.of(make_state(SCHEMA), SCHEMA).to(device)


def make_delta_on(device: torch.device, seed: int) -> Flat:
    return Flat.of(make_delta(SCHEMA, seed), SCHEMA).to(device)


def make_payloads(round_: int) -> list[Payload]:
    return [make_payload(SCHEMA, k, 10 * round_ + k) for k in (32, 8, 32, 1)]


def test_the_known_answer_holds_on_this_card() -> None:
    assert known_answer(CARD)


def test_three_records_have_the_digests_of_the_processor() -> None:
    digests = []
    for device in (CPU, CARD):
        state = make_state_on(device)
        digests.append([compute_digest(state)])
        for round_ in range(3):
            step = compute_step(LEARNING, round_)
            state = apply_update(state, make_payloads(round_), SCHEMA, step)
            assert state.row.device == device
            digests[-1].append(compute_digest(state))
    assert digests[0] == digests[1]
    assert len(set(digests[0])) == 4


def test_nothing_of_an_update_is_waited_for() -> None:
    state, step = make_state_on(CARD), compute_step(LEARNING, 0)
    apply_update(state, make_payloads(0), SCHEMA, step)  # constants are on the card from now on
    with forbid_waiting():
        after = apply_update(state, make_payloads(1), SCHEMA, step)
    expected = apply_update(make_state_on(CPU), make_payloads(1), SCHEMA, step)
    assert torch.equal(after.row.cpu().view(torch.int32), expected.row.view(torch.int32))


def test_of_encoding_a_payload_alone_is_waited_for() -> None:
    encoder = Encoder(SCHEMA, LEARNING, CARD)
    encoder.accumulate(make_delta_on(CARD, 1))
    encoder.encode(LEARNING.k, 0)  # constants are on the card from now on
    delta = make_delta_on(CARD, 2)
    with forbid_waiting():
        encoder.accumulate(delta)
        chosen = encoder._choose(LEARNING.k)
        payload = encoder.encode(LEARNING.k, 1)
        encoder.confirm()
    assert torch.equal(chosen[0].cpu(), torch.from_numpy(payload.positions.astype(np.int64)))


def test_a_delta_that_is_not_finite_is_told_with_the_payload() -> None:
    encoder = Encoder(SCHEMA, LEARNING, CARD)
    encoder.accumulate(make_delta_on(CARD, 1))
    encoder.encode(LEARNING.k, 0)
    before = encoder.residual.clone()
    delta = make_delta_on(CARD, 2)
    delta["norm.weight"][3] = float("nan")
    for ask in (lambda: encoder.encode(LEARNING.k, 1), encoder.confirm):
        encoder.accumulate(delta)
        with pytest.raises(Diverged, match="finite"):
            ask()
        assert torch.equal(encoder.residual, before)


def test_of_one_residual_both_send_the_same_but_for_the_scales_last_code() -> None:
    """The mean of a chunk's magnitudes is summed in another order: between two codes it may tip."""
    card, processor = (Encoder(SCHEMA, LEARNING, device) for device in (CARD, CPU))
    processor.accumulate(make_delta_on(CPU, 1))
    card.residual.copy_(processor.residual)
    mine, theirs = card.encode(LEARNING.k, 0), processor.encode(LEARNING.k, 0)
    assert np.array_equal(mine.positions, theirs.positions)
    assert np.array_equal(mine.negative, theirs.negative)
    gaps = np.abs(mine.scales.astype(int) - theirs.scales.astype(int))
    assert gaps.max() <= 1
    assert gaps.mean() < 0.01
    same = torch.from_numpy(gaps == 0)
    assert torch.equal(card.residual.cpu()[same], processor.residual[same])


def test_the_residual_is_the_processors_but_for_rounding() -> None:
    card, processor = (Encoder(SCHEMA, LEARNING, device) for device in (CARD, CPU))
    for seed in (1, 2, 3):
        card.accumulate(make_delta_on(CARD, seed))
        processor.accumulate(make_delta_on(CPU, seed))
        card.confirm()
    assert torch.allclose(card.residual.cpu(), processor.residual, atol=1e-6)
