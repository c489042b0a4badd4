"""Keeps one trainer child alive: starts it, watches it, starts another when it dies.

Part of the node process: no torch here. `Supervisor.run` is a task of the daemon's TaskGroup.
"""

import asyncio
import atexit
import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from multiprocessing.context import ForkServerProcess
from tempfile import TemporaryDirectory
from typing import Final

import grpc

from demo_node.observer import Figure
from demo_node.ports import LearnerLost
from demo_node.trainer.child import run_child
from demo_node.trainer.faults import to_error
from demo_node.trainer.forkserver import start_child, start_server
from demo_node.trainer.pb import trainer_pb2 as pb
from demo_node.trainer.pb.trainer_pb2_grpc import TrainerStub
from demo_node.trainer.settings import (
    DoesNotFit,
    OnEvent,
    TrainerInfo,
    TrainerSettings,
    compute_threads,
)
from demo_node.trainer.usage import CpuTotal, read_usage

START_S: Final = 120.0
"""From fork to the first answer; well under a second when nothing is wrong."""

CONFIGURE_S: Final = 300.0
"""The known-answer test, reading the corpus, one step; a graphics card may take long to wake."""

BACKOFF_MIN_S: Final = 0.2
BACKOFF_MAX_S: Final = 30.0
"""Pause after a death. It doubles until a trainer has lived for BACKOFF_MAX_S."""

CHANNEL_OPTIONS: Final = (
    # The socket appears a little after the child: look again soon, not in gRPC's 1 to 120 s.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
)


class Trainer:
    """One child, from its fork to its death."""

    def __init__(self, process: ForkServerProcess, socket: str, on_event: OnEvent) -> None:
        self._on_event = on_event
        self.pid = process.pid or 0
        self.info: TrainerInfo | None = None
        """Set when it is ready."""
        self.has_states = False
        """Whether a state was loaded into it: a child that is new holds none."""
        self.has_momentum = False
        """Whether it goes on from what an earlier child has left, or there was nothing."""
        self.device_bytes = 0
        """Of a graphics card's memory, as it last said."""
        self.is_silent = False
        """Whether the operator was told that it does not answer, and it has not answered since."""
        self.end_reason = ""
        """Why this node ended it; empty where it died by itself."""
        self._process = process
        self._channel = grpc.aio.insecure_channel(f"unix:{socket}", options=CHANNEL_OPTIONS)
        self.stub = TrainerStub(self._channel)
        self._loop = asyncio.get_running_loop()
        self.died: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(process.sentinel, self._on_death)
        # At exit multiprocessing joins its children, and ours waits for the end of this process.
        atexit.register(process.kill)

    def note(self, micro_batch: int, happenings: Iterable[pb.Happening]) -> None:
        """Pass on what happened in there, and remember what it takes at once."""
        if self.info is not None:
            self.info = replace(self.info, micro_batch=micro_batch)
        self.tell(happenings)

    def tell(self, happenings: Iterable[pb.Happening]) -> None:
        """Pass on what happened in there."""
        for happening in happenings:
            self._on_event(happening.name, **json.loads(happening.fields))

    def note_silence(self, call: str, waited_s: float) -> None:
        """A call takes too long: tell it, once for all calls that are under way."""
        if not self.is_silent and not self.died.done():
            self.is_silent = True
            self._on_event(
                "trainer.unresponsive", pid=self.pid, call=call, waited_ms=round(waited_s * 1000)
            )

    def kill(self) -> None:
        """End it now: nothing in it is worth a clean end."""
        if not self.died.done():
            self._process.kill()

    async def close(self) -> int:
        """Return when it is dead and nothing of it is left here: its exit code."""
        self.kill()
        await asyncio.wait([self.died])
        self._process.join()
        exit_code = self._process.exitcode or 0
        atexit.unregister(self._process.kill)
        self._process.close()
        # Calls under way fail by themselves, now that it is dead; closing at once would cancel
        # them, and their callers would take that for a cancellation of their own.
        await self._channel.close(grace=1)
        return exit_code

    def _on_death(self) -> None:
        self._loop.remove_reader(self._process.sentinel)
        self.died.set_result(None)


class Supervisor:
    """Sees to it that a trainer runs. Look at `pid` and `info`, await `wait_ready`."""

    def __init__(
        self, settings: TrainerSettings, on_event: OnEvent = lambda _name, **_fields: None
    ) -> None:
        """on_event: trainer.ready, trainer.known_answer_failed, trainer.unresponsive, trainer.died,
        and what the trainer has to say (learner.py).
        """
        self._settings = settings
        self._on_event = on_event
        self._trainer: Trainer | None = None
        self._child_pid = 0
        self._cpu = CpuTotal()
        self._ready = asyncio.Event()
        self._was_ready = False

    @property
    def pid(self) -> int:
        """Process id of the trainer that is ready; 0 while there is none."""
        return self._trainer.pid if self._trainer else 0

    @property
    def info(self) -> TrainerInfo | None:
        """What the trainer that is ready says of itself; None while there is none."""
        return self._trainer.info if self._trainer else None

    @property
    def micro_batch(self) -> int:
        """Samples that the trainer takes at once; 0 while there is none."""
        return self.info.micro_batch if self.info else 0

    def figures(self) -> Iterator[Figure]:
        """What the child takes of the machine, from its fork on, and all before it took."""
        usage = read_usage(self._child_pid) if self._child_pid else None
        if usage is not None:
            self._cpu.see(self._child_pid, usage.cpu_s)
        resident_bytes = usage.resident_bytes if usage else 0
        device_bytes = self._trainer.device_bytes if self._trainer else 0
        yield Figure("demo_trainer_cpu_seconds_total", self._cpu.seconds)
        yield Figure("demo_trainer_memory_bytes", resident_bytes, ("process",))
        yield Figure("demo_trainer_memory_bytes", device_bytes, ("device",))

    def trainer(self) -> Trainer:
        """The trainer that is ready. Raises LearnerLost while there is none."""
        if self._trainer is None:
            raise LearnerLost("no trainer is running; another one is about to")
        return self._trainer

    async def wait_ready(self) -> Trainer:
        """The trainer that is ready, as soon as there is one."""
        while self._trainer is None:
            await self._ready.wait()
        return self._trainer

    def abandon(self, trainer: Trainer, reason: str) -> None:
        """It is of no use any more: end it, so that another can start.

        `reason`: why, for `trainer.died`; empty where it is about to die by itself.
        """
        self._withdraw(trainer)
        trainer.end_reason = trainer.end_reason or reason
        trainer.kill()

    async def run(self) -> None:
        """Until cancelled a trainer runs, or is about to; afterwards none does.

        Raises ConfigError where the settings can never work, LocalFault on a bug in there. A model
        that fitted once is tried again: whoever took the memory may give it back.
        """
        clock = asyncio.get_running_loop().time
        pause_s = BACKOFF_MIN_S
        while True:
            begin_s = clock()
            with TemporaryDirectory(prefix="trainer-") as folder:  # 0700
                await self._run_one(f"{folder}/trainer.sock")
            await asyncio.sleep(pause_s)
            lived_long = clock() - begin_s > BACKOFF_MAX_S
            pause_s = BACKOFF_MIN_S if lived_long else min(2 * pause_s, BACKOFF_MAX_S)

    async def _run_one(self, socket: str) -> None:
        """Return when the child has died, or could not be started."""
        try:
            trainer = Trainer(await self._start(socket), socket, self._on_event)
        except (OSError, EOFError) as error:  # the fork server died on us
            self._on_event("trainer.died", pid=0, reason=repr(error))
            return
        reason = ""
        self._child_pid = trainer.pid
        try:
            trainer.info = await self._configure(trainer)
            self._publish(trainer)
            await asyncio.wait([trainer.died])
        except LearnerLost as error:
            reason = str(error)
        except DoesNotFit as error:
            if not self._was_ready:
                raise
            reason = str(error)
        finally:
            self._withdraw(trainer)
            self._child_pid = 0
            exit_code = await trainer.close()
        reason = reason or trainer.end_reason
        self._on_event("trainer.died", pid=trainer.pid, exit_code=exit_code, reason=reason)

    async def _start(self, socket: str) -> ForkServerProcess:
        start_server()
        arguments = (socket, self._settings.threads or compute_threads(), self._settings.nice)
        # In a thread: this waits until the fork server has imported torch.
        starting = asyncio.create_task(asyncio.to_thread(start_child, run_child, *arguments))
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            # A thread cannot be cancelled: see it through, then undo it.
            (await starting).kill()
            raise

    async def _configure(self, trainer: Trainer) -> TrainerInfo:
        """Raises LearnerLost when the child dies instead of answering."""
        asking = asyncio.create_task(self._ask(trainer))
        both: list[asyncio.Future[TrainerInfo] | asyncio.Future[None]] = [asking, trainer.died]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                raise LearnerLost("it died before it was ready")
            return asking.result()
        finally:
            asking.cancel()

    async def _ask(self, trainer: Trainer) -> TrainerInfo:
        request = pb.ConfigureRequest(
            manifest=self._settings.manifest,
            corpus=str(self._settings.corpus),
            device=self._settings.device,
            initial=str(self._settings.initial or ""),
            gpu_memory_mb=self._settings.gpu_memory_mb,
        )
        try:
            await trainer.stub.Ping(pb.PingRequest(), wait_for_ready=True, timeout=START_S)
            reply = await trainer.stub.Configure(request, timeout=CONFIGURE_S)
        except grpc.aio.AioRpcError as error:
            raise to_error(error) from None
        trainer.note(reply.micro_batch, reply.happenings)
        return TrainerInfo(
            pid=trainer.pid,
            parameters=reply.parameters,
            device=reply.device,
            apply_device=reply.apply_device,
            can_contribute=reply.known_answer_ok,
            micro_batch=reply.micro_batch,
            codec=reply.codec or "torch",
        )

    def _publish(self, trainer: Trainer) -> None:
        info = trainer.info
        assert info is not None
        self._trainer = trainer
        self._was_ready = True
        self._ready.set()
        self._on_event(
            "trainer.ready",
            pid=info.pid,
            device=info.device,
            micro_batch=info.micro_batch,
            codec=info.codec,
        )
        if info.apply_device != info.device or not info.can_contribute:
            self._on_event(
                "trainer.known_answer_failed",
                device=info.device,
                apply_device=info.apply_device,
                can_contribute=info.can_contribute,
            )

    def _withdraw(self, trainer: Trainer) -> None:
        if self._trainer is trainer:
            self._trainer = None
            self._ready.clear()
