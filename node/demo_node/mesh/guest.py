"""Trio as the guest of the running asyncio or uvloop loop: one thread, calls in both directions.

py-libp2p is a trio library; everything else here is asyncio. In guest mode trio's scheduler runs
as callbacks of the asyncio loop, so both sides share one thread: a plain attribute or a plain
function call crosses, and only operations that wait need `call` or `ask`.

Rules for callers:
- asyncio's signal handlers come before `start`; trio then leaves SIGINT alone.
- `stop` comes after everything that calls in here has ended, and before the asyncio loop ends.
- some task watches `wait`: a dead guest must take the daemon down, with its error.
- no asyncio primitive is awaited in a trio task, and no trio primitive in an asyncio task.
"""

import asyncio
import contextlib
import contextvars
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import outcome
import trio

from demo_node.mesh.ticks import Ticks

T = TypeVar("T")


class GuestClosed(ConnectionError):
    """The trio side has ended; no further call can be made."""


class Guest:
    """A trio run inside the running asyncio loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()  # what `ask` runs in: nothing of trio leaks in
        self._started: asyncio.Future[None] = self._loop.create_future()
        # How the run ended. A future and not an Outcome: that can be unwrapped only once.
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._token: trio.lowlevel.TrioToken
        self._nursery: trio.Nursery

    async def start(self) -> None:
        """Begin the trio run."""
        trio.lowlevel.start_guest_run(
            self._root,
            run_sync_soon_threadsafe=self._soon_from_any_thread,
            run_sync_soon_not_threadsafe=self._soon,
            done_callback=self._finish,
            host_uses_signal_set_wakeup_fd=True,  # asyncio and uvloop both do
        )
        await self._started

    async def wait(self) -> None:
        """Return when the trio side has ended; raise what ended it."""
        await asyncio.shield(self._ended)

    async def stop(self) -> None:
        """Cancel every trio task and wait until each has run its `finally`. Twice is fine.

        Raises nothing: what ended the guest is `wait`'s to tell.
        """
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._nursery.cancel_scope.cancel)
        await asyncio.wait([self._ended])
        self._ended.exception()  # marked as seen: nobody may have been waiting

    async def spawn(self, fn: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        """Start a trio task that outlives this call; return what it gives `task_status.started`.

        An error that leaves it later ends the guest, and `wait` raises it.
        """
        return await self.call(self._nursery.start, fn, *args)

    async def call(self, fn: Callable[..., Awaitable[T]], *args: Any) -> T:
        """From asyncio: await a trio function. Results, errors and cancellation cross."""
        done: asyncio.Future[T] = self._loop.create_future()
        scope = trio.CancelScope()

        async def task() -> None:
            try:
                with scope:
                    value = await fn(*args)
            except Exception as error:  # an escape would end every other trio task
                done.set_exception(error)
            else:
                if scope.cancelled_caught:
                    done.cancel()
                else:
                    done.set_result(value)
            finally:
                if not done.done():  # the whole guest is being cancelled
                    done.set_exception(GuestClosed("the mesh is stopping"))

        def enter() -> None:  # an exception in trio's entry queue would be fatal to the run
            try:
                self._nursery.start_soon(task)
            except RuntimeError:  # the nursery is closed
                done.set_exception(GuestClosed("the mesh has stopped"))

        try:
            self._token.run_sync_soon(enter)
        except trio.RunFinishedError:
            raise GuestClosed("the mesh has stopped") from None
        try:
            await asyncio.wait([done])
        except asyncio.CancelledError:
            scope.cancel()
            await asyncio.wait([done])  # the trio task has unwound: nothing is left running
            if not done.cancelled():
                done.exception()  # marked as seen
            raise
        return done.result()

    async def ask(self, fn: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        """From trio: await an asyncio function, run as a task. All that `call` crosses, crosses."""
        me = trio.lowlevel.current_task()
        work: asyncio.Task[T] = self._loop.create_task(fn(*args), context=self._context.copy())
        aborting: list[Callable[[], None]] = []

        def finished(task: asyncio.Task[T]) -> None:
            result: outcome.Outcome[Any]
            if task.cancelled() and aborting:  # our own scope was cancelled
                result = outcome.capture(aborting[0])
            elif task.cancelled():
                result = outcome.Error(GuestClosed("the asyncio side is stopping"))
            elif error := task.exception():
                result = outcome.Error(error)
            else:
                result = outcome.Value(task.result())
            trio.lowlevel.reschedule(me, result)  # allowed: the same thread

        def abort(raise_cancel: Callable[[], None]) -> trio.lowlevel.Abort:
            aborting.append(raise_cancel)
            work.cancel()
            return trio.lowlevel.Abort.FAILED  # `finished` reschedules, once asyncio has unwound

        work.add_done_callback(finished)
        value: T = await trio.lowlevel.wait_task_rescheduled(abort)
        return value

    async def _root(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as self._nursery:
            self._started.set_result(None)
            await trio.sleep_forever()

    def _soon_from_any_thread(self, fn: Callable[[], object]) -> None:
        self._loop.call_soon_threadsafe(fn)

    def _soon(self, fn: Callable[[], object]) -> None:
        """Trio wants a tick: the first one; where `Ticks` cannot take over, each."""
        if not Ticks.take_over(fn, self._loop):
            self._loop.call_soon(fn)

    def _finish(self, result: outcome.Outcome[None]) -> None:
        if isinstance(result, outcome.Error):
            self._ended.set_exception(result.error)
        else:
            self._ended.set_result(None)
