"""The mesh of a node over Go libp2p: `ports.Mesh`, in asyncio; hivemind is in another process."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from demo_node.mesh import bounds
from demo_node.mesh.addresses import decode_address, expand_address, hold_port
from demo_node.mesh.guard import Guard
from demo_node.mesh.hivemind.blobs import Blobs
from demo_node.mesh.hivemind.dial import classify
from demo_node.mesh.hivemind.limits import ANNOUNCE_S, BLOB, FOUND_MAX, LINK
from demo_node.mesh.hivemind.links import Links
from demo_node.mesh.hivemind.pacing import Pacer
from demo_node.mesh.hivemind.places import (
    choose_places,
    find_address,
    is_relay_address,
)
from demo_node.mesh.hivemind.sidecar import Sidecar
from demo_node.mesh.hivemind.streams import Meter
from demo_node.mesh.peer_id import encode_peer_id
from demo_node.mesh.tally import Tally
from demo_node.ports import (
    BanView,
    BlobRequest,
    DialResult,
    Direction,
    MeshCounters,
    Offence,
    OnAnswered,
    OnBlob,
    OnGossip,
    OnPiece,
    OnWait,
    PeerView,
    Topic,
    Unreachable,
    ignore_answered,
    ignore_piece,
)
from demo_protocol.errors import LocalFault
from demo_protocol.limits import PEER_BYTES

OPEN_S: Final = 10.0
"""For a stream to a peer that is connected."""

CONNECTIONS_WANTED: Final = 12
"""Members that the DHT names are dialled while fewer peers are connected."""

OnEvent = Callable[..., None]
"""(name, **fields), as observers take events."""


class HivemindMesh:
    """One p2pd. `start`, then anything of `ports.Mesh`; `wait` beside it; `stop` last.

    `seed` is the node's Ed25519 seed, `listen` the multiaddrs to accept connections on, `announce`
    those that peers are told instead (none: the former), `upload_bytes_per_s` a cap on what is
    sent; 0 is none. `relays`: full multiaddrs of peers that may carry what cannot reach us;
    `is_relay`: whether we carry others'; `discovers`: whether members that the DHT names are
    dialled. `on_event` hears mesh.restarted, with a reason.
    """

    take_uplink = None
    """What p2pd's sockets have got rid of nobody tells: k is the run's, or as the operator says."""

    def __init__(
        self,
        seed: bytes,
        listen: Sequence[str] = ("/ip4/127.0.0.1/tcp/0",),
        *,
        announce: Sequence[str] = (),
        upload_bytes_per_s: float = 0,
        relays: Sequence[str] = (),
        is_relay: bool = False,
        discovers: bool = True,
        on_event: OnEvent = lambda name, **fields: None,
    ) -> None:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        key = Ed25519PrivateKey.from_private_bytes(seed)
        self._peer = key.public_key().public_bytes_raw()
        self._seed = seed
        self._listen = tuple(listen)
        self._announce = tuple(announce)
        self._relays = [relay for relay in relays if is_relay_address(relay)]
        self._is_relay = is_relay
        self._discovers = discovers
        self._on_event = on_event
        self._meter = Meter(Pacer(upload_bytes_per_s))
        self._tally = Tally()
        self._guard = Guard(self._peer, close=self._shut, on_event=on_event)
        self._links = Links(self._meter, self.addresses, self._drop, self._guard.blame, self._fail)
        self._blobs = Blobs(self._open, self._meter, self._fail)
        self._held: list[tuple[str, socket.socket]] = []
        """Where p2pd listens, and what keeps it for the next one when it has died."""
        self._dials: dict[bytes, asyncio.Lock] = {}
        self._tried_s: dict[bytes, float] = {}
        self._run_id = b""
        self._p2pd_pid = 0
        self._sidecar: Sidecar
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended: asyncio.Future[None]

    @property
    def peer(self) -> bytes:
        """Our own public key."""
        return self._peer

    @property
    def pids(self) -> tuple[int, int]:
        """The process that holds hivemind, and p2pd; 0 for one that is not there."""
        return self._sidecar.pid, self._p2pd_pid

    async def start(self) -> None:
        """Begin to listen. Raises ConfigError where the operator must change something."""
        self._ended = asyncio.get_running_loop().create_future()
        try:
            await self._begin()
        except BaseException:
            await self.stop()
            raise

    async def _begin(self) -> None:
        for address in self._listen:
            self._held.append(hold_port(address))
        self._listen = tuple(chosen for chosen, _ in self._held)
        settings: Mapping[str, object] = {
            "seed": self._seed.hex(),
            "listen": self._listen,
            "announce": self._announce,
            "relays": self._relays,
            "is_relay": self._is_relay,
        }
        self._sidecar = Sidecar(settings, self._take, self._lose)
        await self._sidecar.start()
        self._spawn(self._sidecar.run(self._rejoin))
        self._spawn(self._links.watch())

    async def wait(self) -> None:
        """Return when the mesh has ended; raise what ended it. Some task has to watch this."""
        await asyncio.shield(self._ended)

    async def stop(self) -> None:
        """Close every connection and end both processes. Raises nothing; twice is fine."""
        await self._links.stop()
        await self._blobs.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for _, held in self._held:
            held.close()
        if not self._ended.done():
            self._ended.set_result(None)
        self._ended.exception()  # marked as seen: nobody may have been waiting

    def addresses(self) -> list[str]:
        """Full multiaddrs that others can dial, best first, each ending in /p2p/<peer id>."""
        name = encode_peer_id(self._peer)
        found = self._announce or [a for t in self._listen for a in expand_address(t)]
        return [f"{address}/p2p/{name}" for address in dict.fromkeys(found)]

    def set_caps(self, upload_bytes_per_s: float, download_bytes_per_s: float) -> None:
        """Another cap on what is sent from now on, 0 for none; what comes cannot be capped here."""
        self._meter.pacer.set_rate(upload_bytes_per_s)

    def listening(self) -> list[str]:
        """The multiaddrs that connections are accepted on, without peer id."""
        return list(self._listen)

    def peers(self) -> list[PeerView]:
        """Who is connected now, each once."""
        return [
            PeerView(
                link.peer,
                find_address(link),
                link.outbound,
                int(lasted_s),
                score=self._guard.score(link.peer),
            )
            for link, lasted_s in self._links.connected()
        ]

    def counters(self) -> MeshCounters:
        """What was done since start; bytes are those of streams, before p2pd encrypts them."""
        traffic = dict(self._meter.totals.bytes)
        return MeshCounters(
            sum(size for (direction, _), size in traffic.items() if direction is Direction.IN),
            sum(size for (direction, _), size in traffic.items() if direction is Direction.OUT),
            traffic=traffic,
            pulls=dict(self._tally.pulls),
            dials=dict(self._tally.dials),
            changes=dict(self._links.changes),
            offences=dict(self._guard.offences),
        )

    def serving(self) -> int:
        """Requests of peers that are being answered."""
        return self._blobs.serving()

    def mesh_peers(self, topic: Topic) -> int:
        """Peers that messages go to. None while peers are connected is an alarm."""
        return self._links.count_joined()

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
        """Hold nothing against a key any more; False where nothing was."""
        return self._guard.forgive(peer, host)

    async def join(
        self,
        run_id: bytes,
        on_gossip: OnGossip,
        on_blob: OnBlob,
        on_answered: OnAnswered = ignore_answered,
    ) -> None:
        """Take part in the run's gossip and its DHT, and begin to serve."""
        if self._run_id:
            raise LocalFault("a run was joined before")
        self._run_id = run_id
        self._blobs.on_blob, self._blobs.on_answered = on_blob, on_answered
        self._links.join(run_id, on_gossip)
        with contextlib.suppress(Unreachable):  # then `_rejoin` will
            await self._sidecar.ask("join", run=run_id.hex())

    async def connect(self, address: str) -> bytes:
        """Dial a full multiaddr; return the peer's public key. Raises Unreachable."""
        try:
            where, peer = decode_address(address)
        except ValueError as error:
            raise Unreachable(str(error)) from None
        if peer == self._peer:
            raise Unreachable(f"{address} is this node itself")
        if self._guard.is_banned(peer):
            raise Unreachable(f"{encode_peer_id(peer)} is banned here")
        await self._dial(peer, [where])
        return peer

    async def publish(self, topic: Topic, message: bytes) -> None:
        """Send to the run's peers. Raises LocalFault over the size limit."""
        self._links.publish(topic, message)

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
            if not self._links.is_connected(peer):
                raise Unreachable(f"{encode_peer_id(peer)} is not connected")
            return await self._blobs.pull(
                peer, request, bytes_max, timeout_s, on_piece or ignore_piece
            )

    async def _dial(self, peer: bytes, places: Sequence[str]) -> None:
        """Dial these addresses, unless the peer is connected by now, or is being dialled."""
        lock = self._dials.setdefault(peer, asyncio.Lock())
        try:
            async with asyncio.timeout(bounds.CONNECT_S), lock:
                if self._links.is_connected(peer):
                    return
                seconds = bounds.CONNECT_S
                fields = {"peer": peer.hex(), "limit_s": seconds}
                await self._sidecar.ask("connect", 2 * seconds, addresses=list(places), **fields)
                if not (await self._link(peer, places[0]) or await self._link(peer, places[0])):
                    raise Unreachable("what answers there hangs up; it may have no room")
                self._tally.dials[DialResult.CONNECTED] += 1
        except TimeoutError:
            self._tally.dials[DialResult.TIMED_OUT] += 1
            text = f"{places[0]} did not answer in {bounds.CONNECT_S:.0f} s"
            raise Unreachable(text) from None
        except Unreachable as error:
            result, reason = classify(str(error))
            self._tally.dials[result] += 1
            raise Unreachable(f"{places[0]}: {reason}") from None
        finally:
            if not lock.locked():
                self._dials.pop(peer, None)

    async def _link(self, peer: bytes, place: str) -> bool:
        """Begin to speak with a peer. False where it hung up: where both dialled, p2pd ends one."""
        fd = await self._open(peer, LINK, OPEN_S)
        link = self._links.take(peer, place, fd, outbound=True)
        await asyncio.wait([link.is_up])
        return self._links.is_connected(peer)

    async def _open(self, peer: bytes, protocol: str, timeout_s: float) -> int:
        seconds = min(timeout_s, OPEN_S)
        fields = {"peer": peer.hex(), "protocol": protocol, "limit_s": seconds}
        return await self._sidecar.ask("open", 2 * seconds, **fields)

    def _drop(self, peer: bytes) -> None:
        self._spawn(self._disconnect(peer))

    async def _disconnect(self, peer: bytes) -> None:
        with contextlib.suppress(Unreachable):
            await self._sidecar.ask("disconnect", peer=peer.hex())

    def _take(self, message: dict[str, Any], fd: int) -> None:
        """Something that the other process tells by itself."""
        match message["event"]:
            case "stream":
                self._take_stream(message, fd)
            case "members" if self._discovers:
                self._meet(message["found"])
            case "up":
                self._p2pd_pid = message["pid"]
            case "down":
                self._lose(message["reason"])
            case _:
                pass

    def _shut(self, peer: bytes) -> tuple[str, ...]:
        """It is banned. p2pd knows the addresses, and takes whom it likes: none answers for it."""
        self._drop(peer)
        return ()

    def _take_stream(self, message: Mapping[str, Any], fd: int) -> None:
        peer, protocol = bytes.fromhex(message["peer"]), message["protocol"]
        if self._guard.is_banned(peer):
            os.close(fd)
            self._drop(peer)
        elif protocol == LINK:
            self._links.take(peer, message["address"], fd, outbound=False)
        elif protocol == BLOB:
            self._blobs.take(peer, fd)
        else:
            os.close(fd)

    def _lose(self, reason: str) -> None:
        self._p2pd_pid = 0
        self._on_event("mesh.restarted", reason=reason)

    async def _rejoin(self) -> None:
        """The other process is a new one, and knows of no run."""
        if self._run_id:
            await self._sidecar.ask("join", run=self._run_id.hex())

    def _meet(self, found: Mapping[str, Sequence[str]]) -> None:
        """Dial members that the DHT names, while we know too few."""
        now_s = asyncio.get_running_loop().time()
        views = self.peers()
        room = CONNECTIONS_WANTED - len(views)
        for name, told in list(found.items())[:FOUND_MAX]:
            peer = bytes.fromhex(name)
            places = choose_places(told, [view.address for view in views])
            recent = now_s - self._tried_s.get(peer, -ANNOUNCE_S) < ANNOUNCE_S
            skip = recent or len(peer) != PEER_BYTES or self._links.is_connected(peer)
            skip = skip or self._guard.is_banned(peer)
            if room > 0 and places and not skip and peer not in (self._peer, *self._dials):
                room -= 1
                self._tried_s[peer] = now_s
                self._spawn(self._try(peer, places))
        self._tried_s = {p: s for p, s in self._tried_s.items() if now_s - s < ANNOUNCE_S}

    async def _try(self, peer: bytes, places: Sequence[str]) -> None:
        with contextlib.suppress(Unreachable):
            await self._dial(peer, places)

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finish)

    def _finish(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        if not self._ended.done():
            self._ended.set_exception(error)
