"""TCP as libp2p sees it, with what the library leaves out: byte counts and deadlines of sockets."""

import math

import trio
from libp2p.abc import IListener, IRawConnection
from libp2p.custom_types import THandler
from libp2p.io.abc import ReadWriteCloser
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.transport.tcp.tcp import TCP
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from demo_node.mesh.bounds import INBOUND_GRACE_S, WRITE_STALL_S


class MeteredTCP(TCP):
    """The library's TCP transport; knows every open socket and every byte that went through one."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes_in = 0
        self.bytes_out = 0
        self.open: set[MeteredStream] = set()

    async def dial(self, maddr: Multiaddr) -> IRawConnection:
        """Open a connection."""
        raw = await super().dial(maddr)
        assert isinstance(raw, RawConnection)
        raw.stream = self._metered(raw.stream, trio.CancelScope())
        return raw

    def create_listener(self, handler_function: THandler) -> IListener:  # type: ignore[override]
        """A listener whose handlers end with their connections.

        The library's handler waits for the end of the whole host, and holds one of the tokens that
        limit inbound connections until then: after 256 of them, however short, it would accept no
        more (trap 26).
        """

        async def handle(stream: ReadWriteCloser) -> None:
            with trio.CancelScope() as scope:
                await handler_function(self._metered(stream, scope))

        return super().create_listener(handle)

    def abort(self) -> None:
        """Close every socket: those of a host that was cancelled would stay open."""
        for stream in list(self.open):
            stream.abort()

    def _metered(self, stream: ReadWriteCloser, handler: trio.CancelScope) -> "MeteredStream":
        assert isinstance(stream, TrioTCPStream)
        metered = MeteredStream(stream, self, handler)
        self.open.add(metered)
        return metered


class MeteredStream(ReadWriteCloser):
    """A TCP stream that counts, and that gives up on a peer which takes nothing any more."""

    def __init__(self, inner: TrioTCPStream, tcp: MeteredTCP, handler: trio.CancelScope) -> None:
        self._inner = inner
        self._tcp = tcp
        self._handler = handler

    async def read(self, n: int | None = None) -> bytes:
        """At most `n` bytes; none at the end."""
        piece = await self._inner.read(n)
        self._tcp.bytes_in += len(piece)
        return piece

    async def write(self, data: bytes) -> None:
        """All of `data`. Raises ConnectionClosedError when the peer has stopped to read."""
        with trio.move_on_after(WRITE_STALL_S) as stalled:
            await self._inner.write(data)
            self._tcp.bytes_out += len(data)
        if stalled.cancelled_caught:  # part of it may be out: the stream is of no use any more
            await self.close()
            raise ConnectionClosedError(f"no byte taken in {WRITE_STALL_S} s", transport="tcp")

    async def close(self) -> None:
        """Close the socket, and let whoever handles the connection end soon."""
        self.abort()
        await trio.lowlevel.checkpoint()

    def abort(self) -> None:
        """The same at once."""
        self._tcp.open.discard(self)
        self._inner.stream.socket.close()  # wakes whoever reads or writes
        if self._handler.deadline == math.inf:
            self._handler.deadline = trio.current_time() + INBOUND_GRACE_S

    def get_remote_address(self) -> tuple[str, int] | None:
        """Host and port of the other end."""
        return self._inner.get_remote_address()
