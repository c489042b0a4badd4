"""Carries circuits of peers that nobody can dial (`--relay`), within bounds. Trio code.

The messages, the reservations and the handshake of a circuit are the library's (circuit relay v2).
What it lacks is here: whom a relay is there for, how much it does for one and for all, and an end
of each circuit that leaves the others alone (docs/decisions/reachability.md).
"""

import contextlib
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

import trio
from libp2p.abc import IHost, INetStream
from libp2p.peer.id import ID
from libp2p.relay.circuit_v2.pb.circuit_pb2 import HopMessage
from libp2p.relay.circuit_v2.protocol import PROTOCOL_ID, CircuitV2Protocol
from libp2p.relay.circuit_v2.protocol_buffer import StatusCode
from libp2p.relay.circuit_v2.resources import RelayLimits
from libp2p.relay.circuit_v2.utils import read_delimited_msg

from demo_node.mesh import bounds
from demo_node.mesh.allowance import Allowance
from demo_node.mesh.circuit import CircuitStream
from demo_node.mesh.pacing import Pacer
from demo_node.mesh.peer_id import decode_peer_id_bytes
from demo_node.mesh.yamux import PatientYamux, pace, write_whole
from demo_node.observer import Figure

HOP: Final = PROTOCOL_ID
"""Whoever speaks it is a relay."""

PIECE_BYTES: Final = 64 << 10


class MayCarry(Protocol):
    """Is this node there for the peer, to be at an end of a circuit or to be brought them?"""

    def __call__(self, peer: bytes, *, reserves: bool) -> bool:
        """See above."""
        ...


@dataclass(slots=True)
class _Budget:
    """What one circuit has carried, both ways, and what ends it."""

    scope: trio.CancelScope
    bytes: int = 0


class Rates:
    """How often all peers, and each of them, may ask for something."""

    def __init__(self, burst: float, rate: float) -> None:
        self._burst, self._rate = burst, rate
        self._all: Allowance | None = None
        self._each: dict[ID, Allowance] = {}

    def take(self, peer_id: ID, now_s: float) -> bool:
        """One more; False where that is too many."""
        if self._all is None:
            self._all = Allowance(self._burst, self._rate, now_s)
        if len(self._each) > 2 * bounds.CONNECTIONS_MAX:
            self._each.clear()
        part = bounds.ASKING_PEERS_PART
        own = self._each.setdefault(
            peer_id, Allowance(self._burst / part, self._rate / part, now_s)
        )
        if own.debt_s(now_s) or self._all.debt_s(now_s):
            return False
        own.take(1, now_s)
        self._all.take(1, now_s)
        return True


class Relay(CircuitV2Protocol):
    """Answers who asks for a reservation or a circuit."""

    def __init__(self, host: IHost, upload: Pacer, may_carry: MayCarry) -> None:
        limits = RelayLimits(
            duration=math.ceil(bounds.CIRCUIT_S),
            data=bounds.CIRCUIT_BYTES_MAX,
            max_circuit_conns=bounds.CIRCUITS_PER_PEER_MAX,
            max_reservations=bounds.RESERVATIONS_MAX,
            reservation_ttl=bounds.RESERVATION_S,
        )
        super().__init__(host, limits, allow_hop=True)
        self._upload = upload
        self._may_carry = may_carry
        self._reserves = Rates(bounds.RESERVES_BURST, bounds.RESERVES_PER_S)
        self._connects = Rates(bounds.CONNECTS_BURST, bounds.CONNECTS_PER_S)
        self._ends = Counter[ID]()
        self._budgets: dict[INetStream, _Budget] = {}
        self.circuits = 0
        """Carried now, those included that are being made."""
        self.bytes = 0
        """Carried since start, both ways."""
        self.refused = 0
        """Requests for a reservation or a circuit that were answered with no."""
        host.set_stream_handler(HOP, self._handle_hop_stream)

    def figures(self) -> Iterator[Figure]:
        """Levels, and totals since start."""
        yield Figure("demo_relay_reservations", self.count_reservations())
        yield Figure("demo_relay_circuits", self.circuits)
        yield Figure("demo_relay_bytes_total", self.bytes)
        yield Figure("demo_relay_refusals_total", self.refused)

    def count_reservations(self) -> int:
        """Peers that it is there for, and that are connected."""
        manager = self.resource_manager
        return sum(manager.has_reservation(peer_id) for peer_id in list(manager._reservations))

    async def _handle_hop_stream(self, stream: INetStream) -> None:
        """Hear one request. The library hears more on one stream, from anybody and for ever."""
        with trio.fail_after(bounds.HOP_S):
            message = await read_delimited_msg(stream, HopMessage)
        peer_id = stream.muxed_conn.peer_id
        refusal = self._find_refusal(stream, peer_id, message)
        if refusal is not None:
            self.refused += 1
            await self._send_status(stream, refusal, "")
        elif message.type == HopMessage.RESERVE:
            message.ClearField("peer")  # for itself, whatever it says
            await self._handle_reserve(stream, message)
        else:
            await self._carry(stream, peer_id, message)
            return
        await stream.close()

    def _find_refusal(
        self, stream: INetStream, peer_id: ID, message: HopMessage
    ) -> StatusCode | None:
        now_s = trio.current_time()
        manager = self.resource_manager
        reserves = message.type == HopMessage.RESERVE
        if not _is_direct(stream) or not self._may(peer_id, reserves=reserves):
            return StatusCode.PERMISSION_DENIED
        if reserves:
            if not self._reserves.take(peer_id, now_s):
                return StatusCode.RESOURCE_LIMIT_EXCEEDED
            self._forget_gone()
            if not manager.can_accept_reservation(peer_id):
                return StatusCode.RESOURCE_LIMIT_EXCEEDED
            return None
        if message.type != HopMessage.CONNECT:
            return StatusCode.MALFORMED_MESSAGE
        target = ID(message.peer.id)
        if not self._connects.take(peer_id, now_s):
            return StatusCode.RESOURCE_LIMIT_EXCEEDED
        if target == peer_id or not self._may(target) or not manager.has_reservation(target):
            return StatusCode.NO_RESERVATION
        each = max(self._ends[peer_id], self._ends[target])
        if self.circuits >= bounds.CIRCUITS_MAX or each >= bounds.CIRCUITS_PER_PEER_MAX:
            return StatusCode.RESOURCE_LIMIT_EXCEEDED
        return None

    def _may(self, peer_id: ID, *, reserves: bool = False) -> bool:
        try:
            return self._may_carry(decode_peer_id_bytes(peer_id.to_bytes()), reserves=reserves)
        except ValueError:
            return False

    def _forget_gone(self) -> None:
        """A reservation ends with the connection: who is gone must not keep others out."""
        manager = self.resource_manager
        for peer_id in list(manager._reservations):
            if not manager.has_reservation(peer_id):
                del manager._reservations[peer_id]

    async def _carry(self, stream: INetStream, source: ID, message: HopMessage) -> None:
        """Join two streams until one of them ends, or a bound is met."""
        target = ID(message.peer.id)
        message.ClearField("reservation")  # the target's counts, and not the word of who asks
        with self._counted(source, target), trio.move_on_after(bounds.CIRCUIT_S) as scope:
            self._budgets[stream] = _Budget(scope)
            try:
                await self._handle_connect(stream, message)
            finally:
                del self._budgets[stream]
                self._active_relays.pop(source, None)
                self._active_relays.pop(target, None)

    @contextlib.contextmanager
    def _counted(self, *ends: ID) -> Iterator[None]:
        self.circuits += 1
        self._ends.update(ends)
        try:
            yield
        finally:
            self.circuits -= 1
            self._ends.subtract(ends)
            self._ends = +self._ends

    async def _relay_data(
        self,
        src_stream: INetStream,
        dst_stream: INetStream,
        peer_id: ID,
        deadline: float | None = None,
        circuit_data_limit: list[int] | None = None,
    ) -> None:
        """Pass on what comes from one end; the end of either is that of the circuit.

        The library's looks at the time only when something comes, writes a status into what its
        ends have enciphered, and closes another circuit of the same peer.
        """
        budget = self._budgets.get(src_stream) or self._budgets.get(dst_stream)
        assert budget is not None
        pace(src_stream)
        try:
            while True:
                with trio.fail_after(bounds.CIRCUIT_IDLE_S):
                    data = await src_stream.read(PIECE_BYTES)
                budget.bytes += len(data)
                if not data or budget.bytes > bounds.CIRCUIT_BYTES_MAX:
                    break
                await self._upload.wait_turn(len(data))
                with trio.fail_after(bounds.WRITE_STALL_S):
                    await write_whole(dst_stream, data)
                self.bytes += len(data)
        except Exception:
            pass  # it broke off, in one of the library's ways
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(bounds.RESET_S):
                await src_stream.reset()
                await dst_stream.reset()
            budget.scope.cancel()


def _is_direct(stream: INetStream) -> bool:
    conn = stream.muxed_conn
    return isinstance(conn, PatientYamux) and not isinstance(conn.socket, CircuitStream)
