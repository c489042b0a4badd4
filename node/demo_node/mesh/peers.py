"""Who is connected now, how, and what is known of each."""

from libp2p.abc import IHost
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.rcmgr import Direction

from demo_node.mesh.addresses import CIRCUIT
from demo_node.mesh.contacts import Contacts
from demo_node.mesh.gossip import Gossip
from demo_node.mesh.guard import Guard
from demo_node.mesh.peer_id import decode_peer_id_bytes, encode_peer_id, encode_peer_id_bytes
from demo_node.mesh.places import Places, find_circuit
from demo_node.mesh.relaying import HOP
from demo_node.mesh.yamux import PatientYamux
from demo_node.ports import PeerView


class Peers:
    """The swarm's connections, as peers."""

    def __init__(
        self,
        host: IHost,
        swarm: Swarm,
        places: Places,
        contacts: Contacts,
        guard: Guard,
        gossip: Gossip,
    ) -> None:
        self._host = host
        self._swarm = swarm
        self._places = places
        self._contacts = contacts
        self._guard = guard
        self._gossip = gossip

    def views(self) -> list[PeerView]:
        """Each once: of several connections the best."""
        views = []
        for peer_id, connections in self._swarm.connections.items():
            live = [c for c in connections if isinstance(c, SwarmConn) and not c.is_closed]
            if not live:
                continue
            try:
                peer = decode_peer_id_bytes(peer_id.to_bytes())
            except ValueError:  # no key of ours: it can connect, but not take part
                continue
            direct = [c for c in live if not find_circuit(c)] or live
            outbound = [c for c in direct if c.direction == Direction.OUTBOUND]
            connection = (outbound or direct)[0]
            address = f"{self._places.address_of(peer_id, connection)}/p2p/{encode_peer_id(peer)}"
            lasted_s = int(self._contacts.lasted_s(peer))
            score = self._guard.score(peer)
            elsewhere = self._gossip.is_elsewhere(peer_id)
            views.append(
                PeerView(peer, address, bool(outbound), lasted_s, score=score, elsewhere=elsewhere)
            )
        return views

    def relays(self) -> dict[bytes, str]:
        """Those that carry others, each with the address at which we dialled it."""
        found = {}
        for view in self.views():
            peer_id = ID(encode_peer_id_bytes(view.peer))
            is_dialled = view.outbound and CIRCUIT not in view.address
            if is_dialled and self._host.get_peerstore().supports_protocols(peer_id, [HOP]):
                found[view.peer] = view.address
        return found

    def find_direct(self, peer_id: ID) -> str:
        """Where a peer is seen that is connected without a relay; empty for others."""
        found = self._swarm.get_connections(peer_id)
        live = [c for c in found if isinstance(c, SwarmConn) and not c.is_closed]
        direct = [c for c in live if find_circuit(c) is None]
        return self._places.address_of(peer_id, direct[0]) if direct else ""

    def close(self, peer: bytes) -> list[str]:
        """End all connections of a peer; the hosts from which it had dialled."""
        found = self._swarm.get_connections(ID(encode_peer_id_bytes(peer)))
        sockets = [c.muxed_conn.socket for c in found if isinstance(c.muxed_conn, PatientYamux)]
        hosts = [socket.inbound_host for socket in sockets if socket.inbound_host]
        for socket in sockets:
            socket.abort()
        return hosts
