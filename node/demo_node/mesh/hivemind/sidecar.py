"""The process beside the node, in which hivemind lives: started, watched, started again."""

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from demo_node.mesh.hivemind.channel import Channel, Message
from demo_node.mesh.hivemind.limits import HUNG_S, LOOK_S, RESTART_MAX_S, RESTART_MIN_S
from demo_node.ports import Unreachable
from demo_protocol.errors import ConfigError

START_S: Final = 120.0
"""To the first answer. 1 s on a quiet machine; others may use its cores."""

ASK_S: Final = 10.0
"""What an answer may take longer than what was asked of p2pd."""

ASKED_MAX: Final = 1024
"""Questions at once; each pull is one."""

MODULE: Final = "demo_node.mesh.hivemind.child"

OnTold = Callable[[Message, int], None]
"""(what it tells, an open stream or -1); who is called owns the stream."""


class Sidecar:
    """Starts the process, asks it, and starts another when it dies or hangs.

    `on_told` hears what it tells by itself (child.py); `on_loss` why it has to be replaced.
    """

    def __init__(
        self,
        settings: Mapping[str, object],
        on_told: OnTold,
        on_loss: Callable[[str], None],
    ) -> None:
        self._settings = dict(settings)
        self._on_told = on_told
        self._on_loss = on_loss
        self._on_start: Callable[[], Awaitable[None]] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._channel: Channel | None = None
        self._ended = asyncio.Event()
        self._asked: dict[int, asyncio.Future[int]] = {}
        self._number = 0

    @property
    def pid(self) -> int:
        """Of the process; 0 while there is none."""
        return self._process.pid if self._process else 0

    async def start(self) -> None:
        """The first start. Raises ConfigError where the operator has to change something."""
        try:
            await self._begin()
        except Unreachable as error:
            await self._end()
            raise ConfigError(f"mesh: p2pd does not start: {error}") from None
        except BaseException:
            await self._end()
            raise

    async def run(self, on_start: Callable[[], Awaitable[None]]) -> None:
        """Until cancelled it runs, or another is about to. After `start`.

        `on_start` is called when another has taken its place.
        """
        loop = asyncio.get_running_loop()
        pause_s = RESTART_MIN_S
        try:
            while True:
                begin_s = loop.time()
                self._on_loss(await self._watch())
                await self._end()
                if loop.time() - begin_s > RESTART_MAX_S:
                    pause_s = RESTART_MIN_S
                while True:
                    await asyncio.sleep(pause_s)
                    pause_s = min(2 * pause_s, RESTART_MAX_S)
                    try:
                        await self._begin()
                        await on_start()
                        break
                    except Unreachable as error:
                        await self._end()
                        self._on_loss(str(error))
        finally:
            await self._end()

    async def ask(self, op: str, timeout_s: float = ASK_S, **fields: object) -> int:
        """Ask it something; the answer may carry an open stream, else -1. Raises Unreachable."""
        if self._channel is None:
            raise Unreachable("the mesh is being started again")
        if len(self._asked) >= ASKED_MAX:
            raise Unreachable("too much is asked of the mesh at once")
        self._number += 1
        number = self._number
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        self._channel.send({"id": number, "op": op, **fields})
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(answer)
        except TimeoutError:
            raise Unreachable("the mesh does not answer") from None
        finally:
            self._asked.pop(number, None)
            if answer.done() and not answer.cancelled():
                answer.exception()  # marked as seen
            else:
                answer.cancel()

    async def _begin(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._ended = asyncio.Event()
            self._channel = Channel(ours, self._take, self._ended.set)
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # not what lies about in the folder this was started in
                "-m",
                MODULE,
                str(theirs.fileno()),
                pass_fds=[theirs.fileno()],
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                env={**os.environ, "HIVEMIND_LOGLEVEL": "CRITICAL", "CUDA_VISIBLE_DEVICES": ""},
            )
        asking = asyncio.create_task(self.ask("start", START_S, **self._settings))
        ending = asyncio.create_task(self._ended.wait())
        try:
            await asyncio.wait([asking, ending], return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                raise Unreachable("the process that holds hivemind ended at once")
            asking.result()
        finally:
            for task in (asking, ending):
                task.cancel()
            await asyncio.gather(asking, ending, return_exceptions=True)

    async def _watch(self) -> str:
        """Return when it is of no use any more, and why."""
        loop = asyncio.get_running_loop()
        answered_s = loop.time()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._ended.wait()
                return "the process that holds hivemind died"
            with contextlib.suppress(Unreachable):
                await self.ask("ping", LOOK_S)
                answered_s = loop.time()
            if loop.time() - answered_s > HUNG_S:
                return f"the process that holds hivemind did not answer for {HUNG_S:.0f} s"

    async def _end(self) -> None:
        """Nothing of it is left, nor of p2pd, which dies with it."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(Unreachable("the mesh is being started again"))
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
            self._process = None

    def _take(self, message: dict[str, Any], fd: int) -> None:
        number = message.get("id")
        if number is None:
            self._on_told(message, fd)
            return
        answer = self._asked.get(number)
        if answer is None or answer.done():
            if fd >= 0:
                os.close(fd)
        elif "error" in message:
            answer.set_exception(Unreachable(str(message["error"])))
        else:
            answer.set_result(fd)
