"""The adapter between a simulated node and the trainer's own learner."""

import asyncio

import torch

from demo_node.bench.learner import CountingClock, InProcessLearner
from demo_node.ports import ApplyOrder, TrainOrder
from demo_node.sim.whole.virtual_loop import EPOCH_MS, VirtualClock, run_virtual
from demo_protocol.manifest import Learning
from tests.builders import manifest
from tests.trainer.builders import GENESIS, corpus_bytes, record

MICRO_BATCHES = 3


def make_learner() -> InProcessLearner:
    run = manifest(learning=Learning(k=2, micro_batch=2))
    text = torch.frombuffer(bytearray(corpus_bytes(run)), dtype=torch.uint8)
    return InProcessLearner(run, text, VirtualClock(), MICRO_BATCHES)


def train_order(round_: int) -> TrainOrder:
    deadline_ms = EPOCH_MS + 1_000 * (round_ + 1)
    return TrainOrder(
        round=round_, base=GENESIS, deadline_ms=deadline_ms, sample_first=0, sample_count=100, k=2
    )


def test_the_clock_is_early_for_every_look_of_a_round_and_late_for_the_next() -> None:
    clock = CountingClock(2)
    for _ in range(2):
        clock.begin_round()
        assert [clock.now_ms() < EPOCH_MS for _ in range(4)] == [True, True, False, False]


def test_every_round_has_the_same_work_whatever_a_step_takes() -> None:
    async def scenario() -> None:
        learner = make_learner()
        await learner.load(GENESIS, None)
        for round_ in range(3):
            trained = await learner.train(train_order(round_))
            assert (trained.steps, trained.samples) == (MICRO_BATCHES, 2 * MICRO_BATCHES)
        assert len(learner.trained) == 3

    run_virtual(scenario())


def test_training_ends_with_the_train_phase() -> None:
    async def scenario() -> None:
        learner = make_learner()
        await learner.load(GENESIS, None)
        await learner.train(train_order(4))
        assert asyncio.get_running_loop().time() == 5

    run_virtual(scenario())


def test_everything_else_is_the_trainers_own() -> None:
    async def scenario() -> None:
        learner = make_learner()
        before = await learner.load(GENESIS, None)
        trained = await learner.train(train_order(0))
        order = ApplyOrder(record=record(1), parent=GENESIS, round=0, payloads=(trained.payload,))
        after = await learner.apply(order)
        assert after != before
        assert await learner.evaluate(GENESIS) != await learner.evaluate(record(1))
        snapshot = b"".join([piece async for piece in learner.snapshot(record(1))])
        assert await learner.load(record(2), snapshot) == after
        assert await learner.generate(record(2), 8) == await learner.generate(record(1), 8)
        await learner.release(0)
        await learner.restore(0)
        await learner.forget([record(1)])

    run_virtual(scenario())
