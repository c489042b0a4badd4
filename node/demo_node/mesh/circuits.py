"""Connections by way of relays: made, taken, and room for them reserved. Trio code."""

import time
from collections.abc import Callable

import trio
from libp2p.abc import IHost, INetStream
from libp2p.connection_types import ConnectionType
from libp2p.exceptions import BaseLibp2pError
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.relay.circuit_v2.config import RelayConfig
from libp2p.relay.circuit_v2.protocol import STOP_PROTOCOL_ID, CircuitV2Protocol
from libp2p.relay.circuit_v2.transport import CircuitV2Transport, TrackedRawConnection
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from demo_node.mesh import bounds
from demo_node.mesh.addresses import CIRCUIT
from demo_node.mesh.circuit import CircuitStream
from demo_node.mesh.relaying import HOP
from demo_node.mesh.transport import MeteredTCP
from demo_node.mesh.yamux import PatientYamux, pace


class NoCircuit(BaseLibp2pError):
    """No way by that relay."""


class Circuits(CircuitV2Protocol):
    """Both ends of circuits that others carry."""

    def __init__(
        self, host: IHost, swarm: Swarm, tcp: MeteredTCP, find_place: Callable[[ID], str]
    ) -> None:
        """`find_place`: where a connected peer is seen, with its id; empty for none."""
        super().__init__(host)
        self._swarm = swarm
        self._tcp = tcp
        self._find_place = find_place
        self._client = CircuitV2Transport(host, self, RelayConfig())
        self.reserved_until_s: dict[ID, float] = {}
        """Relays that may bring circuits, by the monotonic clock."""
        self.nursery: trio.Nursery | None = None
        host.set_stream_handler(STOP_PROTOCOL_ID, self._handle_stop_stream)

    async def dial(self, relay_id: ID, peer_id: ID) -> None:
        """Connect with a peer by way of a connected relay. Raises as `swarm.dial_addr`."""
        place = Multiaddr(f"/p2p/{relay_id}/p2p-circuit/p2p/{peer_id}")
        try:
            raw = await self._client._dial_via_circuit_addr(place, PeerInfo(peer_id, []))
        except Exception as error:  # of any kind, as in the library
            raise NoCircuit(f"the relay makes no connection: {error}") from None
        assert isinstance(raw, TrackedRawConnection)
        ours = self._wrap(raw._wrapped.stream, relay_id, initiator=True)
        try:
            conn = await self._swarm.upgrade_outbound_raw_conn(ours, peer_id)
        except BaseException:
            with trio.CancelScope(shield=True):
                await ours.close()
            raise
        conn.set_transport_info(ours.get_transport_addresses(), ConnectionType.RELAYED)

    async def reserve(self, relay_id: ID) -> float:
        """Have a connected relay bring circuits; for how many seconds. Raises NoCircuit."""
        try:
            with trio.fail_after(bounds.HOP_S):
                stream = await self.host.new_stream(relay_id, [HOP])
                try:
                    done = await self._client._make_reservation(stream, relay_id)
                finally:
                    await stream.close()
        except Exception as error:
            raise NoCircuit(f"no reservation: {error}") from None
        if not done:
            raise NoCircuit("the relay has no room")
        left_s = self._client._reservations[relay_id] - time.time()  # by the relay's clock
        left_s = min(max(left_s, 0.0), bounds.RESERVATION_S)
        self.reserved_until_s[relay_id] = time.monotonic() + left_s
        return left_s

    def release(self, relay_id: ID) -> None:
        """Take no more circuits from a relay."""
        self.reserved_until_s.pop(relay_id, None)

    async def _handle_stop_stream(self, stream: INetStream) -> None:
        """Take a circuit that a relay brings. The library takes any, of anybody, without end."""
        until_s = self.reserved_until_s.get(stream.muxed_conn.peer_id, 0.0)
        has_room = len(self._tcp.circuits) < bounds.CIRCUITS_MAX
        if time.monotonic() >= until_s or not has_room:
            await stream.reset()
            return
        await super()._handle_stop_stream(stream)

    async def handle_incoming_connection(self, stream: INetStream, remote_peer_id: bytes) -> None:
        """Do the handshake with whoever is at the other end: its key is what Noise shows.

        The library names this node itself as the relay.
        """
        raw = self._wrap(stream, stream.muxed_conn.peer_id, initiator=False)
        try:
            muxed = await self._swarm.upgrade_inbound_raw_conn(raw, Multiaddr("/p2p-circuit"))
        except BaseException:
            with trio.CancelScope(shield=True):
                await raw.close()
            raise
        for conn in self._swarm.get_connections(muxed.peer_id):
            if isinstance(conn, SwarmConn) and conn.muxed_conn is muxed:
                conn.set_transport_info(raw.get_transport_addresses(), ConnectionType.RELAYED)

    def _wrap(self, stream: object, relay_id: ID, *, initiator: bool) -> RawConnection:
        assert isinstance(stream, INetStream)
        below = stream.muxed_conn
        assert isinstance(below, PatientYamux)
        pace(stream)
        place = f"{self._find_place(relay_id)}{CIRCUIT}"
        circuit = CircuitStream(stream, below.socket, self._tcp, self._reset, place)
        addresses = [Multiaddr(place)]
        return RawConnection(circuit, initiator, ConnectionType.RELAYED, addresses)

    def _reset(self, stream: INetStream) -> None:
        if self.nursery is None:
            return  # all of the mesh has ended
        self.nursery.start_soon(_reset_soon, stream)


async def _reset_soon(stream: INetStream) -> None:
    with trio.move_on_after(bounds.RESET_S):
        await stream.reset()  # raises nothing
