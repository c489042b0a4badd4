"""`demo-node` with a watch on every callback of its event loop: what each costs of this thread.

    python -m tests.e2e.loop_probe REPORT start --datadir ...

Processor time of the loop's thread counts, not wall time: on busy cores a callback that was only
put aside says nothing about the code. uvloop's callbacks cannot be hooked, so the node runs under
asyncio's own loop; trio's tasks run in callbacks of that loop and are told apart.
"""

import asyncio
import gc
import json
import os
import sys
import threading
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Coroutine, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Final

import trio
import uvloop

from demo_node.operations import NodeOperations
from demo_node.views import NodeState
from tests.yardstick import do_fixed_work

SLOW_MS: Final = 5.0
"""Of what takes longer, more is written down."""

YARDSTICK_EVERY_S: Final = 0.25
SAMPLE_EVERY_S: Final = 0.003
STACK_FRAMES: Final = 8


@dataclass(slots=True)
class Slow:
    """One callback that took long. Milliseconds; `at_s` since the process began."""

    what: str
    cpu_ms: float
    wall_ms: float
    gc_ms: float
    at_s: float
    state: str
    tasks: Mapping[str, float]
    """Trio's, where it was a tick of trio's."""
    stacks: Mapping[str, int]
    """Where it was seen, and how often."""

    def describe(self) -> str:
        """For people: a line, and one more for each place."""
        tasks = ", ".join(f"{name.rpartition('.')[2]} {ms:.1f}" for name, ms in self.tasks.items())
        line = f"{self.cpu_ms:6.1f} ms ({self.wall_ms:.1f} by the clock, {self.gc_ms:.1f} for the"
        line += f" collector) at {self.at_s:.1f} s, {self.state}: {self.what} {tasks}"
        return "\n".join([line, *(f"         {seen} x {at}" for at, seen in self.stacks.items())])


@dataclass(slots=True)
class Report:
    """What became of one process. `cpu_ms`: every callback since the node became active.

    `full_collection_ms`: what a full collection of garbage takes at the end.
    """

    slow: list[Slow] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    yardstick_ms: list[float] = field(default_factory=list)
    full_collection_ms: float = 0.0


def read_report(path: Path) -> Report:
    """What `main` has written."""
    fields = json.loads(path.read_text())
    return Report(**{**fields, "slow": [Slow(**one) for one in fields["slow"]]})


class Watch(trio.abc.Instrument):
    """Takes the time of whatever the loop runs."""

    def __init__(self) -> None:
        self.report = Report()
        self._state = NodeState.STARTING
        self._begin_s = time.perf_counter()
        self._entered_s = 0.0
        self._own_s = self._gc_s = self._gc_begin_s = 0.0
        self._tasks: dict[str, float] = defaultdict(float)
        self._task_begin_s = 0.0
        self._stacks: Counter[str] = Counter()
        self._thread_id = threading.get_ident()

    def install(self) -> None:
        """Before the loop is made."""
        run_handle, start_guest_run = asyncio.Handle._run, trio.lowlevel.start_guest_run
        set_state = NodeOperations.set_state

        def run_watched(handle: asyncio.Handle) -> None:
            self._stacks.clear()
            self._tasks.clear()
            self._gc_s = self._own_s = 0.0
            what = describe(handle)
            wall_s = self._entered_s = time.perf_counter()
            cpu_s = time.thread_time()
            run_handle(handle)
            cpu_s = time.thread_time() - cpu_s - self._own_s
            self._entered_s = 0.0
            self._note(what, cpu_s * 1e3, (time.perf_counter() - wall_s) * 1e3)

        def start_watched_guest_run(*args: Any, **kwargs: Any) -> None:
            start_guest_run(*args, instruments=(self,), **kwargs)

        def set_state_and_note(
            operations: NodeOperations, state: NodeState, detail: str = ""
        ) -> None:
            self._state = state
            if state is NodeState.DRAINING:
                self._collect()
            set_state(operations, state, detail)

        for owner, name, watched in (
            (asyncio.Handle, "_run", run_watched),
            (trio.lowlevel, "start_guest_run", start_watched_guest_run),
            (NodeOperations, "set_state", set_state_and_note),
            (uvloop, "run", self._run),
        ):
            setattr(owner, name, watched)
        gc.callbacks.append(self._on_collection)
        threading.Thread(target=self._sample, daemon=True).start()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Trio goes on with a task."""
        self._task_begin_s = time.thread_time()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """It has done so."""
        self._tasks[task.name] += (time.thread_time() - self._task_begin_s) * 1e3

    def _run(self, main: Coroutine[Any, Any, Any]) -> Any:
        """In place of uvloop's."""

        async def run_beside_yardstick() -> Any:
            yardstick = asyncio.create_task(self._lay_yardstick())
            try:
                return await main
            finally:
                yardstick.cancel()

        return asyncio.run(run_beside_yardstick())

    async def _lay_yardstick(self) -> None:
        while True:
            begin_s = time.thread_time()
            do_fixed_work()
            self.report.yardstick_ms.append((time.thread_time() - begin_s) * 1e3)
            await asyncio.sleep(YARDSTICK_EVERY_S)

    def _note(self, what: str, cpu_ms: float, wall_ms: float) -> None:
        if self._state in (NodeState.ACTIVE, NodeState.DRAINING):
            self.report.cpu_ms.append(cpu_ms)
        if cpu_ms >= SLOW_MS:
            tasks = dict(sorted(self._tasks.items(), key=lambda task: -task[1])[:3])
            stacks = dict(self._stacks.most_common(3))
            gc_ms, at_s = self._gc_s * 1e3, time.perf_counter() - self._begin_s
            self.report.slow.append(
                Slow(what, cpu_ms, wall_ms, gc_ms, at_s, self._state, tasks, stacks)
            )

    def _collect(self) -> None:
        begin_s = time.thread_time()
        gc.collect()
        self._own_s = time.thread_time() - begin_s
        self.report.full_collection_ms = self._own_s * 1e3

    def _on_collection(self, phase: str, info: Mapping[str, int]) -> None:
        if threading.get_ident() != self._thread_id:
            return
        if phase == "start":
            self._gc_begin_s = time.thread_time()
        else:
            self._gc_s += time.thread_time() - self._gc_begin_s

    def _sample(self) -> None:
        """Look, from another thread, where a callback is that has been going for a while."""
        while True:
            time.sleep(SAMPLE_EVERY_S)
            entered_s = self._entered_s
            if entered_s and time.perf_counter() - entered_s > SAMPLE_EVERY_S:
                frame = sys._current_frames().get(self._thread_id)
                if frame is not None:
                    self._stacks[describe_stack(frame)] += 1


def describe(handle: asyncio.Handle) -> str:
    """The coroutine of a task, else the function."""
    callback = getattr(handle, "_callback", None)
    owner = getattr(callback, "__self__", None)
    named = owner.get_coro() if isinstance(owner, asyncio.Task) else callback
    return str(getattr(named, "__qualname__", named))


def describe_stack(frame: FrameType) -> str:
    """Innermost last, one line."""
    frames = traceback.extract_stack(frame)[-STACK_FRAMES:]
    return " > ".join(f"{Path(f.filename).stem}:{f.lineno}:{f.name}" for f in frames)


def main() -> None:
    path, arguments = Path(sys.argv[1]), sys.argv[2:]
    watch = Watch()
    watch.install()
    from demo_node.cli.root import main as demo_node

    sys.argv = ["demo-node", *arguments]
    try:
        demo_node()
    finally:
        unfinished = path.with_suffix(f".{os.getpid()}")
        unfinished.write_text(json.dumps(asdict(watch.report)))
        unfinished.rename(path)


if __name__ == "__main__":
    main()
