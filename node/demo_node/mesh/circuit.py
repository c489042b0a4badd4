"""A connection by way of a relay: what the muxer wants of a socket, over a stream. Trio code.

Below it is no socket but a stream of the connection with the relay. What it carries is enciphered
by Noise between its two ends; a relay sees how much there is, and when.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Final

import trio
from libp2p.abc import INetStream
from libp2p.exceptions import BaseLibp2pError
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.network.stream.exceptions import StreamEOF

from demo_node.mesh import bounds
from demo_node.mesh.account import Account, Totals
from demo_node.mesh.transport import MeteredStream, MeteredTCP
from demo_node.mesh.yamux import write_whole
from demo_node.ports import Direction

Reset = Callable[[INetStream], None]
"""Ends a stream at once, without anybody waiting for it."""

_GONE: Final = (BaseLibp2pError, OSError)


class CircuitStream(MeteredStream):
    """Reads and writes a stream that a relay joined with a peer's.

    Its bytes count as those of the relay's socket, for that is where they go through. It comes from
    no address: nothing that is done by it is held against one, least of all against the relay's.
    """

    def __init__(
        self, stream: INetStream, below: MeteredStream, tcp: MeteredTCP, reset: Reset, address: str
    ) -> None:
        """`below` is the relay's socket, `address` where the peer is seen, without its id."""
        # No socket: each place where the other class has to do with one is replaced here.
        super().__init__(None, tcp, trio.CancelScope())  # type: ignore[arg-type]
        self.address = address
        self._circuit = stream
        self._below = below
        self._reset = reset
        self._is_open = True
        self._sending = 0
        self._waiting: set[trio.CancelScope] = set()
        totals = Totals()  # nobody's: they are counted below
        self.incoming = Account(totals, Direction.IN)
        self.outgoing = Account(totals, Direction.OUT)
        tcp.circuits.add(self)

    @property
    def unacknowledged(self) -> int:
        """Bytes that wait for their turn here, or on the way to the relay.

        What the relay holds nobody tells; it takes no more of it than a window.
        """
        return self._sending + self._below.unacknowledged

    def welcome(self, peer: bytes) -> None:
        """The handshake is over. Whom we have without a relay needs none."""
        self.peer = peer
        direct = any(other.peer == peer for other in self._tcp.open)
        others = [s for s in self._tcp.circuits if s.peer == peer and s is not self]
        for stream in [self] if direct else others[: -bounds.CONNECTIONS_PER_PEER_MAX + 1]:
            stream.abort()

    def abort(self) -> None:
        """End it: whoever reads or writes is woken."""
        self._tcp.circuits.discard(self)
        if self._is_open:
            self._is_open = False
            for scope in self._waiting:
                scope.cancel()
            self._reset(self._circuit)

    def get_remote_address(self) -> None:
        """None: the relay's is not the peer's."""

    async def _receive(self) -> bytes:
        with self._until_aborted():
            try:
                return await self._circuit.read(bounds.READ_AHEAD_BYTES)
            except StreamEOF:
                return b""
            except _GONE as error:
                raise ConnectionClosedError(f"the circuit has ended: {error}") from error
        return b""

    async def _send(self, data: bytes) -> None:
        self._sending += len(data)
        try:
            with self._until_aborted():
                await write_whole(self._circuit, data)
                self.outgoing.add(len(data))
        except _GONE as error:
            raise ConnectionClosedError(f"the circuit has ended: {error}") from error
        finally:
            self._sending -= len(data)

    @contextlib.contextmanager
    def _until_aborted(self) -> Iterator[None]:
        with trio.CancelScope() as scope:
            if not self._is_open:
                scope.cancel()
            self._waiting.add(scope)
            try:
                yield
            finally:
                self._waiting.discard(scope)
