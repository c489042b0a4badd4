"""The mesh of a real node: `ports.Mesh` over py-libp2p, a trio guest of the asyncio loop."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, TypeVar

import trio
from libp2p.exceptions import BaseLibp2pError
from libp2p.peer.id import ID
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from demo_node.mesh.addresses import CIRCUIT, expand_address, split_circuit
from demo_node.mesh.blob import BlobProtocol
from demo_node.mesh.circuits import Circuits
from demo_node.mesh.contacts import Contacts
from demo_node.mesh.dial_back import dial_back
from demo_node.mesh.dialling import Dials, check_dial
from demo_node.mesh.gossip import Gossip
from demo_node.mesh.guard import Guard, OnEvent
from demo_node.mesh.guest import Guest, GuestClosed
from demo_node.mesh.host import build_host, close_listeners, get_swarm, listen
from demo_node.mesh.kad import Kad
from demo_node.mesh.kad_counters import KadCounters
from demo_node.mesh.kad_host import Links
from demo_node.mesh.life import Life
from demo_node.mesh.mending import Mender
from demo_node.mesh.pacing import Pacer
from demo_node.mesh.peer_id import decode_peer_id_bytes, encode_peer_id, encode_peer_id_bytes
from demo_node.mesh.peers import Peers
from demo_node.mesh.places import Places, find_circuit, spell
from demo_node.mesh.private import OnStranger
from demo_node.mesh.receiving import Told
from demo_node.mesh.relaying import Relay
from demo_node.mesh.tally import Tally
from demo_node.mesh.transport import MeteredTCP
from demo_node.mesh.uplink_meter import UplinkMeter
from demo_node.observer import Figure
from demo_node.ports import (
    BanView,
    BlobRequest,
    DialResult,
    MeshCounters,
    Offence,
    OnAnswered,
    OnBlob,
    OnGossip,
    OnPiece,
    OnWait,
    PeerChange,
    PeerView,
    Slice,
    Topic,
    Unreachable,
    ignore_answered,
    ignore_piece,
    ignore_wait,
)
from demo_protocol.errors import LocalFault
from demo_protocol.reach import DialBack

T = TypeVar("T")


class Libp2pMesh:
    """One libp2p host. `start`, then anything of `ports.Mesh`; `wait` beside it; `stop` last.

    `seed` is the node's Ed25519 seed, `listen` the multiaddrs to accept connections on, `announce`
    those that peers are told instead (none: the former), `upload_bytes_per_s` and
    `download_bytes_per_s` caps on what is sent and received; 0 is none. `guest` is for several
    meshes in one process: a thread can host only one trio run, so they share it, and who made it
    stops it. `on_event` is told who is banned. With `kad` it is a node of the DHT. `is_relay`: it
    carries bytes of peers that nobody can dial, as far as `carries` says that it is there for them.
    Order of death: end what calls in here, then servers, then `stop`, then the asyncio loop.
    """

    def __init__(
        self,
        seed: bytes,
        listen: Sequence[str] = ("/ip4/127.0.0.1/tcp/0",),
        *,
        announce: Sequence[str] = (),
        upload_bytes_per_s: float = 0,
        download_bytes_per_s: float = 0,
        guest: Guest | None = None,
        swarm_key: bytes = b"",
        on_stranger: OnStranger | None = None,
        on_event: OnEvent = lambda name, **fields: None,
        kad: bool = False,
        is_relay: bool = False,
    ) -> None:
        self._upload, self._download = Pacer(upload_bytes_per_s), Pacer(download_bytes_per_s)
        self._guard = Guard(close=lambda peer: self._peers.close(peer), on_event=on_event)
        self._tcp = tcp = MeteredTCP(
            self._upload,
            self._download,
            self._guard,
            swarm_key=swarm_key,
            on_stranger=on_stranger,
        )
        self._meter = UplinkMeter(tcp.count_acknowledged, tcp.count_unacknowledged)
        self._tally = Tally()
        self._listen = tuple(listen)
        self._announce = tuple(announce)
        self.reached_at: tuple[str, ...] = ()
        self.relayed_at: tuple[str, ...] = ()
        self.carries: Callable[[bytes], bool] = lambda peer: False
        self._host = build_host(seed, self._tcp, self._announce)
        self._swarm = get_swarm(self._host)
        self._contacts = Contacts(self._swarm)
        self._places = Places(self._host, self._swarm)
        self._peer = decode_peer_id_bytes(self._host.get_id().to_bytes())
        self._guard.me = self._peer
        self._life = Life(self._live, self._tcp.abort)
        self._gossip = Gossip(self._host, self._life.fail)
        self._peers = Peers(
            self._host, self._swarm, self._places, self._contacts, self._guard, self._gossip
        )
        self._blobs = BlobProtocol(
            self._host,
            self._answer,
            lambda *what: self._on_answered(*what),
            self._life.fail,
            self._upload,
            self._download,
            self._meter,
        )
        self._circuits = Circuits(self._host, self._swarm, tcp, self._places.find)
        self._relay = Relay(self._host, self._upload, self._may_carry) if is_relay else None
        self._on_blob: OnBlob | None = None
        self._on_answered: OnAnswered = ignore_answered
        self._dials = Dials(self._tally)
        self._kad = self._make_kad() if kad else None
        self._shared_guest = guest
        self._guest: Guest
        self._nursery: trio.Nursery

    @property
    def peer(self) -> bytes:
        """Our own public key."""
        return self._peer

    async def start(self) -> None:
        """Begin to listen. Raises ConfigError where the operator must choose another address."""
        if self._shared_guest is None:
            self._guest = Guest()
            await self._guest.start()
        else:
            self._guest = self._shared_guest
        try:
            await self._life.begin(self._guest)
        except BaseException:
            await self.stop()
            raise

    async def wait(self) -> None:
        """Return when the mesh has ended; raise what ended it. Some task has to watch this."""
        await self._life.wait()

    async def stop(self) -> None:
        """Close every connection and end. Raises nothing; twice is fine."""
        await self._life.end()
        if self._shared_guest is None:
            await self._guest.stop()

    def addresses(self) -> list[str]:
        """Full multiaddrs that others can dial, best first, each ending in /p2p/<peer id>."""
        name = encode_peer_id(self._peer)
        found = self._announce or (*self.reached_at, *self.local_addresses(), *self.relayed_at)
        return [f"{address}/p2p/{name}" for address in dict.fromkeys(found)]

    def local_addresses(self) -> tuple[str, ...]:
        """What this machine itself says of where it listens, without peer id."""
        return tuple(a for t in self.listening() for a in expand_address(t))

    def port(self) -> int:
        """The port that others are told to dial; 0 where there is none."""
        places = [*self._announce, *self.listening()]
        return int(places[0].split("/")[4]) if places else 0

    def listening(self) -> list[str]:
        """The multiaddrs that connections are accepted on, without peer id."""
        found = [a for listener in self._swarm.listeners.values() for a in listener.get_addrs()]
        return [spell(a.to_bytes()) for a in found]

    def peers(self) -> list[PeerView]:
        """Who is connected now, each once."""
        return self._peers.views()

    def counters(self) -> MeshCounters:
        """What was done since start; bytes are those of all TCP streams."""
        came, went = self._contacts.came, self._contacts.went
        return MeshCounters(
            self._tcp.bytes_in,
            self._tcp.bytes_out,
            traffic=dict(self._tcp.totals.bytes),
            pulls=dict(self._tally.pulls),
            dials=dict(self._tally.dials),
            changes={PeerChange.CONNECTED: came, PeerChange.DISCONNECTED: went},
            refused=dict(self._tcp.gate.refused),
            offences=dict(self._guard.offences),
        )

    def serving(self) -> int:
        """Requests of peers that are being answered."""
        return self._blobs.serving()

    def take_uplink(self) -> Slice:
        """The fastest stretch of sending since this was last asked."""
        return self._meter.fastest.take()

    def set_caps(self, upload_bytes_per_s: float, download_bytes_per_s: float) -> None:
        """Other caps from now on; 0 is none."""
        self._upload.bytes_per_s = upload_bytes_per_s
        self._download.bytes_per_s = download_bytes_per_s

    def mesh_peers(self, topic: Topic) -> int:
        """Links of the gossip mesh of a topic. None while peers are connected is an alarm."""
        return self._gossip.mesh_peers(topic)

    def blame(self, peer: bytes, offence: Offence) -> None:
        """The peer did what no honest one does: lower its standing, ban it where that is enough."""
        self._guard.blame(peer, offence)

    def bans(self) -> list[BanView]:
        """Who is kept out now."""
        return self._guard.bans()

    def ban(self, peer: bytes, seconds: float) -> None:
        """Close its connections and keep it out for so long."""
        self._guard.ban(peer, seconds)

    def forgive(self, peer: bytes = b"", host: str = "") -> bool:
        """Hold nothing against a key, or an address, any more; False where nothing was."""
        return self._guard.forgive(peer, host)

    async def join(
        self,
        run_id: bytes,
        on_gossip: OnGossip,
        on_blob: OnBlob,
        on_answered: OnAnswered = ignore_answered,
    ) -> None:
        """Subscribe to the run's topics and begin to serve."""
        if self._on_blob is not None:
            raise LocalFault("a run was joined before")
        self._on_blob, self._on_answered = on_blob, on_answered
        await self._guest.call(self._gossip.join, run_id, on_gossip, self._nursery)

    async def connect(self, address: str) -> bytes:
        """Dial a full multiaddr; return the peer's public key. Raises Unreachable.

        The host is a number: names are looked up by `Peering` (trap 46).
        """
        where, peer = check_dial(address, self._guard)
        if (relay := split_circuit(where)) is not None:
            await self._call(self._dial, *relay)
        await self._call(self._dial, where, peer)
        return peer

    async def publish(self, topic: Topic, message: bytes) -> None:
        """Hand `message` to the gossip mesh. Raises LocalFault over the size limit."""
        await self._guest.call(self._gossip.publish, topic, message)

    async def request(
        self,
        peer: bytes,
        request: BlobRequest,
        *,
        bytes_max: int,
        timeout_s: float,
        on_piece: OnPiece | None = None,
        on_wait: OnWait | None = None,
    ) -> bytes:
        """Pull a blob from a connected peer. Raises Unreachable or NotHeld."""
        with self._tally.pull(request.kind):
            told = Told(on_piece or ignore_piece, on_wait or ignore_wait)
            return await self._call(self._blobs.pull, peer, request, bytes_max, timeout_s, told)

    async def dial_back(self, peer: bytes, port: int) -> DialBack | None:
        """Dial a connected peer at the host it is seen at, and hang up; None: not connected."""
        peer_id = ID(encode_peer_id_bytes(peer))
        return await self._call(dial_back, self._swarm, self._tcp, peer_id, port)

    async def find_members(self, run_id: bytes) -> list[str]:
        """Addresses of nodes that the DHT says are in a run: hearsay. Without a DHT none."""
        return await self._call(self._kad.find, run_id) if self._kad else []

    async def tell_member(self, run_id: bytes) -> None:
        """Have the DHT say that this node is in a run."""
        if self._kad:
            await self._call(self._kad.provide, run_id)

    def kad_counters(self) -> KadCounters:
        """What the DHT was used for, and what it holds here."""
        return self._kad.count() if self._kad else KadCounters()

    def relays(self) -> dict[bytes, str]:
        """Connected peers that carry others, each with the address at which we dialled it."""
        return self._peers.relays()

    async def reserve(self, relay: bytes) -> float:
        """Have a connected relay bring circuits to us: for how many seconds. Raises Unreachable."""
        peer_id = ID(encode_peer_id_bytes(relay))
        try:
            return await self._call(self._circuits.reserve, peer_id)
        except BaseLibp2pError as error:
            raise Unreachable(str(error)) from None

    def relay_figures(self) -> Iterator[Figure]:
        """What this node does as a relay; nothing where it is none."""
        return self._relay.figures() if self._relay else iter(())

    def release(self, relay: bytes) -> None:
        """Take no more circuits from a relay."""
        self._circuits.release(ID(encode_peer_id_bytes(relay)))

    async def _call(self, fn: Callable[..., Awaitable[T]], *args: Any) -> T:
        try:
            return await self._guest.call(fn, *args)
        except GuestClosed as error:
            raise Unreachable(str(error)) from None

    # From here on, trio code.

    async def _live(self) -> None:
        async with (
            self._host.run(listen_addrs=[]),
            background_trio_service(self._gossip.pubsub),  # before any connection (trap 14)
            background_trio_service(self._gossip.router),
            trio.open_nursery() as self._nursery,
        ):
            self._circuits.nursery = self._nursery
            self._nursery.start_soon(self._meter.run)
            await self._gossip.pubsub.wait_until_ready()
            self._nursery.start_soon(Mender(self._gossip).run)
            try:
                await listen(self._host, self._listen)
                await self._life.last()
            finally:
                self._circuits.nursery = None
                if self._tcp.circuits or (self._relay and self._relay.circuits):
                    self._tcp.abort()  # a frame of theirs that is on its way cannot be cancelled
                await close_listeners(self._host)

    def _may_carry(self, peer: bytes, *, reserves: bool) -> bool:
        """Whom nobody can dial cannot bring circuits to others."""
        return self.carries(peer) and not (reserves and self._circuits.reserved_until_s)

    async def _answer(self, peer: bytes, request: BlobRequest) -> bytes | None:
        if self._on_blob is None:
            return None
        return await self._guest.ask(_as_coroutine, self._on_blob, peer, request)

    async def _dial(self, where: str, peer: bytes) -> None:
        """Dial exactly this address, unless the peer is connected by now.

        `host.connect` would not do: it refuses for 60 s after a failure (trap 10), waits 250 ms
        for a second address (trap 9), and dials one old address of the peer instead of this one
        where it remembers several (trap 28).
        """
        peer_id = ID(encode_peer_id_bytes(peer))
        async with self._dials.turn(peer, where):
            relay = split_circuit(where)
            if self._is_connected(peer_id, or_relayed=relay is not None):
                return
            if relay is None:
                await self._swarm.dial_addr(Multiaddr(where), peer_id)
            else:
                await self._circuits.dial(ID(encode_peer_id_bytes(relay[1])), peer_id)
            self._tally.dials[DialResult.CONNECTED] += 1

    async def _dial_heard(self, address: str) -> None:
        """Dial whom the DHT names, by the same rules as anybody, but by no relay."""
        where, peer = check_dial(address, self._guard)
        if split_circuit(where) is not None:
            raise Unreachable(f"{address} leads by way of a relay, and those are for members")
        await self._dial(where, peer)

    def _make_kad(self) -> Kad:
        links = Links(
            swarm=self._swarm,
            find_address=self._peers.find_direct,
            own_addresses=lambda: [
                a.rpartition("/p2p/")[0] for a in self.addresses() if CIRCUIT not in a
            ],
            dial=self._dial_heard,
        )
        return Kad(self._host, links, self._gossip.is_ours)

    def _is_connected(self, peer_id: ID, *, or_relayed: bool = True) -> bool:
        found = self._swarm.get_connections(peer_id)
        return any(not c.is_closed and (or_relayed or find_circuit(c) is None) for c in found)


async def _as_coroutine(on_blob: OnBlob, peer: bytes, request: BlobRequest) -> bytes | None:
    return await on_blob(peer, request)
