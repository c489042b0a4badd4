"""The trainer child: its start, its deaths, and what crosses the socket."""

import asyncio
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import uvloop

from demo_node.ports import LearnerLost
from demo_node.trainer.client import TrainerClient
from demo_node.trainer.forkserver import check_device
from demo_node.trainer.leash import PARENT
from demo_node.trainer.settings import (
    DoesNotFit,
    TrainerInfo,
    TrainerSettings,
    UnknownState,
    compute_threads,
)
from demo_node.trainer.supervisor import Supervisor, Trainer
from demo_node.trainer.tensors import encode_tensors
from demo_protocol.errors import ConfigError, Reject
from demo_protocol.manifest import Learning, Manifest, Model, encode_manifest
from tests.builders import manifest
from tests.trainer import builders, processes
from tests.trainer.builders import ENDLESS, GENESIS, apply_order, record, train_order, write_corpus
from tests.waiting import wait_until, wait_until_sync

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

NODE = Path(__file__).with_name("lone_node.py")

DEATH_S = 5
"""Milliseconds where cores are free. A trainer is nice: beside other work it even dies slowly."""


class Node:
    """What the daemon will have of a trainer."""

    def __init__(self, folder: Path, run: Manifest) -> None:
        self.events: list[tuple[str, dict[str, object]]] = []
        settings = TrainerSettings(
            manifest=encode_manifest(run), corpus=write_corpus(folder, run), device="cpu", threads=1
        )
        self.ahead_ms = 0
        """How far the node's clock is ahead of this machine's."""
        self.supervisor = Supervisor(settings, self.on_event)
        self.client = TrainerClient(self.supervisor, self.now_ms)

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000 + self.ahead_ms

    def on_event(self, name: str, **fields: object) -> None:
        self.events.append((name, fields))

    def count(self, name: str) -> int:
        return sum(name == seen for seen, _ in self.events)


@asynccontextmanager
async def running(folder: Path, run: Manifest) -> AsyncIterator[Node]:
    """A node whose trainer has state 0."""
    node = Node(folder, run)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(node.supervisor.run())
        await node.client.load(GENESIS, None)
        yield node
        task.cancel()


def with_node(
    folder: Path, test: Callable[[Node], Coroutine[None, None, None]], run: Manifest | None = None
) -> None:
    async def main() -> None:
        async with running(folder, run or manifest()) as node:
            await test(node)

    uvloop.run(main())


def test_the_child_computes_what_the_learner_computes(tmp_path: Path) -> None:
    local = builders.learner()

    async def test(node: Node) -> None:
        sent = local.train(train_order())
        digest = local.apply(apply_order(sent))
        assert await node.client.apply(apply_order(sent)) == digest
        assert await node.client.evaluate(record(1)) == local.evaluate(record(1))
        assert await node.client.generate(record(1), 9) == local.generate(record(1), 9)
        snapshot = b"".join([piece async for piece in node.client.snapshot(record(1))])
        assert snapshot == b"".join(local.snapshot(record(1)))
        assert await node.client.load(record(8), snapshot) == digest
        await node.client.forget([record(1)])
        with pytest.raises(UnknownState):
            await node.client.evaluate(record(1))

    with_node(tmp_path, test)


def test_what_was_sent_is_restored_or_released(tmp_path: Path) -> None:
    async def test(node: Node) -> None:
        first = await node.client.train(train_order())
        assert (first.k, first.samples, first.steps) == (2, 12, 3)
        await node.client.restore(0)
        again = await node.client.train(train_order(round=1))
        await node.client.release(1)
        assert len(again.payload) == len(first.payload)
        heartbeat = await node.client.train(train_order(round=2, sample_count=0))
        assert (heartbeat.k, heartbeat.payload) == (0, b"")

    with_node(tmp_path, test)


def test_payloads_and_states_of_many_megabytes_cross(tmp_path: Path) -> None:
    large = replace(
        manifest(learning=Learning(k=4096)),
        model=Model(layers=2, width=512, hidden=512, heads=8, context=8),
    )

    async def test(node: Node) -> None:
        trained = await node.client.train(train_order(sample_count=4))
        assert len(trained.payload) > 5 << 20
        digest = await node.client.apply(apply_order(trained, trained, trained))
        pieces = [piece async for piece in node.client.snapshot(record(1))]
        assert max(map(len, pieces)) < 4 << 20
        assert await node.client.load(record(2), b"".join(pieces)) == digest

    with_node(tmp_path, test, large)


def test_a_bad_payload_is_its_senders_fault(tmp_path: Path) -> None:
    async def test(node: Node) -> None:
        with pytest.raises(Reject):
            await node.client.apply(replace(apply_order(), payloads=(b"\1\2",)))
        await node.client.apply(apply_order())

    with_node(tmp_path, test)


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


def test_giving_up_on_training_stops_it(tmp_path: Path) -> None:
    async def test(node: Node) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(node.client.train(train_order(sample_count=ENDLESS)), 0.1)
        # Training is done one at a time: this one could not begin beside the other.
        assert (await asyncio.wait_for(node.client.train(train_order()), 10)).samples == 12

    with_node(tmp_path, test)


def test_signals_meant_for_the_service_leave_the_trainer_to_its_node(tmp_path: Path) -> None:
    async def test(node: Node) -> None:
        for sent in (signal.SIGTERM, signal.SIGINT):
            os.kill(node.supervisor.pid, sent)
        assert (await node.client.train(train_order())).samples == 12
        assert node.count("trainer.died") == 0

    with_node(tmp_path, test)


def find_sockets(folder: str) -> list[Path]:
    return list(Path(folder).glob("trainer-*/trainer.sock"))


def test_the_socket_is_private_and_goes_with_the_trainer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Short: AF_UNIX takes some hundred bytes, pytest's folders alone come near.
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        pids: list[int] = []

        async def test(node: Node) -> None:
            (socket,) = find_sockets(folder)
            assert stat.S_IMODE(socket.stat().st_mode) == 0o600
            assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
            pids.append(node.supervisor.pid)

        with_node(tmp_path, test)
        assert not processes.is_alive(pids[0])
        assert not list(Path(folder).glob("trainer-*"))


def test_deadlines_are_by_the_nodes_clock(tmp_path: Path) -> None:
    async def test(node: Node) -> None:
        node.ahead_ms = 7_200_000  # it knows of a time zone that this machine does not
        late = await node.client.train(train_order(seconds=60))
        assert (late.k, late.samples) == (0, 0)
        ahead = train_order(seconds=60)
        ahead = replace(ahead, deadline_ms=ahead.deadline_ms + node.ahead_ms)
        assert (await node.client.train(ahead)).samples == 12
        begin_s = time.monotonic()
        soon = replace(ahead, deadline_ms=node.now_ms() + 300, sample_count=ENDLESS)
        assert (await node.client.train(soon)).samples > 0
        assert time.monotonic() - begin_s < 30

    with_node(tmp_path, test)


def test_the_trainer_gives_way_as_much_as_is_asked(tmp_path: Path) -> None:
    async def test(node: Node) -> None:
        own = os.getpriority(os.PRIO_PROCESS, 0)
        assert os.getpriority(os.PRIO_PROCESS, node.supervisor.pid) == min(own + 10, 19)
        node.supervisor._settings = replace(node.supervisor._settings, nice=3)
        os.kill(node.supervisor.pid, signal.SIGKILL)
        await wait_until(lambda: node.count("trainer.ready") == 2)
        assert os.getpriority(os.PRIO_PROCESS, node.supervisor.pid) == min(own + 3, 19)

    with_node(tmp_path, test)


def test_what_the_trainer_has_to_say_reaches_the_node(tmp_path: Path) -> None:
    sound = safetensors.torch.load(b"".join(builders.learner().snapshot(GENESIS)))
    huge = {name: tensor.abs().clamp_min(1e-3) * 1e30 for name, tensor in sound.items()}

    async def test(node: Node) -> None:
        assert node.supervisor.micro_batch == 4
        await node.client.load(record(1), encode_tensors(huge))
        trained = await node.client.train(train_order(base=record(1)))
        assert (trained.k, trained.samples) == (0, 0)
        (said,) = [fields for name, fields in node.events if name == "training.diverged"]
        assert (said["round"], said["in_a_row"]) == (0, 1)
        assert (await node.client.train(train_order())).samples == 12
        assert node.count("trainer.died") == 0

    with_node(tmp_path, test)


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


@pytest.mark.parametrize("name", ["cuda:99", "mps"])
def test_a_device_that_is_not_there_is_named_before_anything_is_joined(name: str) -> None:
    with pytest.raises(ConfigError, match=f"device '{name}' is not available here"):
        check_device(name)
    check_device("cpu")


def test_settings_that_cannot_work_are_the_operators_to_fix(tmp_path: Path) -> None:
    node = Node(tmp_path, manifest())
    (tmp_path / "corpus").write_bytes(b"too short")

    async def main() -> None:
        await asyncio.wait_for(node.supervisor.run(), 30)

    with pytest.raises(ConfigError, match="the manifest says"):
        uvloop.run(main())


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


def test_the_node_process_does_without_torch() -> None:
    code = (
        "import sys, demo_node.trainer.client, demo_node.trainer.supervisor;"
        " sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_nodes_share_the_cores_of_a_machine() -> None:
    cores = compute_threads()
    assert compute_threads(cores) == compute_threads(10 * cores) == 1
