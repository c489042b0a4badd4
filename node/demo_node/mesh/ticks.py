"""Trio's ticks as callbacks of the asyncio loop, without the thread that trio would wait in.

`trio.lowlevel.start_guest_run` works on any loop: it waits for sockets in a thread, which costs two
changes of thread and a write to a pipe whenever something comes, and on a busy machine a wait for
each thread's turn; and it goes back to the loop after each step, of which a message takes dozens.
Here asyncio waits for what trio waits for, as it would for a socket, and trio goes on for up to a
millisecond before it gives way.
"""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import outcome
import sniffio

TURN_S: Final = 0.001
"""How long trio goes on while it has something to do, before others of the loop have their turn."""


class Ticks:
    """Drives a guest run in place of trio's own `GuestState.guest_tick`.

    Everything happens in the thread of the loop.
    """

    def __init__(self, state: Any, loop: asyncio.AbstractEventLoop) -> None:
        """`state`: trio's `GuestState`, as it stands when its first tick is due."""
        self._state = state
        self._loop = loop
        self._fd: int = _find_poller(state).fileno()
        self._is_due = False
        self._events: Sequence[object] = ()
        self._timer: asyncio.TimerHandle | None = None

    @staticmethod
    def take_over(tick: Callable[[], object], loop: asyncio.AbstractEventLoop) -> bool:
        """Drive the guest run whose first tick this is; False where asyncio cannot wait for it."""
        state = getattr(tick, "__self__", None)
        if _find_poller(state) is None:
            return False
        Ticks(state, loop).begin()
        return True

    def begin(self) -> None:
        """From now on the run is ours."""
        self._loop.add_reader(self._fd, self._on_ready)
        self._soon()

    def _soon(self) -> None:
        self._is_due = True
        self._loop.call_soon(self._tick)

    def _on_ready(self) -> None:
        """Something has come for trio; until a tick takes it we are called in each turn."""
        if not self._is_due:
            self._tick()

    def _on_time(self) -> None:
        self._timer = None
        if not self._is_due:
            self._tick()

    def _tick(self) -> None:
        self._is_due = False
        state, before = self._state, sniffio.thread_local.name
        state.runner.guest_tick_scheduled = True
        sniffio.thread_local.name = "trio"
        try:
            wait_s = self._go_on(time.monotonic() + TURN_S)
        except BaseException as error:
            self._end(error)
            return
        finally:
            sniffio.thread_local.name = before
        if wait_s is None:
            self._soon()
            return
        state.runner.guest_tick_scheduled = False
        self._wake_in(wait_s)

    def _go_on(self, until_s: float) -> float | None:
        """Step until trio has nothing to do: for how long at most. None: it has, but must wait."""
        state = self._state
        while True:
            wait_s: float = state.unrolled_run_gen.send(self._events)
            is_over = time.monotonic() >= until_s
            # While it has tasks to run it can do without a look at its sockets, as that takes long.
            look = wait_s > 0 or is_over
            self._events = state.runner.io_manager.get_events(0) if look else ()
            if wait_s > 0 and not self._events:
                return wait_s
            if is_over:
                return None

    def _wake_in(self, wait_s: float) -> None:
        """A timer that is set for sooner stays: most waits end before any timer does."""
        due_s = self._loop.time() + wait_s
        if self._timer is not None:
            if self._timer.when() <= due_s:
                return
            self._timer.cancel()
        # Not a moment too early: trio would ask for the rest of it, again and again.
        self._timer = self._loop.call_later(math.ceil(wait_s * 1000) / 1000, self._on_time)

    def _end(self, error: BaseException) -> None:
        """The run is over, by itself or by an error of trio's own."""
        self._loop.remove_reader(self._fd)
        if self._timer is not None:
            self._timer.cancel()
        ended = self._state.runner.main_task_outcome
        is_regular = isinstance(error, StopIteration) and ended is not None
        self._state.done_callback(ended if is_regular else outcome.Error(error))


def _find_poller(state: object) -> Any:
    """What asyncio can watch to know that trio has an event; None where there is no such thing."""
    manager = getattr(getattr(state, "runner", None), "io_manager", None)
    return getattr(manager, "_epoll", None) or getattr(manager, "_kqueue", None)
