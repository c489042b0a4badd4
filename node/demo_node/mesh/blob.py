"""The blob protocol over libp2p streams: one request, one reply, one stream. Trio code.

blob_frames.py has its words. Before them comes multistream's choice of this protocol, as on any
libp2p stream. It is sent with the request: waiting for each of its two answers would take two more
round trips, and as many frames.
"""

import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, TypeVar

import trio
from libp2p.abc import IHost, INetStream
from libp2p.custom_types import TProtocol
from libp2p.exceptions import BaseLibp2pError
from libp2p.peer.id import ID
from libp2p.protocol_muxer.multiselect_client import MULTISELECT_PROTOCOL_ID
from libp2p.utils import encode_delim

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
from demo_node.mesh.guest import GuestClosed
from demo_node.mesh.pacing import PIECE_BYTES_MIN, Pacer
from demo_node.mesh.peer_id import decode_peer_id_bytes, encode_peer_id, encode_peer_id_bytes
from demo_node.mesh.receiving import Receiving, Told
from demo_node.mesh.turns import Found, Lines, Pulls, Served
from demo_node.mesh.uplink_meter import UplinkMeter
from demo_node.mesh.yamux import blame, count_unread, has_ended, mark, pace, watch_stall
from demo_node.ports import (
    Blob,
    BlobRequest,
    Busy,
    OnAnswered,
    Unreachable,
)

T = TypeVar("T")

PROTOCOL: Final = TProtocol("/demo-node/blob/1")
CHOICE: Final = encode_delim(MULTISELECT_PROTOCOL_ID.encode()) + encode_delim(PROTOCOL.encode())

_STREAM_ERRORS: Final = (BaseLibp2pError, trio.TooSlowError, OSError, EOFError)
"""What a stream's operations raise for reasons that lie outside; anything else is a bug."""


class _Ended(EOFError):
    """The connection ended that a request was made by."""


Answer = Callable[[bytes, BlobRequest], Awaitable[bytes | None]]
"""`OnBlob`, callable from trio."""


class BlobProtocol:
    """Serves blobs to peers and pulls them from peers."""

    def __init__(
        self,
        host: IHost,
        answer: Answer,
        on_answered: OnAnswered,
        fail: Callable[[Exception], None],
        upload: Pacer,
        download: Pacer,
        meter: UplinkMeter,
    ) -> None:
        self._host = host
        self._answer = answer
        self._on_answered = on_answered
        self._fail = fail
        self._upload = upload
        self._download = download
        self._meter = meter
        self._served = Served()
        self._pulls = Pulls()
        self._sending = Lines()
        host.set_stream_handler(PROTOCOL, self._handle)

    async def pull(
        self,
        peer: bytes,
        request: BlobRequest,
        bytes_max: int,
        timeout_s: float,
        told: Told,
    ) -> bytes:
        """Ask a connected peer for a blob. Raises Unreachable or NotHeld."""
        peer_id = ID(encode_peer_id_bytes(peer))
        name = encode_peer_id(peer)
        if not self._host.get_network().get_connections(peer_id):
            raise Unreachable(f"{name} is not connected")
        try:
            with trio.fail_after(timeout_s) as scope:
                async with self._slot(peer, request.kind):
                    return await self._ask_again(peer_id, request, bytes_max, scope, told)
        except trio.TooSlowError:
            raise Unreachable(f"{name} was too slow with {request.kind.name}") from None
        except Garbage as error:
            raise Unreachable(f"{name} {error}") from None
        except _STREAM_ERRORS as error:
            reason = str(error) or type(error).__name__
            raise Unreachable(f"{name} broke off: {reason.splitlines()[0]}") from None

    async def _ask_again(
        self,
        peer_id: ID,
        request: BlobRequest,
        bytes_max: int,
        scope: trio.CancelScope,
        told: Told,
    ) -> bytes:
        """Ask until the reply has come whole, as long as only a connection ends, and not the last.

        Of two that dialled each other at once one closes a connection (`_drop_crossing`), when the
        other may just have asked by it.
        """
        while True:
            receiving = Receiving(self._download, request.kind, bytes_max, scope, told)
            await receiving.wait_to_ask()
            try:
                return await self._ask(peer_id, request, bytes_max, receiving)
            except _Ended:
                if not self._host.get_network().get_connections(peer_id):
                    raise

    async def _ask(
        self, peer_id: ID, request: BlobRequest, bytes_max: int, receiving: Receiving
    ) -> bytes:
        unread = 0
        try:
            stream = await self._host.get_network().new_stream(peer_id)
            stream.set_protocol(PROTOCOL)
            mark(stream, USES[request.kind])
            if self._download.bytes_per_s:
                pace(stream)
            async with _finishing(stream):
                try:
                    return await _telling(stream, _ask(stream, request, bytes_max, receiving))
                except (BaseLibp2pError, EOFError) as error:
                    if has_ended(stream):
                        raise _Ended(str(error) or type(error).__name__) from error
                    raise
                finally:
                    unread = count_unread(stream)
        finally:
            receiving.end(unread)

    def serving(self) -> int:
        """Requests of peers that are being answered."""
        return self._served.total

    @contextlib.asynccontextmanager
    async def _slot(self, peer: bytes, kind: Blob) -> AsyncIterator[None]:
        """Wait for one of the peer's streams (trap 15)."""
        turn = trio.Event()
        with self._pulls.begin(peer, kind, turn):
            await turn.wait()
            yield

    async def _handle(self, stream: INetStream) -> None:
        """Serve one stream. The library's boundary: what left it would end the connection."""
        with contextlib.suppress(Garbage, *_STREAM_ERRORS):
            async with _finishing(stream):
                await _telling(stream, self._serve(stream))

    async def _serve(self, stream: INetStream) -> None:
        try:
            peer = decode_peer_id_bytes(stream.muxed_conn.peer_id.to_bytes())
        except ValueError:
            raise Garbage("has no Ed25519 key") from None
        if not self._served.enter(peer):
            raise Garbage("opened too many streams")
        try:
            with contextlib.ExitStack() as line:
                request = await self._hear(stream)
                line.enter_context(self._served.answering(peer, request))
                found = await _unless_called_off(stream, self._find, peer, request, line)
                await self._reply(stream, found)
        finally:
            self._served.leave(peer)

    async def _hear(self, stream: INetStream) -> BlobRequest | None:
        request, find_stall = None, watch_stall(stream)
        with trio.move_on_after(bounds.REQUEST_FRAME_S) as asking:
            request = await _read_request(stream)
        if asking.cancelled_caught:
            raise Garbage("asked for nothing", find_stall())
        if request is not None:
            mark(stream, USES[request.kind])
        return request

    async def _find(
        self, peer: bytes, request: BlobRequest | None, line: contextlib.ExitStack
    ) -> Found:
        """What is to be given, once it is its turn; or why there is nothing.

        A payload is sent to a few at once. Who takes it slowly holds up others for a while.
        """
        if request is None:
            return Found()
        try:
            with trio.fail_after(bounds.ANSWER_S):
                body = await self._look_up(peer, request)
        except Busy:
            return Found(lacking=BUSY)
        if body is None:
            return Found()
        found = Found(body, tell=functools.partial(self._tell, peer, request))
        line.callback(found.end)
        if request.kind is Blob.PAYLOAD:
            turn = trio.Event()
            line.enter_context(self._sending.stand(request.key, bounds.COPIES_AT_ONCE, turn))
            with trio.move_on_after(bounds.TURN_S):
                await turn.wait()
        return found

    async def _reply(self, stream: INetStream, found: Found) -> None:
        content = found.body or b""
        size = len(content)
        with trio.fail_after(bounds.SERVE_S + size / bounds.SERVE_BYTES_PER_S_MIN) as scope:
            head = encode_head(found.body, found.lacking)
            if size <= PIECE_BYTES_MIN:
                await stream.write(head + content)
                found.begin()
                return
            await stream.write(head)
            found.begin()
            step = self._upload.piece_bytes
            with self._meter.reply():
                for start in range(0, size, step):
                    piece = content[start : start + step]
                    # Waiting for our own cap is not the peer's slowness.
                    scope.deadline += await self._upload.wait_turn(len(piece))
                    await stream.write(piece)

    def _tell(self, peer: bytes, request: BlobRequest, size: int) -> None:
        try:
            self._on_answered(peer, request, size)
        except Exception as error:  # our bug; as below
            self._fail(error)

    async def _look_up(self, peer: bytes, request: BlobRequest) -> bytes | None:
        try:
            return await self._answer(peer, request)
        except (GuestClosed, Busy):
            raise
        except Exception as error:
            # Our bug, or our disk. It must not leave through the library (trap 25), nor be lost:
            # it ends the mesh, and `wait` tells.
            self._fail(error)
            return None


async def _telling(stream: INetStream, talk: Awaitable[T]) -> T:
    """Hold against the peer what only a peer that means harm would do."""
    try:
        return await talk
    except Garbage as error:
        if error.offence is not None:
            blame(stream.muxed_conn, error.offence)
        raise


async def _unless_called_off(
    stream: INetStream, work: Callable[..., Awaitable[T]], *args: object
) -> T:
    """What `work` gives. Raises Garbage where who asks ends the stream meanwhile, or says more."""
    result: list[T] = []
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_watch, stream, nursery.cancel_scope)
        try:
            result.append(await work(*args))
        except Exception as error:  # raised below: a nursery would wrap it
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    if not result:
        raise Garbage("called its request off")
    return result[0]


async def _watch(stream: INetStream, asked: trio.CancelScope) -> None:
    with contextlib.suppress(*_STREAM_ERRORS):
        await stream.read(1)
    asked.cancel()


@contextlib.asynccontextmanager
async def _finishing(stream: INetStream) -> AsyncIterator[None]:
    """Close the stream at the end, or reset it when something went wrong."""
    try:
        yield
        await stream.close()
    except BaseException:
        with trio.CancelScope(shield=True), trio.move_on_after(bounds.RESET_S):
            await stream.reset()  # raises nothing
        raise


async def _ask(
    stream: INetStream, request: BlobRequest, bytes_max: int, receiving: Receiving
) -> bytes:
    await stream.write(CHOICE + encode_request(request))
    if await _read_exact(stream, len(CHOICE)) != CHOICE:  # who agrees repeats it
        raise Garbage("does not speak this protocol")
    head = await _read_exact(stream, HEAD_BYTES)
    return await receiving.read_exact(stream, decode_head(head, request, bytes_max))


async def _read_request(stream: INetStream) -> BlobRequest | None:
    """The request, or None for a kind this version does not know."""
    size = decode_request_length(await _read_exact(stream, LENGTH_BYTES))
    return decode_request(await _read_exact(stream, size))


async def _read_exact(stream: INetStream, size: int) -> bytes:
    """The few bytes of a request, or of what comes before a reply."""
    held = b""
    while len(held) < size:
        with trio.fail_after(bounds.STALL_S):
            piece = await stream.read(
                size - len(held)
            )  # at most that, at its end nothing (trap 16)
        if not piece:
            raise EOFError(f"{len(held)} of {size} bytes came")
        held += piece
    return held
