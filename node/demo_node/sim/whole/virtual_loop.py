"""An asyncio loop whose time jumps: hours of rounds in milliseconds, the same every run.

Nothing waits. Whenever every task is blocked on time, the clock moves to the next timer.
"""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from demo_node.system_clock import SystemClock

T = TypeVar("T")

EPOCH_MS = 1_700_000_000_000
"""Unix milliseconds at loop time 0. Any constant would do."""


class Deadlock(RuntimeError):
    """Every task waits for something that is not time: nothing can ever happen again."""


class _JumpingSelector(selectors.SelectSelector):
    """Instead of waiting for `timeout`, lets that much virtual time pass."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Deadlock("all tasks wait, and none for time")
        self.now_s += max(timeout, 0.0)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Event loop over virtual time. It has no sockets and no threads.

    What others give to a thread is done at once: disks are memory here.
    """

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Virtual seconds since the loop began."""
        return self._jumping.now_s

    def block(self, seconds: float) -> None:
        """Let time pass in which nobody gets a turn: somebody's code takes that long."""
        self._jumping.now_s += seconds

    def run_in_executor(
        self, executor: object, func: Callable[..., T], *args: object
    ) -> asyncio.Future[T]:
        """Call `func` now."""
        done: asyncio.Future[T] = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:
            done.set_exception(error)
        return done


class VirtualClock(SystemClock):
    """A node's clock on a virtual loop.

    Its wall clock is wrong by `offset_ms`, and all its time goes by too fast by `drift_ppm`. Both
    may be set at any time.
    """

    def __init__(self, offset_ms: int = 0) -> None:
        self.offset_ms = offset_ms
        self.drift_ppm = 0

        def boot_ms() -> int:
            true_ms = round(asyncio.get_running_loop().time() * 1000)
            return true_ms + true_ms * self.drift_ppm // 1_000_000

        super().__init__(boot_ms=boot_ms, wall_ms=lambda: EPOCH_MS + boot_ms() + self.offset_ms)


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` on a fresh virtual loop, to its end."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
