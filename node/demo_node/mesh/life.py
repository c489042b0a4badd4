"""How long a mesh lives: from when it listens until it is told to end, or something fails."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import trio

from demo_node.mesh.guest import Guest

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # a dependency of libp2p; its stubs shadow trio's types


class Life:
    """Of one mesh. `live` is all of its trio code, and awaits `last` once it listens.

    `abort` is called at the end, whatever that was.
    """

    def __init__(self, live: Callable[[], Awaitable[None]], abort: Callable[[], None]) -> None:
        self._live = live
        self._abort = abort
        self._scope = trio.CancelScope()
        self._fault: Exception | None = None
        self._faulted = trio.Event()
        self._task_status: TaskStatus[None]
        self._started = False
        self._ended: asyncio.Future[None] | None = None  # it has not begun

    async def begin(self, guest: Guest) -> None:
        """Return when `live` has come to `last`. Raises what ended it before."""
        self._ended = asyncio.get_running_loop().create_future()
        await guest.spawn(self._run)

    async def wait(self) -> None:
        """Return when it has ended; raise what ended it."""
        assert self._ended is not None
        await asyncio.shield(self._ended)

    async def end(self) -> None:
        """Cancel it and wait until it has ended. Raises nothing; twice is fine."""
        if self._ended is None:
            return
        self._scope.cancel()
        await asyncio.wait([self._ended])
        self._ended.exception()  # marked as seen: nobody may have been waiting

    def fail(self, error: Exception) -> None:
        """End it with an error; the first counts."""
        if self._fault is None:
            self._fault = error
            self._faulted.set()

    # From here on, trio code.

    async def last(self) -> None:
        """The mesh is up: wait until something fails, and raise that."""
        self._started = True
        self._task_status.started()
        await self._faulted.wait()
        assert self._fault is not None
        raise self._fault

    async def _run(self, *, task_status: "TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        """Live until the scope is cancelled, or something fails."""
        assert self._ended is not None
        self._task_status = task_status
        try:
            with self._scope:
                await self._live()
        except Exception as error:
            if not self._started:
                raise _single(error) from None  # to `begin`
            self._ended.set_exception(_single(error))  # to `wait`
        finally:
            self._abort()
            if not self._ended.done():
                self._ended.set_result(None)


def _single(error: Exception) -> Exception:
    """What the nurseries on its way have wrapped, where that is one error."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
