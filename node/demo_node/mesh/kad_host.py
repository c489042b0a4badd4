"""What the library's kad-dht is given for a host: it sees and reaches what ours lets it. Trio code.

Under the real host it would dial whomever a stranger names, wherever that is (traps 9, 10, 28), by
addresses that it shares with everybody else, on /ipfs/kad/1.0.0 (trap 13), and read messages of 4
MiB for as long as they come. Here every message passes `kad_frames` both ways; streams go to peers
that are connected, and while we ask something to a few others, which are dialled as anybody is.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

import trio
from libp2p.abc import IHost, INetStream
from libp2p.custom_types import StreamHandlerFn, TProtocol
from libp2p.io.exceptions import IncompleteReadError, MessageTooLarge
from libp2p.kad_dht.common import PROTOCOL_ID
from libp2p.kad_dht.pb.kademlia_pb2 import Message
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.stream.exceptions import StreamEOF
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStoreError
from libp2p.protocol_muxer.multiselect_client import MultiselectClient
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.utils.varint import encode_varint_prefixed, read_varint_prefixed_bytes_limited
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from demo_node.mesh import bounds, kad_frames
from demo_node.mesh.allowance import Allowance
from demo_node.mesh.blob_frames import Garbage
from demo_node.mesh.peer_id import decode_peer_id_bytes
from demo_node.mesh.streams import read_ahead
from demo_node.mesh.yamux import blame
from demo_node.ports import Offence, Unreachable

PROTOCOL: Final = TProtocol("/demo-node/kad/1")

Take = Callable[[bytes], bytes]
"""A message as it came -> what the library is shown of it. Raises Garbage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Links:
    """What is needed of the mesh. Addresses are without peer id, but for `dial`'s.

    `find_address`: where a connected peer is seen; empty for others. `dial` raises Unreachable.
    """

    swarm: Swarm
    find_address: Callable[[ID], str]
    own_addresses: Callable[[], Sequence[str]]
    dial: Callable[[str], Awaitable[object]]


@dataclass(slots=True)
class Query:
    """One question to the DHT, and what it may cost yet."""

    asked: int = 0
    dialled: set[ID] = field(default_factory=set)
    answered: set[ID] = field(default_factory=set)

    def take_dial(self, peer_id: ID) -> None:
        """One more peer is dialled. Raises Unreachable where those were enough."""
        if len(self.dialled) >= bounds.KAD_DIALS_MAX:
            raise Unreachable("enough peers were dialled for one question")
        self.dialled.add(peer_id)

    def take_stream(self) -> None:
        """One more peer is asked. Raises Unreachable where those were enough."""
        if self.asked >= bounds.KAD_ASKED_MAX:
            raise Unreachable("enough peers were asked for one question")
        self.asked += 1


@dataclass(slots=True)
class _Entry:
    until_s: float
    addresses: list[str]
    met: bool = False


class Book:
    """Where peers are said to be, full addresses, those first that were told first.

    Kept apart from the host's own: this is hearsay. Who has spoken the protocol with us is met.
    """

    def __init__(self) -> None:
        self._entries: dict[bytes, _Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def hear(self, peer: bytes, addresses: Iterable[str], *, met: bool = False) -> None:
        """Take addresses into account, a few for each peer, until they are an hour old."""
        now_s = trio.current_time()
        entry = self._entries.get(peer)
        if entry is None or entry.until_s < now_s:
            entry = self._entries[peer] = _Entry(now_s + bounds.KAD_PEER_S, [])
        entry.met |= met
        known = [*addresses, *entry.addresses] if met else [*entry.addresses, *addresses]
        entry.addresses = list(dict.fromkeys(known))[: kad_frames.ADDRESSES_MAX]
        if len(self._entries) > bounds.KAD_PEERS_MAX:
            self._forget_some()

    def find(self, peer: bytes) -> list[str]:
        """Where it is said to be."""
        entry = self._entries.get(peer)
        return entry.addresses if entry and entry.until_s >= trio.current_time() else []

    def has_met(self, peer: bytes) -> bool:
        """Did it speak the protocol with us?"""
        entry = self._entries.get(peer)
        return entry is not None and entry.met

    def _forget_some(self) -> None:
        """A quarter, so that it is seldom done: hearsay first, the oldest first."""
        ranked = sorted(
            self._entries, key=lambda p: (self._entries[p].met, self._entries[p].until_s)
        )
        for peer in ranked[: bounds.KAD_PEERS_MAX // 4]:
            del self._entries[peer]


class KadStream:
    """A stream as the library's kad-dht uses it, whole messages each way."""

    def __init__(self, stream: INetStream, seen_at: str, take: Take | None = None) -> None:
        """`seen_at`: where the peer is. Without `take` it is we who ask."""
        self._stream = stream
        self._ahead = read_ahead(stream)
        self._seen_at = seen_at
        self._take = take
        self._shown = b""
        self._unsent = b""
        self._asked: int | None = None
        self._answered = False
        self.heard: kad_frames.Heard = lambda peer, addresses: None
        self.on_answer: Callable[[], None] = lambda: None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def read(self, n: int | None = None) -> bytes:
        """At most `n` bytes of the next message; none at the end."""
        if not self._shown:
            self._shown = await self._take_next()
        end = len(self._shown) if n is None or n < 0 else n
        piece, self._shown = self._shown[:end], self._shown[end:]
        return piece

    async def write(self, data: bytes) -> None:
        """What is complete of what the library has written so far, for this peer."""
        self._unsent += data
        size, start = _read_length(self._unsent)
        if start and len(self._unsent) >= start + size:
            raw, self._unsent = self._unsent[start : start + size], self._unsent[start + size :]
            self._asked = kad_frames.read_type(raw)
            told = kad_frames.tell(raw, self._seen_at)
            await self._stream.write(encode_varint_prefixed(told))

    async def close(self) -> None:
        """Close the stream, or reset it where the answer has not come: it would stay open."""
        is_told = self._take is not None or self._answered
        if self._asked == Message.ADD_PROVIDER and not is_told:
            with trio.move_on_after(bounds.RESET_S):  # the library does not wait for it
                is_told = bool(await self.read())
        with trio.CancelScope(shield=True), trio.move_on_after(bounds.RESET_S):
            await (self._stream.close() if is_told else self._stream.reset())

    async def _take_next(self) -> bytes:
        try:
            raw = await read_varint_prefixed_bytes_limited(self._ahead, kad_frames.FRAME_BYTES_MAX)
            shown = self._show(raw)
        except (StreamEOF, IncompleteReadError):
            return b""
        except Garbage as error:
            if error.offence is not None:
                blame(self._stream.muxed_conn, error.offence)
            raise
        except MessageTooLarge:
            blame(self._stream.muxed_conn, Offence.GARBAGE)
            raise
        return encode_varint_prefixed(shown)

    def _show(self, raw: bytes) -> bytes:
        if self._take is not None:
            return self._take(raw)
        assert self._asked is not None
        shown = kad_frames.take_reply(raw, self._asked, self._seen_at, self.heard)
        self._answered = True
        self.on_answer()
        return shown


class KadHost:
    """The host, and the peer store, that the library's kad-dht works with."""

    def __init__(self, host: IHost, links: Links) -> None:
        self._host = host
        self._links = links
        self._serving: Counter[bytes] = Counter()
        self._paces: dict[bytes, Allowance] = {}
        self.book = Book()
        self.query: Query | None = None

    # What the library asks of a host.

    def get_id(self) -> ID:
        """Our own."""
        return self._host.get_id()

    def get_addrs(self) -> list[Multiaddr]:
        """What peers are told of us; to each what is for it."""
        return [Multiaddr(address) for address in self._links.own_addresses()]

    def get_peerstore(self) -> "KadHost":
        """This is one, too."""
        return self

    def get_connected_peers(self) -> list[ID]:
        """Those who speak the protocol, or have not said yet what they speak."""
        return [p for p in self._links.swarm.connections if self._live(p) and self._may_speak(p)]

    def set_stream_handler(self, protocol: TProtocol, handler: StreamHandlerFn) -> None:
        """Serve under a name of our own: the library's is that of every kad network (trap 13)."""
        assert protocol == PROTOCOL_ID

        async def serve(stream: INetStream) -> None:
            await self._serve(stream, handler)

        self._host.set_stream_handler(PROTOCOL, serve)

    async def new_stream(self, peer_id: ID, protocols: Sequence[TProtocol]) -> INetStream:
        """A stream to a peer that is connected, or that one of our questions has led to.

        Raises Unreachable, or what streams do.
        """
        is_kad = list(protocols) == [PROTOCOL_ID]
        if self.query is not None and is_kad:
            self.query.take_stream()
        if not self._live(peer_id):
            await self._reach(peer_id)
        live = self._live(peer_id)
        if not live:
            raise Unreachable("it has gone again")
        # Not by the host: that would dial, if the connection ended just now.
        stream = await live[0].new_stream()
        try:
            chosen = await MultiselectClient().select_one_of(
                [PROTOCOL] if is_kad else protocols, MultiselectCommunicator(stream)
            )
        except BaseException:
            with trio.CancelScope(shield=True), trio.move_on_after(bounds.RESET_S):
                await stream.reset()
            raise
        stream.set_protocol(chosen)
        return self._wrap(peer_id, stream) if is_kad else stream

    # What the library asks of a peer store.

    def addrs(self, peer_id: ID) -> list[Multiaddr]:
        """Where a peer is seen, else where it is said to be."""
        seen = self._links.find_address(peer_id)
        told = self.book.find(_find_key(peer_id))
        return [Multiaddr(where) for where in [seen] * bool(seen) or map(_cut, told)]

    def add_addrs(self, peer_id: ID, addresses: Sequence[Multiaddr], ttl: int = 0) -> None:
        """Nothing: what was heard, and of whom, the book knows."""

    def peer_ids(self) -> list[ID]:
        """None: who is connected is asked, and who is in the table."""
        return []

    def get_protocols(self, peer_id: ID) -> list[str]:
        """The protocol, of whom we have met. Others are not taken into the table."""
        return [str(PROTOCOL_ID if self.book.has_met(_find_key(peer_id)) else PROTOCOL)]

    def get_peer_record(self, peer_id: ID) -> None:
        """None: signed lists of addresses are refused when a clock was set back (trap 42)."""

    # Ours.

    async def _reach(self, peer_id: ID) -> None:
        """Dial a peer where others say that it is. Raises Unreachable."""
        told = [a for a in self.book.find(_find_key(peer_id)) if not a.startswith("/dns")]
        if self.query is None or not told:
            raise Unreachable("it is not connected, and not to be dialled")
        self.query.take_dial(peer_id)
        *others, last = told
        for address in others:
            try:
                await self._links.dial(address)
                return
            except Unreachable:
                continue
        await self._links.dial(last)

    def _wrap(self, peer_id: ID, stream: INetStream) -> INetStream:
        query = self.query
        wrapped = KadStream(stream, self._links.find_address(peer_id))

        def on_answer() -> None:
            self._meet(peer_id)
            if query is not None:
                query.answered.add(peer_id)

        wrapped.heard, wrapped.on_answer = self.book.hear, on_answer
        return cast(INetStream, wrapped)

    async def _serve(self, stream: INetStream, handler: StreamHandlerFn) -> None:
        peer_id = stream.muxed_conn.peer_id
        try:
            peer = decode_peer_id_bytes(peer_id.to_bytes())
        except ValueError:
            peer = b""
        if not peer or self._serving[peer] >= bounds.KAD_STREAMS_PER_PEER_MAX:
            await stream.reset()
            return
        seen_at = self._links.find_address(peer_id)
        self._meet(peer_id)

        def take(raw: bytes) -> bytes:
            return kad_frames.take_request(raw, peer_id.to_bytes(), seen_at)

        self._serving[peer] += 1
        try:
            with trio.move_on_after(bounds.KAD_SERVE_S) as serving:
                await handler(cast(INetStream, _Paced(stream, seen_at, take, self._pace(peer))))
            if serving.cancelled_caught:
                await stream.reset()
        finally:
            self._serving[peer] -= 1
            self._serving = +self._serving

    def _meet(self, peer_id: ID) -> None:
        seen = self._links.find_address(peer_id)
        self.book.hear(_find_key(peer_id), [f"{seen}/p2p/{peer_id}"] if seen else [], met=True)

    def _pace(self, peer: bytes) -> Allowance:
        now_s = trio.current_time()
        if len(self._paces) > 2 * bounds.CONNECTIONS_MAX:
            self._paces = {p: kept for p, kept in self._paces.items() if kept.debt_s(now_s)}
        fresh = Allowance(bounds.KAD_MESSAGES_BURST, bounds.KAD_MESSAGES_PER_S, now_s)
        return self._paces.setdefault(peer, fresh)

    def _may_speak(self, peer_id: ID) -> bool:
        try:
            spoken = self._host.get_peerstore().get_protocols(peer_id)
        except PeerStoreError:  # it has not told us yet
            spoken = []
        return not spoken or PROTOCOL in spoken

    def _live(self, peer_id: ID) -> list[SwarmConn]:
        found = self._links.swarm.get_connections(peer_id)
        return [c for c in found if isinstance(c, SwarmConn) and not c.is_closed]


class _Paced(KadStream):
    """One on which a peer asks: it waits for its turn."""

    def __init__(self, stream: INetStream, seen_at: str, take: Take, pace: Allowance) -> None:
        super().__init__(stream, seen_at, take)
        self._pace = pace

    async def _take_next(self) -> bytes:
        now_s = trio.current_time()
        await trio.sleep(self._pace.debt_s(now_s))
        self._pace.take(1, now_s)
        return await super()._take_next()


def _find_key(peer_id: ID) -> bytes:
    """The key of a peer; empty where it has none of ours."""
    try:
        return decode_peer_id_bytes(peer_id.to_bytes())
    except ValueError:
        return b""


def _cut(address: str) -> str:
    return address.rpartition("/p2p/")[0]


def _read_length(raw: bytes) -> tuple[int, int]:
    """The length that the library wrote before a message, and where that begins; 0 for not yet."""
    size = 0
    for at, byte in enumerate(raw):
        size |= (byte & 0x7F) << 7 * at
        if byte < 0x80:
            return size, at + 1
    return 0, 0
