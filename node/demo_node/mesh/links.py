"""Whom gossip goes to when a peer has several connections, or comes back over another. Trio code.

The library keeps one outbound gossip stream for each peer, opened on whichever connection came
first. When that connection is dead without anybody having noticed, or when a second node with the
same key connects, the newcomer is sent nothing at all, not even our topics (traps 40 and 41).
Here every live connection of a peer carries gossip, and a silent one makes way for a new one.
"""

import time
from contextvars import ContextVar
from typing import Any, Final

import trio
from google.protobuf.message import DecodeError
from libp2p.abc import IHost, IMuxedConn, INetStream
from libp2p.exceptions import BaseLibp2pError, ParseError
from libp2p.io.exceptions import IOException, MessageTooLarge
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.exceptions import SwarmException
from libp2p.network.stream.exceptions import StreamEOF
from libp2p.peer.id import ID
from libp2p.protocol_muxer.multiselect_client import MultiselectClient
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.pubsub.rpc_queue import RpcQueue
from libp2p.rcmgr import Direction
from libp2p.utils.varint import encode_varint_prefixed, read_varint_prefixed_bytes_limited

from demo_node.mesh import bounds
from demo_node.mesh.allowance import GossipAllowance, make_join_patience
from demo_node.mesh.streams import read_ahead
from demo_node.mesh.yamux import PatientYamux, blame, mark
from demo_node.ports import Offence, Use

_LOST: Final = (BaseLibp2pError, trio.TooSlowError, OSError)
"""What a stream's operations raise when the connection has gone."""

_reading: ContextVar[IMuxedConn] = ContextVar("reading")
"""The connection whose gossip this task reads."""


def blame_forwarder(offence: Offence) -> None:
    """Whoever sent the gossip that this task handles; nobody where it is our own."""
    blame(_reading.get(None), offence)


class LinkQueue(RpcQueue):
    """What waits to be sent to a peer, by every connection it has."""

    def __init__(self) -> None:
        # The library's 32 are less than the headers of a large run at one moment (trap 30).
        super().__init__(max_size=bounds.GOSSIP_QUEUE_MAX)
        self.others: dict[IMuxedConn, RpcQueue] = {}

    def push(self, rpc: rpc_pb2.RPC, priority: bool = False) -> bool:
        """Queue for every connection; the answer is the first one's."""
        for queue in self.others.values():
            queue.push(rpc, priority)
        return super().push(rpc, priority)

    def close(self) -> None:
        """Let every sender end."""
        for queue in self.others.values():
            queue.close()
        super().close()


class LinkedPubsub(Pubsub):
    """Gossip that follows its peers from one connection to the next."""

    def __init__(self, host: IHost, router: GossipSub, **settings: Any) -> None:
        super().__init__(host, router, **settings)
        # The library begins with the seconds since 1970: a node that had published more than one
        # message a second would, after a restart, repeat numbers that its peers have seen, and so
        # would a second node with the same key. They would take its messages for old ones.
        self.counter = time.time_ns()
        self._welcoming: dict[ID, trio.Lock] = {}
        self._told: dict[IMuxedConn, set[str]] = {}
        self._reads: set[INetStream] = set()
        self._paces: dict[ID, GossipAllowance] = {}
        self.told: set[ID] = set()
        """Peers that said of any topic that they take part in it."""
        self._joins = make_join_patience(0.0)
        self.join_topic = ""
        """Where peers ask to be let in; empty before a run was joined."""

    def has_several(self, peer_id: ID) -> bool:
        """Does gossip go to this key by more than one connection?"""
        queue = self.peer_queues.get(peer_id)
        return isinstance(queue, LinkQueue) and bool(queue.others)

    async def continuously_read_stream(self, stream: INetStream) -> None:
        """Read what a peer sends, and remember by which connection it told its topics.

        As the library does, but for three things: it reads ahead, where the library asks for each
        byte of a length; it does at once what the library starts a task for with each message; and
        what broke off is begun again.
        """
        _reading.set(stream.muxed_conn)
        mark(stream, Use.GOSSIP)
        peer_id, ahead = stream.muxed_conn.peer_id, read_ahead(stream)
        self._reads.add(stream)
        try:
            while self.manager.is_running:
                raw = await read_varint_prefixed_bytes_limited(ahead, self.max_inbound_rpc_size)
                rpc = rpc_pb2.RPC.FromString(raw)
                await self._keep_pace(peer_id, rpc)
                await self._on_rpc(peer_id, rpc)
        except MessageTooLarge:
            blame(stream.muxed_conn, Offence.GARBAGE)
            await stream.reset()
            self._handle_dead_peer(peer_id)
        except StreamEOF:
            pass  # the peer has ended it
        except DecodeError:
            blame(stream.muxed_conn, Offence.GARBAGE)
            raise ParseError("no message of gossip's") from None  # to who called us
        except IOException:
            # It broke off. The library waits for the last connection to end: of two that crossed,
            # what we send may have been on this one, and would have no other until then.
            self._handle_dead_peer(peer_id)
        finally:
            self._reads.discard(stream)
            self._told.pop(stream.muxed_conn, None)

    async def begin_again(self, peer_id: ID) -> None:
        """Open gossip anew in both directions: each side tells the other its topics once more."""
        for stream in [s for s in self._reads if s.muxed_conn.peer_id == peer_id]:
            with trio.move_on_after(bounds.RESET_S):
                await stream.reset()  # raises nothing
        self._handle_dead_peer(peer_id)

    async def _keep_pace(self, peer_id: ID, rpc: rpc_pb2.RPC) -> None:
        """Let a peer wait that says more than anybody has to say, until its connection fills up.

        What is honest is not lost by it, only late: whoever is flooded passes on what is left.
        """
        now_s = trio.current_time()
        pace = self._find_pace(peer_id, now_s)
        own = sum(message.from_id == peer_id.to_bytes() for message in rpc.publish)
        for _ in range(own):
            if pace.take_own(now_s):
                blame_forwarder(Offence.FLOOD)
        control = rpc.control
        told = len(control.graft) + len(control.prune) + len(control.ihave) + len(control.iwant)
        wait_s = pace.take(1 + len(rpc.publish) + told, now_s)
        if wait_s:
            await trio.sleep(wait_s)

    def _find_pace(self, peer_id: ID, now_s: float) -> GossipAllowance:
        if len(self._paces) > 2 * bounds.CONNECTIONS_MAX:
            self._paces = {p: kept for p, kept in self._paces.items() if p in self.peers}
        return self._paces.setdefault(peer_id, GossipAllowance(now_s))

    def _has_room(self, peer_id: ID, message: rpc_pb2.Message) -> bool:
        """Is it no join, or not one too many? Before anything is done for it that costs.

        Joins are rightly signed by whomever they name, so nothing else tells a flood of them.
        """
        if self.join_topic not in message.topicIDs or self._is_msg_seen(message):
            return True
        now_s = trio.current_time()
        theirs = self._find_pace(peer_id, now_s).joins
        if not theirs.take(now_s):
            if theirs.is_exhausted:
                blame_forwarder(Offence.FLOOD)
            return False
        return self._joins.take(now_s)

    async def _on_rpc(self, peer_id: ID, rpc: rpc_pb2.RPC) -> None:
        for message in rpc.publish:
            if self._is_subscribed_to_msg(message) and self._has_room(peer_id, message):
                await self.push_msg(peer_id, message)
            await trio.lowlevel.checkpoint()  # one frame may hold a thousand
        if not rpc.publish:
            await trio.lowlevel.checkpoint()  # as many empty ones fit into one read
        if len(rpc.subscriptions) <= self.max_subscriptions_per_rpc:
            for subscription in rpc.subscriptions:
                self.handle_subscription(peer_id, subscription)
        if rpc.HasField("control"):
            self._keep_ours(rpc.control)
            await self.router.handle_rpc(rpc, peer_id)

    def _keep_ours(self, control: rpc_pb2.ControlMessage) -> None:
        """Drop what is about topics that are none of ours, and whom a PRUNE names.

        The library remembers each topic for ever, and dials whom it is told to, wherever that is.
        """
        for entries in (control.graft, control.prune, control.ihave):
            for at in reversed(range(len(entries))):
                if entries[at].topicID not in self.topic_ids:
                    del entries[at]
        for prune in control.prune:
            del prune.peers[:]

    async def handle_sending_messages(
        self, peer_id: ID, stream: INetStream, queue: RpcQueue
    ) -> None:
        """Send what is queued for a peer, by its first connection, until it wants to begin again.

        The library finds out with its next write. Where nobody has anything to say, never.
        """
        mark(stream, Use.GOSSIP)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._notice_reset, peer_id, stream)
            await super().handle_sending_messages(peer_id, stream, queue)
            nursery.cancel_scope.cancel()

    async def _notice_reset(self, peer_id: ID, stream: INetStream) -> None:
        try:
            await stream.read(1)  # nobody answers on it
        except StreamEOF:
            pass  # so it says
        except _LOST:
            if self.peers.get(peer_id) is stream:
                self._handle_dead_peer(peer_id)

    def handle_subscription(self, origin_id: ID, sub_message: rpc_pb2.RPC.SubOpts) -> None:
        """A peer tells that it takes part in a topic, or no longer."""
        if sub_message.subscribe:
            self.told.add(origin_id)
        super().handle_subscription(origin_id, sub_message)
        if (connection := _reading.get(None)) is None:
            return
        told = self._told.setdefault(connection, set())
        if not sub_message.subscribe:
            told.discard(sub_message.topicid)
        elif origin_id in self.peer_topics.get(sub_message.topicid, ()):  # within the limits
            told.add(sub_message.topicid)

    def _handle_dead_peer(self, peer_id: ID) -> None:
        """Forget the peer, or begin again on a connection that lives, with what it told there.

        The library calls this when a write fails or the last connection has ended.
        """
        self.told.discard(peer_id)
        topics = {t for c in self._live(peer_id) for t in self._told.get(c.muxed_conn, ())}
        super()._handle_dead_peer(peer_id)
        for topic in topics:
            self.handle_subscription(peer_id, rpc_pb2.RPC.SubOpts(subscribe=True, topicid=topic))

    async def handle_dead_peer_queue(self) -> None:
        """When a connection has ended: forget its peer, or begin again on another that it has.

        The library does the first only, and finds out about the second when it next has something
        to send and a write fails.
        """
        async with self.dead_peer_receive_channel as ended:
            self.event_handle_dead_peer_queue_started.set()
            async for peer_id in ended:
                if not self._peer_is_connected(peer_id):
                    self._handle_dead_peer(peer_id)
                self._leave_what_ended(peer_id)

    def _leave_what_ended(self, peer_id: ID) -> None:
        """Begin again where what goes to a peer would go to a connection that has closed."""
        first = self.peers.get(peer_id)
        if first is not None and first.muxed_conn.is_closed:
            self._handle_dead_peer(peer_id)

    async def _handle_new_peer(self, peer_id: ID) -> None:
        """Open gossip to a peer, by each connection it has."""
        lock = self._welcoming.setdefault(peer_id, trio.Lock())
        try:
            async with lock:
                await self._drop_silent(peer_id)
                await self._drop_crossing(peer_id)
                told = set(self.topic_ids)
                try:
                    await super()._handle_new_peer(peer_id)
                except _LOST as error:  # of these the library tries only two kinds again
                    raise SwarmException("no gossip stream was opened") from error
                self._tell_of(set(self.topic_ids) - told, peer_id)
                self._link_others(peer_id)
                self._leave_what_ended(peer_id)  # it may have closed while the stream was opened
        finally:
            if not lock.statistics().tasks_waiting and not lock.locked():
                self._welcoming.pop(peer_id, None)

    def _tell_of(self, topics: set[str], peer_id: ID) -> None:
        """A run was joined while the stream was opened: too late for the first message on it, and
        the library tells those only of whom it has a stream.
        """
        queue = self.peer_queues.get(peer_id)
        if topics and queue is not None:
            subscriptions = [
                rpc_pb2.RPC.SubOpts(subscribe=True, topicid=topic) for topic in sorted(topics)
            ]
            queue.push(rpc_pb2.RPC(subscriptions=subscriptions))

    async def _drop_silent(self, peer_id: ID) -> None:
        """End connections that answer no more: a peer that lost power has said no goodbye."""
        older = self._live(peer_id)[:-1]
        async with trio.open_nursery() as nursery:
            for connection in older:
                assert isinstance(connection.muxed_conn, PatientYamux)
                nursery.start_soon(connection.muxed_conn.drop_if_silent)

    async def _drop_crossing(self, peer_id: ID) -> None:
        """Of two connections that two hosts dialled at the same moment, keep one.

        That of the smaller id; its other end does not need to know. Two that are further apart in
        time may be those of two hosts with one key, and stay.
        """
        live = self._live(peer_id)
        mine = [c for c in live if c.direction == Direction.OUTBOUND]
        theirs = [c for c in live if c.direction == Direction.INBOUND]
        if len(live) != 2 or not mine or not theirs:
            return
        apart_s = abs(mine[0]._created_at - theirs[0]._created_at)
        if self.my_id.to_bytes() > peer_id.to_bytes() and apart_s < bounds.CROSSING_S:
            await mine[0].close()

    def _link_others(self, peer_id: ID) -> None:
        first, queue = self.peers.get(peer_id), self.peer_queues.get(peer_id)
        if first is None or not isinstance(queue, LinkQueue):
            return
        for connection in self._live(peer_id):
            other = connection.muxed_conn
            if other is not first.muxed_conn and other not in queue.others:
                queue.others[other] = RpcQueue(max_size=bounds.GOSSIP_QUEUE_MAX)
                self.manager.run_task(self._send_to_other, connection, queue)

    async def _send_to_other(self, connection: SwarmConn, queue: LinkQueue) -> None:
        """Send what is queued for a peer by one more of its connections."""
        other = queue.others[connection.muxed_conn]
        try:
            stream = await connection.new_stream()
            chosen = await MultiselectClient().select_one_of(
                self.protocols, MultiselectCommunicator(stream)
            )
            stream.set_protocol(chosen)
            mark(stream, Use.GOSSIP)
            rpc: rpc_pb2.RPC | None = self.get_hello_packet()
            while rpc is not None:
                await stream.write(encode_varint_prefixed(rpc.SerializeToString()))
                rpc = await other.pop()
        except _LOST:
            pass
        finally:
            queue.others.pop(connection.muxed_conn, None)

    def _live(self, peer_id: ID) -> list[SwarmConn]:
        """The peer's connections, the oldest first."""
        connections = self.host.get_network().get_connections(peer_id)
        return [
            c
            for c in connections
            if isinstance(c, SwarmConn) and not c.is_closed and not c.muxed_conn.is_closed
        ]
