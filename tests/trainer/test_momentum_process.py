"""Momentum between the two processes: a trainer that is killed is followed by one that goes on."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from demo_node.ports import AdoptOrder, Fate, LearnerLost, SentPayload, Trained
from demo_node.store.disk import FileDisk
from demo_node.store.momentum import MomentumFile
from tests.trainer.builders import ENDLESS, GENESIS, train_order
from tests.trainer.node import Node, with_node
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kills by process id")


def keep(folder: Path) -> MomentumFile:
    return MomentumFile(FileDisk(), folder / "momentum.safetensors")


async def replace_trainer(node: Node) -> None:
    """By one that holds state 0."""
    ready = node.count("trainer.ready")
    os.kill(node.supervisor.pid, signal.SIGKILL)
    await wait_until(lambda: node.count("trainer.ready") > ready, 30)
    await node.client.load(GENESIS, None)


async def adopt(node: Node, file: MomentumFile, *sent: tuple[Trained, Fate]) -> None:
    known = tuple(SentPayload(round=t.round, fate=f, payload=t.payload) for t, f in sent)
    await node.client.adopt(AdoptOrder(path=file.path, forgotten_until=-1, sent=known))


def test_a_killed_trainers_successor_sends_what_it_would_have_sent(tmp_path: Path) -> None:
    async def test(node: Node) -> None:
        file = keep(tmp_path)
        assert node.client.needs_momentum
        await node.client.adopt(None)
        assert not node.client.needs_momentum
        first = await node.client.train(train_order(round=0))
        await file.save(node.client.momentum())
        expected = await node.client.train(train_order(round=1))
        await replace_trainer(node)
        assert node.client.needs_momentum
        await adopt(node, file, (first, Fate.COUNTED))
        assert not node.client.needs_momentum
        found = await node.client.train(train_order(round=1))
        assert found.payload == expected.payload
        assert found.norms == expected.norms
        await replace_trainer(node)
        await node.client.adopt(None)
        anew = await node.client.train(train_order(round=1))
        assert anew.norms is not None
        assert found.norms is not None
        assert anew.norms.residual < found.norms.residual
        told = [fields for name, fields in node.events if name.startswith("momentum.")]
        assert told == [{"round": 0}]

    with_node(tmp_path, test)


def test_payloads_that_were_sent_since_reach_the_trainer(tmp_path: Path) -> None:
    async def test(node: Node) -> None:
        file = keep(tmp_path)
        await node.client.adopt(None)
        await file.save(node.client.momentum())
        since = [await node.client.train(train_order(round=round_)) for round_ in range(3)]
        await replace_trainer(node)
        await adopt(node, file, *((trained, Fate.OPEN) for trained in since))
        # Nothing was learned before the file was written, so there is nothing to take out ...
        again = b"".join([piece async for piece in node.client.momentum()])
        assert all(b'"sent.%d"' % round_ in again for round_ in range(3))
        # ... and what does not count comes back.
        await node.client.restore(2)
        restored = b"".join([piece async for piece in node.client.momentum()])
        assert b'"sent.2"' not in restored
        assert node.count("momentum.restored") == 1

    with_node(tmp_path, test)


def test_a_damaged_file_is_told_by_the_node(tmp_path: Path) -> None:
    async def test(node: Node) -> None:
        file = keep(tmp_path)
        file.path.write_bytes(b"torn")
        await adopt(node, file)
        (told,) = [fields for name, fields in node.events if name == "momentum.ignored"]
        assert told == {"reason": "it does not begin like a safetensors file"}
        assert (await node.client.train(train_order())).k

    with_node(tmp_path, test)


def test_a_trainer_that_dies_while_it_gives_leaves_the_older_file(tmp_path: Path) -> None:
    async def test(node: Node) -> None:
        file = keep(tmp_path)
        await file.save(node.client.momentum())
        older = file.path.read_bytes()
        await node.client.train(train_order())

        os.kill(node.supervisor.pid, signal.SIGSTOP)
        saving = asyncio.create_task(file.save(node.client.momentum()))
        await wait_until(lambda: len(list(tmp_path.glob(".*.tmp"))) == 1)
        os.kill(node.supervisor.pid, signal.SIGKILL)
        with pytest.raises(LearnerLost):
            await saving
        assert file.path.read_bytes() == older
        assert not [name for name in FileDisk().names(tmp_path) if name.endswith(".tmp")]

    with_node(tmp_path, test)


def test_it_is_given_while_a_round_is_trained(tmp_path: Path) -> None:
    async def test(node: Node) -> None:
        file = keep(tmp_path)
        work = asyncio.create_task(node.client.train(train_order(sample_count=ENDLESS)))
        await node.client.evaluate(GENESIS)
        await file.save(node.client.momentum())
        assert not work.done()
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)

    with_node(tmp_path, test)
