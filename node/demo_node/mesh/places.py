"""Where connected peers are: as the addresses that others could dial. Trio code."""

import functools
from weakref import WeakKeyDictionary

from libp2p.abc import IHost
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStoreError
from libp2p.rcmgr import Direction
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from demo_node.mesh.circuit import CircuitStream
from demo_node.mesh.yamux import PatientYamux


class Places:
    """Remembers whence connections come: that never changes, and takes 0.2 ms to tell."""

    def __init__(self, host: IHost, swarm: Swarm) -> None:
        self._host = host
        self._swarm = swarm
        self._seen: WeakKeyDictionary[SwarmConn, str] = WeakKeyDictionary()

    def address_of(self, peer_id: ID, connection: SwarmConn) -> str:
        """Where the peer can be dialled, as far as is known; without its id.

        For one that dialled us that is the host we see, with a port it says it listens on: what it
        says of its host is of little use behind a NAT. For one by way of a relay, the relay's.
        """
        circuit = find_circuit(connection)
        if circuit is not None:
            return circuit.address
        seen = self._seen.get(connection, "")
        if not seen:
            seen = str(next(iter(connection.get_transport_addresses()), ""))
            self._seen[connection] = seen
        if connection.direction != Direction.OUTBOUND:
            try:
                addresses = self._host.get_peerstore().addrs(peer_id)
                told = [spell(a.to_bytes()).split("/") for a in addresses]
            except PeerStoreError:  # it has not told us yet
                told = []
            host = seen.split("/")[:3]
            ports = [t[4] for t in sorted(told, key=lambda t: t[:3] != host) if t[3:4] == ["tcp"]]
            if ports:
                seen = "/".join([*host, "tcp", ports[0]])
        return seen

    def find(self, peer_id: ID) -> str:
        """Of a connected peer that is reached without a relay, with its id."""
        for connection in self._swarm.get_connections(peer_id):
            if isinstance(connection, SwarmConn) and not connection.is_closed:
                return f"{self.address_of(peer_id, connection)}/p2p/{peer_id}"
        return f"/p2p/{peer_id}"  # it has just gone


def find_circuit(connection: object) -> CircuitStream | None:
    """What is below a connection by way of a relay; None for any other."""
    muxed = getattr(connection, "muxed_conn", None)
    socket = muxed.socket if isinstance(muxed, PatientYamux) else None
    return socket if isinstance(socket, CircuitStream) else None


@functools.lru_cache(1024)
def spell(address: bytes) -> str:
    """A multiaddr as text. It takes 0.1 ms, and the peers' are asked for some times a second."""
    return str(Multiaddr(address))
