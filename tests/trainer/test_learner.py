"""One node's learning, in process."""

import threading
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from demo_node.trainer.learner import LocalLearner
from demo_protocol.manifest import Learning
from demo_protocol.payload import decode_payload
from demo_protocol.scale import SCALE_VALUES
from tests.builders import manifest
from tests.trainer.builders import (
    CPU,
    ENDLESS,
    GENESIS,
    apply_order,
    corpus_bytes,
    learner,
    record,
    train_order,
)


def test_replicas_that_apply_the_same_payloads_are_equal() -> None:
    one, other = learner(), learner()
    sent = [one.train(train_order()), other.train(train_order(sample_first=100))]
    first = one.apply(apply_order(*sent))
    assert first == other.apply(apply_order(*reversed(sent)))
    assert first != one.apply(apply_order(sent[0], number=2))
    assert first != one.load(GENESIS, None)


def test_one_flipped_bit_of_a_payload_changes_the_digest() -> None:
    one = learner()
    sent = one.train(train_order())
    flipped = bytearray(sent.payload)
    flipped[3] ^= 2  # after version, k and one bit of a scale's code: the first sign
    digest = one.apply(apply_order(sent))
    other = one.apply(apply_order(replace(sent, payload=bytes(flipped)), number=2))
    assert digest != other


def test_apply_while_train_runs_gives_what_it_gives_alone() -> None:
    alone, busy = learner(), learner()
    sent = alone.train(train_order())
    expected = alone.apply(apply_order(sent))
    applied: list[bytes] = []
    stop = threading.Event()
    order = train_order(sample_count=ENDLESS)
    trained: list[int] = []
    training = threading.Thread(
        target=lambda: trained.append(busy.train(order, should_stop=stop.is_set).k)
    )
    training.start()
    for number in range(1, 6):
        applied.append(busy.apply(apply_order(sent, number=number)))
    still_training = training.is_alive()
    stop.set()
    training.join()
    assert still_training
    assert set(applied) == {expected}


def test_apply_of_a_held_record_computes_nothing() -> None:
    one = learner()
    digest = one.apply(apply_order(one.train(train_order())))
    assert one.apply(apply_order(parent=record(77))) == digest


def sent_coefficients(one: LocalLearner, payload: bytes) -> torch.Tensor:
    """What a payload says, as a residual's shape."""
    sent = decode_payload(payload, one.schema, 4096)
    values = torch.from_numpy(SCALE_VALUES[sent.scales]).float()[:, None] * one._encoder.unit
    signs = 1 - 2 * torch.from_numpy(sent.negative).float()
    slots = torch.from_numpy(sent.positions.astype("int64"))
    return torch.zeros_like(one._encoder.residual).scatter_(1, slots, signs * values)


def test_restore_adds_back_exactly_what_was_sent() -> None:
    one = learner()
    trained = one.train(train_order(round=3))
    left = one._encoder.residual.clone()
    one.restore(3)
    assert torch.equal(one._encoder.residual, left + sent_coefficients(one, trained.payload))
    restored = one._encoder.residual.clone()
    one.restore(3)
    assert torch.equal(one._encoder.residual, restored)


def test_what_counted_is_not_added_back() -> None:
    one = learner()
    one.train(train_order(round=3))
    left = one._encoder.residual.clone()
    one.release(3)
    one.restore(3)
    assert torch.equal(one._encoder.residual, left)


@pytest.mark.parametrize(
    "train",
    [
        pytest.param(lambda one: one.train(train_order(sample_count=0)), id="no samples"),
        pytest.param(lambda one: one.train(train_order(seconds=-1)), id="deadline is past"),
        pytest.param(lambda one: one.train(train_order(), lambda: True), id="told to stop"),
    ],
)
def test_without_work_there_is_a_heartbeat(train: Callable[[LocalLearner], object]) -> None:
    one = learner()
    assert getattr(train(one), "k", None) == 0
    assert not one._encoder.residual.any()


def test_who_runs_out_of_samples_returns_early() -> None:
    trained = learner().train(train_order(sample_count=10))
    assert (trained.samples, trained.steps, trained.tokens) == (10, 3, 160)


def ticking_learner(tick_ms: int) -> LocalLearner:
    """Its clock is at 0 and moves by `tick_ms` each time it is read."""
    now_ms = -tick_ms

    def read() -> int:
        nonlocal now_ms
        now_ms += tick_ms
        return now_ms

    run = manifest()
    corpus = torch.frombuffer(bytearray(corpus_bytes(run)), dtype=torch.uint8)
    made = LocalLearner(run, corpus, CPU, now_ms=read)
    made.load(GENESIS, None)
    return made


def test_training_ends_when_no_further_step_fits() -> None:
    trained = ticking_learner(10_000).train(train_order(deadline_ms=45_000, sample_count=1000))
    assert trained.steps == 5  # begun at 0, 10, 20, 30 and 40 s


def test_after_a_stall_the_next_round_trains_again() -> None:
    one = ticking_learner(1_000)
    one._trainer._step_ns.append(3_600_000_000_000)
    assert one.train(train_order(deadline_ms=5_000, sample_count=1000)).steps == 1


def test_a_candidate_trains_on_its_own_draws() -> None:
    member, candidate = learner(), learner()
    other = candidate.train(train_order(probation_key=bytes(range(32))))
    assert other.samples == 12
    assert other.loss_micronats != member.train(train_order()).loss_micronats


def test_training_together_learns() -> None:
    nodes = [learner(Learning(k=64)) for _ in range(2)]
    before = nodes[0].evaluate(GENESIS)
    base = GENESIS
    for number in range(1, 9):
        sent = [
            node.train(
                train_order(round=number, base=base, sample_first=number * 128 + 64 * i, k=64)
            )
            for i, node in enumerate(nodes)
        ]
        digests = {node.apply(apply_order(*sent, number=number, parent=base)) for node in nodes}
        assert len(digests) == 1
        base = record(number)
        for node in nodes:
            node.release(number)
    assert nodes[0].evaluate(base) == nodes[1].evaluate(base) < before - 0.2
    assert nodes[0].generate(base, 20) == nodes[1].generate(base, 20) != b""


def test_accumulated_gradients_are_sent_too() -> None:
    one = learner(Learning(k=2, local="accumulate"))
    trained = one.train(train_order())
    assert (trained.k, trained.samples) == (2, 12)
    assert one.apply(apply_order(trained)) != one.load(GENESIS, None)


def test_payloads_of_different_k_are_added_up_and_the_rest_stays_in_the_residual() -> None:
    """A slow uplink's node sends less of what it learned, not something else."""
    run = manifest(learning=Learning(k=8))
    much, little = learner(run=run), learner(run=run)
    trained = [much.train(train_order(k=8)), little.train(train_order(k=1, sample_first=12))]
    assert [t.k for t in trained] == [8, 1]
    payloads = [decode_payload(t.payload, much.schema, 8) for t in trained]
    assert [payload.k for payload in payloads] == [8, 1]
    assert len(trained[1].payload) < len(trained[0].payload) / 3
    whole = learner(run=run)
    whole.train(train_order(k=0, sample_first=12))
    sent = sent_coefficients(little, trained[1].payload)
    assert torch.allclose(little._encoder.residual + sent, whole._encoder.residual, atol=1e-6)
    digests = {node.apply(apply_order(*trained)) for node in (much, little, whole)}
    assert len(digests) == 1
    assert digests.isdisjoint({learner(run=run).apply(apply_order(t)) for t in trained})


def test_without_a_turn_what_was_learned_waits_in_the_residual() -> None:
    """And goes out with the next turn, decayed like momentum."""
    silent, heard = learner(), learner()
    trained = silent.train(train_order(round=3, k=0))
    sent = heard.train(train_order(round=3))
    assert (trained.k, trained.payload, trained.samples) == (0, b"", sent.samples)
    whole = heard._encoder.residual + sent_coefficients(heard, sent.payload)
    assert torch.allclose(silent._encoder.residual, whole, atol=1e-6)
    before = silent._encoder.residual.clone()
    silent.restore(3)  # nothing was sent
    assert torch.equal(silent._encoder.residual, before)
