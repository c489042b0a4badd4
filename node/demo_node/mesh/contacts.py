"""Who is connected since when, and how many came and went. Trio code."""

import time

from libp2p.abc import INetConn, INetStream, INetwork, INotifee
from libp2p.network.swarm import Swarm
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from demo_node.mesh.peer_id import decode_peer_id_bytes


class Contacts(INotifee):
    """Counts peers, not connections: one is here from its first connection until its last ended.

    By the library's notices, so that a peer which comes and goes between two looks is counted, too.
    They are late, and that of an end may come after that of the next beginning.
    """

    def __init__(self, swarm: Swarm) -> None:
        self._swarm = swarm
        self._since_s: dict[bytes, float] = {}
        self.came = 0
        self.went = 0
        swarm.register_notifee(self)

    def lasted_s(self, peer: bytes) -> float:
        """For how long a peer has been connected."""
        since_s = self._since_s.get(peer)
        return 0.0 if since_s is None else time.monotonic() - since_s

    async def connected(self, network: INetwork, conn: INetConn) -> None:
        """There is a new connection; it may have ended by now."""
        peer = _find_peer(conn)
        if peer is None:
            return
        others = [c for c in self._live(conn) if c is not conn]
        if not others:
            self._leave(peer)  # what it had before has ended without our knowing
        if peer not in self._since_s:
            self.came += 1
            self._since_s[peer] = time.monotonic()
        if not self._live(conn):
            self._leave(peer)

    async def disconnected(self, network: INetwork, conn: INetConn) -> None:
        """A connection has ended."""
        peer = _find_peer(conn)
        if peer is not None and not self._live(conn):
            self._leave(peer)

    def _leave(self, peer: bytes) -> None:
        if self._since_s.pop(peer, None) is not None:
            self.went += 1

    def _live(self, conn: INetConn) -> list[INetConn]:
        """The connections that this one's peer has now."""
        found = self._swarm.get_connections(conn.muxed_conn.peer_id)
        return [c for c in found if not c.is_closed]

    async def opened_stream(self, network: INetwork, stream: INetStream) -> None:
        """Nothing."""

    async def closed_stream(self, network: INetwork, stream: INetStream) -> None:
        """Nothing."""

    async def listen(self, network: INetwork, multiaddr: Multiaddr) -> None:
        """Nothing."""

    async def listen_close(self, network: INetwork, multiaddr: Multiaddr) -> None:
        """Nothing."""


def _find_peer(conn: INetConn) -> bytes | None:
    """The key of a connection's peer; None for one that cannot take part."""
    try:
        return decode_peer_id_bytes(conn.muxed_conn.peer_id.to_bytes())
    except ValueError:
        return None
