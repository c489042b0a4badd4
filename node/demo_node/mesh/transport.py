"""TCP as libp2p sees it, with what the library leaves out: byte counts and deadlines of sockets."""

import array
import contextlib
import errno
import fcntl
import itertools
import math
import socket
import termios

import trio
from libp2p.abc import IListener, IRawConnection
from libp2p.custom_types import THandler
from libp2p.io.abc import ReadWriteCloser
from libp2p.io.exceptions import ConnectionClosedError, IncompleteReadError
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.transport.tcp.tcp import TCP
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from demo_node.mesh import bounds
from demo_node.mesh.account import Account, Totals
from demo_node.mesh.gate import Entry, Gate
from demo_node.mesh.guard import Guard
from demo_node.mesh.pacing import Pacer
from demo_node.mesh.private import OnStranger, PrivateStream
from demo_node.mesh.remote import find_remote
from demo_node.ports import Direction, Offence, Refusal

_numbers = itertools.count()
"""Of sockets, so that the older one can be told."""


class MeteredTCP(TCP):
    """The library's TCP transport; knows every open socket and every byte that went through one."""

    def __init__(
        self,
        upload: Pacer,
        download: Pacer,
        guard: Guard,
        swarm_key: bytes = b"",
        on_stranger: OnStranger | None = None,
    ) -> None:
        """`swarm_key` is that of a private swarm; who dials without it goes to `on_stranger`."""
        super().__init__()
        self._swarm_key = swarm_key
        self._on_stranger = on_stranger
        self.upload = upload
        self.download = download
        self.guard = guard
        self.gate = Gate(guard.is_host_banned)
        self.bytes_in = 0
        self.bytes_out = 0
        self.bytes_lost = 0
        """Written, and not acknowledged when the socket was closed."""
        self.totals = Totals()
        self.open: set[MeteredStream] = set()
        self.circuits: set[MeteredStream] = set()
        """Connections by way of a relay: their bytes go through a socket of `open`."""

    async def dial(self, maddr: Multiaddr) -> IRawConnection:
        """Open a connection."""
        raw = await super().dial(maddr)
        assert isinstance(raw, RawConnection)
        raw.stream = self._metered(raw.stream, trio.CancelScope())
        return raw

    def create_listener(self, handler_function: THandler) -> IListener:  # type: ignore[override]
        """A listener of whom the gate admits; its handlers end with their connections.

        The library's handler waits for the end of the whole host, and holds one of the tokens that
        limit inbound connections until then: after 256 of them, however short, it would accept no
        more (trap 26).
        """

        async def handle(stream: ReadWriteCloser) -> None:
            remote = find_remote(stream)
            entry = self.gate.admit(remote[0]) if remote else None  # None: it has gone again
            if entry is None:
                await stream.close()
                return
            try:
                with trio.CancelScope() as scope:
                    await handler_function(self._metered(stream, scope, entry))
            finally:
                entry.leave()  # not before: until then it holds one of the library's places, too

        return super().create_listener(handle)

    def count_acknowledged(self) -> int:
        """Bytes that other machines have got."""
        return self.bytes_out - self.bytes_lost - self.count_unacknowledged()

    def count_unacknowledged(self) -> int:
        """Bytes that other machines have not got yet."""
        return sum(stream.unacknowledged for stream in self.open)

    def abort(self) -> None:
        """Close every socket: those of a host that was cancelled would stay open."""
        for stream in [*self.circuits, *self.open]:
            stream.abort()

    def _refuse(self, host: str, why: str) -> None:
        self.gate.refused[Refusal.KEY] += 1
        if self._on_stranger is not None:
            self._on_stranger(host, why)

    def _metered(
        self, stream: ReadWriteCloser, handler: trio.CancelScope, entry: Entry | None = None
    ) -> "MeteredStream":
        assert isinstance(stream, TrioTCPStream)
        stream.stream.socket.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, bounds.UNSENT_BYTES
        )
        remote = find_remote(stream)
        if self._swarm_key:
            on_stranger = None if entry is None else self._refuse
            stream = PrivateStream(stream, self._swarm_key, on_stranger)
        metered = MeteredStream(stream, self, handler, entry, remote)
        self.open.add(metered)
        return metered


class MeteredStream(ReadWriteCloser):
    """A TCP stream that counts, and that gives up on a peer which takes nothing any more."""

    def __init__(
        self,
        inner: TrioTCPStream,
        tcp: MeteredTCP,
        handler: trio.CancelScope,
        entry: Entry | None = None,
        remote: tuple[str, int] | None = None,
    ) -> None:
        self._inner = inner
        self._remote = remote
        self._tcp = tcp
        self._handler = handler
        self._entry = entry
        self.peer: bytes = b""
        """Whose connection it is, as libp2p writes it; empty before the handshake is over."""
        self._number = next(_numbers)
        self.waiting = 0
        """Bytes of its streams that nobody had read when that was last looked at."""
        self._ahead = b""
        self._at = 0
        self.incoming = Account(tcp.totals, Direction.IN)
        self.outgoing = Account(tcp.totals, Direction.OUT)

    @property
    def bytes_in(self) -> int:
        """Everything that came so far."""
        return self.incoming.bytes

    @property
    def unread(self) -> int:
        """How much of that nobody has read yet."""
        return len(self._ahead) - self._at

    @property
    def unacknowledged(self) -> int:
        """Bytes that the other machine has not got yet, as ours knows; 0 where no kernel tells."""
        count = array.array("i", [0])
        with contextlib.suppress(OSError, ValueError):  # a closed socket has no number
            fcntl.ioctl(self._inner.stream.socket.fileno(), termios.TIOCOUTQ, count)
        return count[0]

    async def read(self, n: int | None = None) -> bytes:
        """At most `n` bytes; none at the end.

        Read ahead: Noise asks for two bytes, then for the rest, and multistream for one at a time.
        """
        if self._at == len(self._ahead) and n != 0:
            self._ahead = await self._receive()
            self._at = 0
            self.incoming.add(len(self._ahead))
        end = len(self._ahead) if n is None else self._at + n
        piece = self._ahead[self._at : end]
        self._at += len(piece)
        return piece

    async def _receive(self) -> bytes:
        data = await self._inner.read(bounds.READ_AHEAD_BYTES)
        self._tcp.bytes_in += len(data)
        self._tcp.download.passed(len(data))
        return data

    async def read_exactly(self, n: int) -> bytes:
        """`n` bytes. Raises IncompleteReadError at the end."""
        piece = await self.read(n)
        while len(piece) < n:
            if not (more := await self.read(n - len(piece))):
                raise IncompleteReadError(
                    "the connection has ended", expected_bytes=n, received_bytes=len(piece)
                )
            piece += more
        return piece

    async def write(self, data: bytes) -> None:
        """All of `data`. Raises ConnectionClosedError when the peer has stopped to read."""
        with trio.move_on_after(bounds.WRITE_STALL_S) as stalled:
            await self._send(data)
        if stalled.cancelled_caught:  # part of it may be out: the stream is of no use any more
            await self.close()
            raise ConnectionClosedError("the peer has stopped to read", transport="tcp")

    @property
    def guard(self) -> Guard:
        """Whom to tell what came by it."""
        return self._tcp.guard

    @property
    def inbound_host(self) -> str:
        """Where it came from; empty for one that we dialled."""
        remote = self.get_remote_address()
        return remote[0] if self._entry is not None and remote is not None else ""

    @property
    def has_most_waiting(self) -> bool:
        """Do all connections together hold too much that nobody has read, and this one the most?"""
        waiting = [stream.waiting for stream in self._tcp.open | self._tcp.circuits]
        return sum(waiting) > bounds.UNREAD_BYTES_TOTAL_MAX and self.waiting >= max(waiting)

    def blame_host(self, offence: Offence) -> None:
        """Before its key is known. Where it was we who dialled, only the address was wrong."""
        if self.inbound_host:
            self.guard.blame_host(self.inbound_host, offence)

    def welcome(self, peer: bytes) -> None:
        """The handshake is over. Of more connections than a key may have the oldest ends.

        The library would let those of the last half minute stand. One by way of a relay is there
        until there is one without.
        """
        self.peer = peer
        same = sorted((s for s in self._tcp.open if s.peer == peer), key=lambda s: s._number)
        relayed = [s for s in self._tcp.circuits if s.peer == peer]
        for stream in [*same[: -bounds.CONNECTIONS_PER_PEER_MAX], *relayed]:
            stream.abort()
        if self._entry is not None:
            self._entry.welcome()

    async def _send(self, data: bytes) -> None:
        """As the library does; but each part counts as soon as the kernel has it (`uplink_meter`).

        Of our own socket's end the writer hears nothing: what closed it knows.
        """
        try:
            async with self._inner.write_lock:
                if isinstance(self._inner, PrivateStream):
                    data = self._inner.encipher(data)
                with memoryview(data) as rest:
                    done = 0
                    while done < len(rest):
                        size = await self._inner.stream.socket.send(rest[done:])
                        done += size
                        self._tcp.bytes_out += size
                        self.outgoing.add(size)
                        self._tcp.upload.passed(size)
        except trio.ClosedResourceError:
            return
        except OSError as error:
            if error.errno != errno.EBADF:
                raise ConnectionClosedError(
                    f"the peer is gone: {error}", transport="tcp"
                ) from error

    async def close(self) -> None:
        """Close the socket, and let whoever handles the connection end soon."""
        self.abort()
        await trio.lowlevel.checkpoint()

    def abort(self) -> None:
        """The same at once."""
        if self in self._tcp.open:
            self._tcp.bytes_lost += self.unacknowledged
        self._tcp.open.discard(self)
        self.incoming.close()
        self.outgoing.close()
        self._inner.stream.socket.close()  # wakes whoever reads or writes
        if self._handler.deadline == math.inf:
            self._handler.deadline = trio.current_time() + bounds.INBOUND_GRACE_S

    def get_remote_address(self) -> tuple[str, int] | None:
        """Host and port of the other end."""
        return self._remote
