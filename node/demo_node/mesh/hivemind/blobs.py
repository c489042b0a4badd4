"""The blob protocol (../blob.py has its words) over streams of p2pd, in asyncio."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

from demo_node.mesh import bounds
from demo_node.mesh.account import USES
from demo_node.mesh.blob_frames import (
    BUSY,
    HEAD_BYTES,
    LENGTH_BYTES,
    Garbage,
    decode_head,
    decode_request,
    decode_request_length,
    encode_head,
    encode_request,
)
from demo_node.mesh.hivemind.limits import BLOB
from demo_node.mesh.hivemind.streams import Meter, Stream
from demo_node.mesh.peer_id import encode_peer_id
from demo_node.mesh.turns import Found, Lines, Pulls, Served
from demo_node.ports import (
    Blob,
    BlobRequest,
    Busy,
    OnAnswered,
    OnBlob,
    OnPiece,
    Unreachable,
    Use,
    ignore_answered,
    ignore_piece,
)

T = TypeVar("T")

_STREAM_ERRORS: Final = (OSError, EOFError, Garbage)
"""What a stream does for reasons that lie outside; TimeoutError is an OSError."""

Open = Callable[[bytes, str, float], Awaitable[int]]
"""(peer, protocol, seconds) -> an open stream. Raises Unreachable."""


class Blobs:
    """Serves blobs to peers and pulls them from peers."""

    def __init__(self, open_stream: Open, meter: Meter, fail: Callable[[Exception], None]) -> None:
        self.on_blob: OnBlob | None = None
        self.on_answered: OnAnswered = ignore_answered
        self._open = open_stream
        self._meter = meter
        self._fail = fail
        self._served = Served()
        self._tasks: set[asyncio.Task[None]] = set()
        self._pulls = Pulls()
        self._sending = Lines()

    def serving(self) -> int:
        """Requests of peers that are being answered."""
        return self._served.total

    def take(self, peer: bytes, fd: int) -> None:
        """A peer has opened a stream."""
        stream = Stream(fd, peer, self._meter)
        if not self._served.enter(peer):
            stream.close()
            return
        task = asyncio.create_task(self._handle(peer, stream))
        self._tasks.add(task)
        task.add_done_callback(lambda task: self._leave(task, peer, stream))

    async def stop(self) -> None:
        """End all that is being served."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def pull(
        self,
        peer: bytes,
        request: BlobRequest,
        bytes_max: int,
        timeout_s: float,
        on_piece: OnPiece = ignore_piece,
    ) -> bytes:
        """Ask a connected peer for a blob. Raises Unreachable or NotHeld."""
        name = encode_peer_id(peer)
        try:
            async with asyncio.timeout(timeout_s), self._slot(peer, request.kind):
                fd = await self._open(peer, BLOB, timeout_s)
                with contextlib.closing(Stream(fd, peer, self._meter)) as stream:
                    return await _ask(stream, request, bytes_max, on_piece)
        except Garbage as error:
            raise Unreachable(f"{name} {error}") from None
        except TimeoutError:
            raise Unreachable(f"{name} was too slow with {request.kind.name}") from None
        except Unreachable:
            raise
        except _STREAM_ERRORS as error:
            reason = str(error) or type(error).__name__
            raise Unreachable(f"{name} broke off: {reason}") from None

    @contextlib.asynccontextmanager
    async def _slot(self, peer: bytes, kind: Blob) -> AsyncIterator[None]:
        """Wait for one of the peer's streams: it resets those beyond what it serves at once."""
        turn = asyncio.Event()
        with self._pulls.begin(peer, kind, turn):
            await turn.wait()
            yield

    async def _handle(self, peer: bytes, stream: Stream) -> None:
        with contextlib.suppress(*_STREAM_ERRORS):
            await self._serve(peer, stream)
            # p2pd passes on the rest of what was written, then the end.
            stream.finish()
            async with asyncio.timeout(bounds.STALL_S):
                while await stream.read(1):
                    pass

    def _leave(self, task: asyncio.Task[None], peer: bytes, stream: Stream) -> None:
        self._tasks.discard(task)
        stream.close()
        self._served.leave(peer)

    async def _serve(self, peer: bytes, stream: Stream) -> None:
        async with asyncio.timeout(bounds.REQUEST_FRAME_S):
            size = decode_request_length(await stream.read_exact(LENGTH_BYTES))
            request = decode_request(await stream.read_exact(size))
        use = Use.OTHER if request is None else USES[request.kind]
        with contextlib.ExitStack() as line:
            line.enter_context(self._served.answering(peer, request))
            found = await _unless_called_off(stream, self._find(peer, request, line))
            await self._reply(stream, found, use)

    async def _find(
        self, peer: bytes, request: BlobRequest | None, line: contextlib.ExitStack
    ) -> Found:
        """What is to be given, once it is its turn; or why there is nothing.

        A payload is sent to a few at once. Who takes it slowly holds up others for a while.
        """
        if request is None:
            return Found()
        try:
            async with asyncio.timeout(bounds.ANSWER_S):
                body = await self._look_up(peer, request)
        except Busy:
            return Found(lacking=BUSY)
        if body is None:
            return Found()
        found = Found(body, tell=functools.partial(self._tell, peer, request))
        line.callback(found.end)
        if request.kind is Blob.PAYLOAD:
            turn = asyncio.Event()
            line.enter_context(self._sending.stand(request.key, bounds.COPIES_AT_ONCE, turn))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(bounds.TURN_S):
                    await turn.wait()
        return found

    def _tell(self, peer: bytes, request: BlobRequest, size: int) -> None:
        try:
            self.on_answered(peer, request, size)
        except Exception as error:  # our bug; as below
            self._fail(error)

    async def _look_up(self, peer: bytes, request: BlobRequest) -> bytes | None:
        if self.on_blob is None:
            return None
        try:
            return await self.on_blob(peer, request)
        except Busy:
            raise
        except Exception as error:  # our bug, or our disk: it ends the mesh, and `wait` tells
            self._fail(error)
            return None

    async def _reply(self, stream: Stream, found: Found, use: Use) -> None:
        content = found.body or b""
        seconds = bounds.SERVE_S + len(content) / bounds.SERVE_BYTES_PER_S_MIN
        async with asyncio.timeout(seconds) as limit:
            await stream.write(encode_head(found.body, found.lacking))
            found.begin()
            stream.use = use
            view = memoryview(content)
            step = self._meter.pacer.piece_bytes  # may be another one meanwhile
            for start in range(0, len(content), step):
                piece = view[start : start + step]
                # Waiting for our own cap is not the peer's slowness.
                waited_s = await self._meter.pacer.wait_turn(len(piece))
                limit.reschedule((limit.when() or 0.0) + waited_s)
                await stream.write(piece)


async def _unless_called_off(stream: Stream, work: Coroutine[Any, Any, T]) -> T:
    """What `work` gives. Raises Garbage where who asks ends the stream meanwhile, or says more."""
    watching, working = asyncio.create_task(stream.read(1)), asyncio.create_task(work)
    try:
        await asyncio.wait((watching, working), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Garbage("called its request off")
        return working.result()
    finally:
        for task in (watching, working):
            task.cancel()
        await asyncio.gather(watching, working, return_exceptions=True)


async def _ask(stream: Stream, request: BlobRequest, bytes_max: int, on_piece: OnPiece) -> bytes:
    await stream.write(encode_request(request))
    size = decode_head(await stream.read_exact(HEAD_BYTES), request, bytes_max)
    stream.use = USES[request.kind]
    return await stream.read_exact(size, on_piece)
