"""Yamux as the library has it, with a reader that never waits for a writer, and a watch."""

import struct
from collections.abc import Callable
from typing import Any, Final, cast

import trio
from libp2p.abc import IMuxedConn, IMuxedStream, INetStream, ISecureConn
from libp2p.custom_types import TProtocol
from libp2p.exceptions import BaseLibp2pError
from libp2p.io.exceptions import IncompleteReadError
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.stream.net_stream import NetStream
from libp2p.peer.id import ID
from libp2p.protocol_muxer.exceptions import MultiselectClientError
from libp2p.security.noise.io import SIZE_NOISE_MESSAGE_LEN, NoiseTransportReadWriter
from libp2p.security.secure_session import SecureSession
from libp2p.stream_muxer.muxer_multistream import MuxerMultistream
from libp2p.stream_muxer.yamux.yamux import (
    FLAG_SYN,
    HEADER_SIZE,
    MAX_WINDOW_SIZE,
    PROTOCOL_ID,
    TYPE_DATA,
    TYPE_GO_AWAY,
    TYPE_PING,
    YAMUX_HEADER_FORMAT,
    Yamux,
)

from demo_node.mesh import bounds
from demo_node.mesh.peer_id import decode_peer_id_bytes
from demo_node.mesh.streams import PIECE_BYTES_MAX, FrugalStream
from demo_node.mesh.transport import MeteredStream
from demo_node.ports import Offence, Use

YAMUX: Final = TProtocol(PROTOCOL_ID)

VERSION: Final = 0
"""Of yamux; there is no other."""

WINDOW_PAUSE_S: Final = 0.01
"""Between two looks at whether a peer takes more, as the library has it."""

PROBE_PAUSE_S: Final = 0.05
"""Between two looks for an answer."""


def blame(conn: object, offence: Offence) -> None:
    """Whoever is at the other end of this multiplexed connection did what no honest peer does."""
    if isinstance(conn, PatientYamux):
        conn.blame(offence)


def is_banned(stream: MeteredStream, peer_id: ID) -> bool:
    """Is it to be refused? One whose key is of another kind cannot take part, but may look."""
    try:
        return stream.guard.is_banned(decode_peer_id_bytes(peer_id.to_bytes()))
    except ValueError:
        return False


def mark(stream: INetStream, use: Use) -> None:
    """What goes through this stream from now on is for `use`."""
    muxed = _find_muxed(stream)
    assert isinstance(muxed.conn, PatientYamux)
    muxed.conn.mark(muxed.stream_id, use)


def pace(stream: INetStream) -> None:
    """Let the peer send as much more as is read, and nothing ahead of that."""
    _find_muxed(stream).is_paced = True


async def write_whole(stream: INetStream, data: bytes) -> None:
    """All of `data`, in frames that go out whole whoever is cancelled meanwhile.

    For streams that end in the middle of something: half a frame would end their connection, and
    with it all else that is on it. A frame waits for the socket alone, which gives up in time.
    """
    muxed = _find_muxed(stream)
    sent = 0
    while sent < len(data):
        while muxed.send_window <= 0 and not (  # noqa: ASYNC110  the library has no event
            muxed.send_closed or muxed.closed
        ):
            await trio.sleep(WINDOW_PAUSE_S)
        size = min(max(muxed.send_window, 1), PIECE_BYTES_MAX)  # where it is closed the next raises
        with trio.CancelScope(shield=True):
            await stream.write(data[sent : sent + size])
        sent += size


def count_unread(stream: INetStream) -> int:
    """Bytes that have come on this stream and nobody has read."""
    muxed = _find_muxed(stream)
    return len(muxed.conn.stream_buffers.get(muxed.stream_id, b""))


def has_ended(stream: INetStream) -> bool:
    """Whether its connection has, or is about to."""
    return _find_muxed(stream).conn.event_shutting_down.is_set()


def watch_stall(stream: INetStream) -> Callable[[], Offence | None]:
    """What is to be called when nothing came on the stream for long: is it its peer's doing?

    What is to come is short, and other frames of its peer still come: then it holds it back. One
    that is cut off, frozen or behind a full uplink sends nothing else, either. And one that was
    sending us what we had asked it for has had that in the way, on an uplink that may be slow.
    """
    conn = stream.muxed_conn
    before = conn.answered if isinstance(conn, PatientYamux) else 0

    def find() -> Offence | None:
        if not isinstance(conn, PatientYamux) or not conn.is_alive or conn.answered > before:
            return None
        return Offence.STALLED

    return find


def _find_muxed(stream: INetStream) -> FrugalStream:
    assert isinstance(stream, NetStream)
    assert isinstance(stream.muxed_stream, FrugalStream)
    return stream.muxed_stream


class YamuxOnly(MuxerMultistream):
    """Negotiates yamux and nothing else; the library's second choice would be mplex (trap 7).

    Here it is known for the first time whose connection it is: who is banned comes no further.
    """

    def __init__(self) -> None:
        super().__init__({YAMUX: Yamux})

    async def new_conn(self, conn: ISecureConn, peer_id: ID) -> IMuxedConn:
        """Agree with the other side on yamux; return the multiplexed connection.

        Raises MultiselectClientError where it is refused.
        """
        assert isinstance(conn, SecureSession)
        stream = _find_socket(conn)
        if is_banned(stream, peer_id):
            raise MultiselectClientError("it is banned")
        await self.select_transport(conn)
        return self._annotate_connection(PatientYamux(conn, peer_id), conn, YAMUX)


class PatientYamux(Yamux):
    """A connection that cannot lock up, and that ends when the peer is gone.

    The library's reader answers pings and opens streams by writing, and waits for it. With data on
    its way in both directions both readers can wait for a writer that waits for the other reader:
    a dead lock, seen within minutes under load (trap 31). Here frames without data never wait:
    they are put aside and go out before the next data, or by themselves. Their order among each
    other stays, and none overtakes data of its own stream, for who sends it has sent that before.
    """

    def __init__(self, conn: ISecureConn, peer_id: ID) -> None:
        assert isinstance(conn, SecureSession)
        stream = _find_socket(conn)
        stream.welcome(peer_id.to_bytes())
        self._reader = FrameReader(conn, self, stream)
        super().__init__(cast(ISecureConn, self._reader), peer_id)
        self._stream = stream
        self._uses: dict[int, Use] = {}
        self._aside = bytearray()
        self._flush_is_due = False
        self._silent = 0
        self.answered = 0
        """Bytes that have come of what we had asked for, or of such requests."""

    async def accept_stream(self) -> IMuxedStream:
        """The next stream the peer opens. One that opens too many is no peer (trap 33)."""
        stream = await super().accept_stream()
        if len(self.streams) > bounds.STREAMS_PER_CONNECTION_MAX:
            self._end(Offence.FLOOD)
        return stream

    @property
    def is_alive(self) -> bool:
        """Did something come in the last seconds? Who is cut off or asleep sends nothing at all."""
        return self._silent < 2

    @property
    def socket(self) -> MeteredStream:
        """Below it."""
        return self._stream

    def blame(self, offence: Offence) -> None:
        """Its peer did what no honest one does. One without a key of ours cannot take part."""
        try:
            peer = decode_peer_id_bytes(self.peer_id.to_bytes())
        except ValueError:
            self._stream.blame_host(offence)
            self._stream.abort()
        else:
            self._stream.guard.blame(peer, offence)

    def _end(self, offence: Offence) -> None:
        self._stream.abort()
        self.blame(offence)

    def mark(self, stream_id: int, use: Use) -> None:
        """What goes through this stream from now on is for `use`."""
        self._uses[stream_id] = use
        if len(self._uses) > 2 * bounds.STREAMS_PER_CONNECTION_MAX:  # half of them have ended
            self._uses = {i: known for i, known in self._uses.items() if i in self.streams}

    def on_garbage(self) -> None:
        """What has come is no frame."""
        self._end(Offence.GARBAGE)

    def on_frame(self, stream_id: int, size: int) -> None:
        """A frame has come, with so many bytes of a stream."""
        use = self._uses.get(stream_id, Use.OTHER)
        if use in (Use.PAYLOAD, Use.SYNC):
            self.answered += size
        self._stream.incoming.tell(use, size, self._stream.unread + self._reader.unread)

    async def drop_if_silent(self) -> None:
        """Ping, and end the connection unless some byte comes soon."""
        heard = self._stream.bytes_in
        with trio.move_on_after(bounds.PROBE_S):
            await self._ping()
            while self._stream.bytes_in == heard and not self.is_closed:  # noqa: ASYNC110  rare
                await trio.sleep(PROBE_PAUSE_S)
            return
        self._stream.abort()

    async def _ping(self) -> None:
        self._ping_id += 1
        self._ping_sent_time = trio.current_time()
        await self._write_frame(
            struct.pack(YAMUX_HEADER_FORMAT, 0, TYPE_PING, FLAG_SYN, 0, self._ping_id)
        )

    async def _write_frame(self, data: bytes) -> None:
        if len(data) == HEADER_SIZE and len(self._aside) < bounds.CONTROL_BYTES_MAX:
            if data[1] != TYPE_GO_AWAY:  # the end of TCP says as much
                self._put_aside(data)
            await trio.lowlevel.checkpoint()
            return
        try:
            self._write_lock.acquire_nowait()  # a free lock is worth no turn of the scheduler
        except trio.WouldBlock:
            await self._write_lock.acquire()
        try:
            await self.secured_conn.write(self._take_aside() + data)
            use = self._uses.get(int.from_bytes(data[4:8]), Use.OTHER)
            self._stream.outgoing.tell(use, len(data) - HEADER_SIZE)
        finally:
            self._write_lock.release()

    def _put_aside(self, frame: bytes) -> None:
        self._aside += frame
        if self._flush_is_due or self._nursery is None or self.event_shutting_down.is_set():
            return
        try:
            self._nursery.start_soon(self._flush)
        except RuntimeError:  # the connection has just ended
            return
        self._flush_is_due = True

    async def _flush(self) -> None:
        try:
            async with self._write_lock:
                self._flush_is_due = False
                frames = self._take_aside()
                if frames:
                    await self.secured_conn.write(frames)
                    self._stream.outgoing.tell(Use.OTHER, 0)
        except (BaseLibp2pError, OSError):
            self._stream.abort()  # and the reader ends the connection

    def _take_aside(self) -> bytes:
        frames = bytes(self._aside)
        self._aside.clear()
        return frames

    async def _measure_rtt_loop(self) -> None:
        """Ping whenever nothing came for a while; end the connection when nothing comes at all.

        Runs in the place of the library's loop of this name. Any byte is a sign of life, so that a
        full uplink is not taken for death, and silence is counted in turns of this loop, so that
        our own sleep is not taken for the peer's. Looks for a peer that ignores the flow control,
        too, for the library does not (trap 33).
        """
        heard = -1
        while True:
            if self._stream.bytes_in == heard:
                self._silent += 1
            else:
                heard = self._stream.bytes_in
                self._silent = 0
            silent = self._silent
            self._stream.waiting = sum(map(len, self.stream_buffers.values()))
            if self._stream.waiting > bounds.UNREAD_BYTES_MAX or self._stream.has_most_waiting:
                self._end(Offence.FLOOD)
                return
            is_stuck = silent > bounds.HEALTH_SILENT_MAX and self._stream.unacknowledged
            silent_max = bounds.HEALTH_STUCK_MAX if is_stuck else bounds.HEALTH_SILENT_MAX
            if silent > silent_max:
                self._stream.abort()
                return
            if silent or not self._rtt:
                await self._ping()
            await trio.sleep(bounds.HEALTH_INTERVAL_S)


def _find_socket(session: SecureSession) -> MeteredStream:
    """The TCP stream below: another to the same host and port may have been opened just now."""
    noise = session.conn
    assert isinstance(noise, NoiseTransportReadWriter)
    raw = noise.read_writer.read_write_closer
    assert isinstance(raw, RawConnection)
    assert isinstance(raw.stream, MeteredStream)
    return raw.stream


class FrameReader:
    """The secure session as the muxer reads it, header by header and body by body.

    Tells for which stream a frame came: the library's loop tells nobody. Reads and decrypts
    messages itself: of the library's eight layers between socket and muxer none does more.
    """

    def __init__(self, session: SecureSession, conn: PatientYamux, stream: MeteredStream) -> None:
        self._session = session
        self._conn = conn
        self._stream = stream
        assert isinstance(session.conn, NoiseTransportReadWriter)
        self._cipher = session.conn
        self._plain = bytearray(session._drain(None))  # what came with the end of the handshake
        self._header = b""
        self._stream_id = 0
        self._size = 0
        self._left = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    @property
    def unread(self) -> int:
        """Bytes that are decrypted and wait."""
        return len(self._plain)

    async def read(self, n: int | None = None) -> bytes:
        """The next part of a header or of a body, all that the muxer asks for."""
        piece = await self._read_plain(n or 0)
        if self._left:
            self._left -= len(piece)
            if not self._left:
                self._conn.on_frame(self._stream_id, self._size)
            return piece
        self._header += piece
        if len(self._header) == HEADER_SIZE:
            version, kind, _, self._stream_id, length = struct.unpack(
                YAMUX_HEADER_FORMAT, self._header
            )
            self._header = b""
            is_long = kind == TYPE_DATA and length > MAX_WINDOW_SIZE
            if version != VERSION or kind > TYPE_GO_AWAY or is_long:
                self._conn.on_garbage()
                raise IncompleteReadError("no frame of yamux's")
            self._size = self._left = length if kind == TYPE_DATA else 0
            if not self._left:
                self._conn.on_frame(self._stream_id, 0)
        return piece

    async def _read_plain(self, n: int) -> bytes:
        while len(self._plain) < n:
            length = int.from_bytes(await self._stream.read_exactly(SIZE_NOISE_MESSAGE_LEN))
            self._plain += self._cipher.decrypt(await self._stream.read_exactly(length))
        piece = bytes(self._plain[:n])
        del self._plain[:n]
        return piece
