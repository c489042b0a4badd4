"""Held-out loss and sampled text: rounds go on without them, whatever comes of a look."""

import asyncio
import math
import os
import signal
import sys
from pathlib import Path

import pytest
import torch

from demo_node.learn.model import Decoder
from demo_protocol.errors import ConfigError
from tests.trainer import processes
from tests.trainer.builders import GENESIS, learner
from tests.trainer.node import Node, with_node
from tests.waiting import wait_until

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.mark.parametrize("short", ["trainer.learner.load_state", "learn.model.Decoder.loss"])
def test_a_held_out_loss_that_memory_is_too_short_for_is_no_harm(
    short: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = learner()

    def lack_memory(*_arguments: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("out of memory: tried to allocate 2 GiB")

    with monkeypatch.context() as cramped:
        cramped.setattr(f"demo_node.{short}", lack_memory)
        with pytest.raises(ConfigError, match="memory is too short"):
            one.evaluate(GENESIS)
    assert one.evaluate(GENESIS) > 0


def test_a_look_that_nobody_waits_for_stops_at_the_next_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = learner()
    real, batches = Decoder.loss, 0

    def counted(decoder: Decoder, batch: torch.Tensor) -> torch.Tensor:
        nonlocal batches
        batches += 1
        return real(decoder, batch)

    monkeypatch.setattr(Decoder, "loss", counted)
    assert math.isnan(one.evaluate(GENESIS, lambda: batches == 2))
    assert batches == 2
    assert one.evaluate(GENESIS) > 0
    assert batches > 4
    whole = one.generate(GENESIS, 9)
    stops = iter([False, False, False, True])
    assert one.generate(GENESIS, 9, lambda: next(stops)) == whole[:3]


@on_linux
def test_a_look_that_takes_too_long_leaves_the_trainer_and_its_states_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An evaluation may take any time where a large model is on a slow CPU."""

    async def test(node: Node) -> None:
        slow = node.supervisor.pid
        os.kill(slow, signal.SIGSTOP)
        await wait_until(lambda: processes.read_state(slow) == "T")
        with monkeypatch.context() as impatient:
            impatient.setattr("demo_node.trainer.client.STATE_S", 0.2)
            for look in (node.client.evaluate(GENESIS), node.client.generate(GENESIS, 9)):
                with pytest.raises(ConfigError, match="too slow or too busy"):
                    await look
        os.kill(slow, signal.SIGCONT)
        assert await node.client.evaluate(GENESIS) > 0
        assert node.supervisor.pid == slow
        assert node.count("trainer.died") == 0

    with_node(tmp_path, test)


@on_linux
def test_giving_up_on_a_look_stops_it(tmp_path: Path) -> None:
    """Else each would keep one of the trainer's few workers, until none is left for rounds."""

    async def test(node: Node) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(node.client.generate(GENESIS, 1 << 20), 0.1)
        # Looks are taken one at a time: this one could not begin beside the other.
        assert await asyncio.wait_for(node.client.evaluate(GENESIS), 60) > 0

    with_node(tmp_path, test)
