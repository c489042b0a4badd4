"""Trainers that die or hang, and what becomes of them when their node does."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest
import uvloop

from demo_node.ports import LearnerLost
from demo_node.trainer.leash import PARENT
from demo_node.trainer.settings import (
    DoesNotFit,
    TrainerInfo,
)
from demo_node.trainer.supervisor import Supervisor, Trainer
from demo_protocol.manifest import encode_manifest
from tests.builders import manifest
from tests.trainer import builders, processes
from tests.trainer.builders import ENDLESS, GENESIS, apply_order, record, train_order, write_corpus
from tests.trainer.node import Node, with_node
from tests.waiting import wait_until, wait_until_sync

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

NODE = Path(__file__).with_name("lone_node.py")

DEATH_S = 5
"""Milliseconds where cores are free. A trainer is nice: beside other work it even dies slowly."""


def test_a_killed_trainer_is_noticed_and_replaced(tmp_path: Path) -> None:
    async def test(node: Node) -> None:
        killed = node.supervisor.pid
        work = asyncio.create_task(node.client.train(train_order(sample_count=ENDLESS)))
        await node.client.evaluate(GENESIS)
        os.kill(killed, signal.SIGKILL)
        with pytest.raises(LearnerLost):
            await asyncio.wait_for(work, DEATH_S)
        await wait_until(lambda: node.count("trainer.died") == 1, DEATH_S)
        digest = await node.client.load(GENESIS, None)
        assert digest == builders.learner().load(GENESIS, None)
        assert node.supervisor.pid not in (0, killed)
        assert node.count("trainer.ready") == 2

    with_node(tmp_path, test)


def test_a_killed_trainer_is_noticed_within_a_second(tmp_path: Path) -> None:
    """Measured from inside: how long the kernel takes to end a nice process is not ours."""

    async def test(node: Node) -> None:
        loop = asyncio.get_running_loop()
        sentinel = os.pidfd_open(node.supervisor.pid)
        gone = asyncio.Event()
        loop.add_reader(sentinel, gone.set)
        os.kill(node.supervisor.pid, signal.SIGKILL)
        await asyncio.wait_for(gone.wait(), DEATH_S)
        gone_s = loop.time()
        loop.remove_reader(sentinel)
        os.close(sentinel)
        await wait_until(lambda: node.count("trainer.died") == 1, 1)
        noticed_s = loop.time() - gone_s
        await wait_until(lambda: node.count("trainer.ready") == 2)
        assert noticed_s < 1

    with_node(tmp_path, test)


def test_a_trainer_that_dies_over_a_load_is_replaced_by_one_that_does_it(tmp_path: Path) -> None:
    async def test(node: Node) -> None:
        first = node.supervisor.pid
        os.kill(first, signal.SIGSTOP)
        load = asyncio.create_task(node.client.load(record(1), None))
        await asyncio.sleep(0)  # it has asked
        os.kill(first, signal.SIGKILL)
        digest = await asyncio.wait_for(load, 30)
        assert digest == builders.learner().load(GENESIS, None)
        assert await node.client.evaluate(record(1)) > 0
        assert node.count("trainer.ready") == 2

    with_node(tmp_path, test)


def test_a_trainer_that_was_replaced_unnoticed_holds_no_states(tmp_path: Path) -> None:
    async def test(node: Node) -> None:
        os.kill(node.supervisor.pid, signal.SIGKILL)
        await wait_until(lambda: node.count("trainer.ready") == 2)
        for lost in (
            node.client.train(train_order()),
            node.client.apply(apply_order()),
            node.client.forget([GENESIS]),
        ):
            with pytest.raises(LearnerLost):
                await lost

    with_node(tmp_path, test)


@asynccontextmanager
async def stopped(pid: int) -> AsyncIterator[None]:
    """It does not run meanwhile, and does again afterwards, if it is still there."""
    os.kill(pid, signal.SIGSTOP)
    await wait_until(lambda: processes.read_state(pid) == "T")
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def test_a_trainer_that_hangs_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("demo_node.trainer.client.ANSWER_S", 0.2)

    async def test(node: Node) -> None:
        async with stopped(node.supervisor.pid):
            with pytest.raises(LearnerLost):
                await node.client.release(0)
            await wait_until(lambda: node.count("trainer.died") == 1)
        (died,) = [fields for name, fields in node.events if name == "trainer.died"]
        assert died["reason"] == "it did not answer for 0 s (release) and was ended"
        await node.client.load(GENESIS, None)

    with_node(tmp_path, test)


def test_a_trainer_that_dies_by_itself_leaves_no_reason(tmp_path: Path) -> None:
    async def test(node: Node) -> None:
        work = asyncio.create_task(node.client.train(train_order(sample_count=ENDLESS)))
        await node.client.evaluate(GENESIS)
        os.kill(node.supervisor.pid, signal.SIGKILL)
        with pytest.raises(LearnerLost):
            await work
        await wait_until(lambda: node.count("trainer.died") == 1, DEATH_S)
        (died,) = [fields for name, fields in node.events if name == "trainer.died"]
        assert (died["exit_code"], died["reason"]) == (-9, "")

    with_node(tmp_path, test)


@pytest.mark.parametrize("call", ["train", "apply", "restore", "load"])
def test_a_trainer_that_does_not_answer_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    calls: dict[str, Callable[[Node], Coroutine[None, None, object]]] = {
        "train": lambda node: node.client.train(train_order(seconds=0)),
        "apply": lambda node: node.client.apply(apply_order()),
        "restore": lambda node: node.client.restore(0),
        "load": lambda node: node.client.load(record(5), None),
    }

    slow: list[str] = []
    note_silence = Trainer.note_silence

    def note(trainer: Trainer, call: str, waited_s: float) -> None:
        slow.append(call)
        note_silence(trainer, call, waited_s)

    monkeypatch.setattr(Trainer, "note_silence", note)
    monkeypatch.setattr("demo_node.trainer.client.SLOW_S", 0.2)

    async def silence(node: Node) -> None:
        slow.clear()
        async with stopped(node.supervisor.pid):
            waiting = [asyncio.create_task(calls[call](node))]
            await wait_until(lambda: len(slow) == 1)
            waiting.append(asyncio.create_task(node.client.release(0)))
            await wait_until(lambda: len(slow) == 2)
        await asyncio.gather(*waiting)

    async def test(node: Node) -> None:
        node.events.clear()
        await silence(node)
        await silence(node)
        told = [fields for name, fields in node.events if name == "trainer.unresponsive"]
        assert [fields["call"] for fields in told] == [call, call]
        assert [fields["pid"] for fields in told] == [node.supervisor.pid] * 2
        assert all(int(str(fields["waited_ms"])) >= 200 for fields in told)
        assert node.count("trainer.died") == 0

    with_node(tmp_path, test)


def find_fork_server(node_pid: int) -> int:
    below = processes.descendants(node_pid)
    return next(pid for pid in below if "forkserver" in processes.arguments(pid))


def test_a_killed_fork_server_is_replaced_too(tmp_path: Path) -> None:
    async def test(node: Node) -> None:
        trainer = node.supervisor.pid
        os.kill(find_fork_server(os.getpid()), signal.SIGKILL)
        await wait_until(lambda: not processes.is_alive(trainer), DEATH_S)
        await wait_until(lambda: node.count("trainer.ready") == 2, 60)
        await node.client.load(GENESIS, None)

    with_node(tmp_path, test)


def test_a_node_that_leaves_at_its_start_leaves_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        task = asyncio.create_task(Node(tmp_path, manifest()).supervisor.run())
        await asyncio.sleep(0)  # it has asked the fork server for a child
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    uvloop.run(main())
    server = find_fork_server(os.getpid())
    wait_until_sync(lambda: not any(map(processes.is_alive, processes.descendants(server))))


def test_a_model_that_fitted_once_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever took the memory may give it back; at the first start nobody waits for that."""
    real = Supervisor._ask
    short = 0

    async def ask(supervisor: Supervisor, trainer: Trainer) -> TrainerInfo:
        nonlocal short
        if short:
            short -= 1
            raise DoesNotFit("this model needs about 2.0 GB")
        return await real(supervisor, trainer)

    monkeypatch.setattr(Supervisor, "_ask", ask)

    async def test(node: Node) -> None:
        nonlocal short
        short = 1
        os.kill(node.supervisor.pid, signal.SIGKILL)
        await wait_until(lambda: node.count("trainer.ready") == 2)
        reasons = [str(fields["reason"]) for name, fields in node.events if name == "trainer.died"]
        assert [reason.startswith("this model needs") for reason in reasons] == [False, True]

    with_node(tmp_path, test)
    short = 1
    with pytest.raises(DoesNotFit):
        uvloop.run(asyncio.wait_for(Node(tmp_path, manifest()).supervisor.run(), 30))


@contextmanager
def lone_node(argument: str) -> Iterator[subprocess.Popen[bytes]]:
    """A node process that has said that it is where it should be."""
    with subprocess.Popen([sys.executable, str(NODE), argument], stdout=subprocess.PIPE) as node:
        assert node.stdout is not None
        try:
            assert node.stdout.readline().strip()
            yield node
        finally:
            node.kill()


def test_a_killed_node_takes_everything_with_it(tmp_path: Path) -> None:
    write_corpus(tmp_path, manifest())
    (tmp_path / "manifest").write_bytes(encode_manifest(manifest()))
    with lone_node(str(tmp_path)) as node:
        below = processes.descendants(node.pid)
        assert len(below) == 3  # fork server, trainer, multiprocessing's resource tracker
        node.kill()
        wait_until_sync(lambda: not any(map(processes.is_alive, below)), DEATH_S)


def test_a_killed_node_takes_along_a_fork_server_that_imports() -> None:
    with lone_node("--early") as node:
        server = find_fork_server(node.pid)
        # It has not torch yet, and cannot look at anything else until it has.
        wait_until_sync(lambda: processes.has_mapped(server, "libtorch_cpu"))
        node.kill()
        wait_until_sync(lambda: not processes.is_alive(server), DEATH_S)


def test_who_is_born_to_a_dead_parent_ends_at_once() -> None:
    """The parent died before the kernel was told to pass that on."""
    code = "from demo_node.trainer.leash import tie_to_parent; tie_to_parent(); print('alive')"
    for parent, said in ((os.getpid(), "alive\n"), (1, "")):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, PARENT: str(parent)},
            stdout=subprocess.PIPE,
            text=True,
            timeout=60,
        )
        assert (done.returncode, done.stdout) == (0, said)
