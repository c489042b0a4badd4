"""An internet that does as a test says, and a node that finds its peers there: on virtual time."""

import asyncio
import contextlib
import functools
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, ParamSpec

from demo_node.mesh.names import Names, NameUnknown
from demo_node.mesh.peer_id import encode_peer_id
from demo_node.peering import Peering
from demo_node.ports import (
    BanView,
    BlobRequest,
    MeshCounters,
    NotHeld,
    Offence,
    OnAnswered,
    OnBlob,
    OnGossip,
    OnPiece,
    OnWait,
    PeerView,
    Topic,
    ignore_answered,
)
from demo_node.ports import Unreachable as NoAnswer
from demo_node.sim.whole.virtual_loop import VirtualClock, run_virtual
from demo_node.store.addresses import AddressBook
from demo_node.store.disk import FileDisk
from demo_protocol.answers import encode_peers

ME = bytes(32)
BLACK_HOLE_S = 15.0


def peer(number: int) -> bytes:
    return bytes([number]) * 32


def address(number: int, port: int = 4001) -> str:
    return f"/ip4/192.0.2.{number}/tcp/{port}/p2p/{encode_peer_id(peer(number))}"


def by_relay(number: int) -> str:
    relay = f"/ip4/192.0.2.{number}/tcp/4001/p2p/{encode_peer_id(peer(99))}"
    return f"{relay}/p2p-circuit/p2p/{encode_peer_id(peer(number))}"


class Internet:
    """A mesh whose dials end as told: addresses in `up` answer, in `holes` nothing comes."""

    def __init__(self) -> None:
        self.up: set[str] = set()
        self.holes: set[str] = set()
        self.tells: dict[bytes, list[str]] = {}
        self.dials: list[tuple[float, str]] = []
        self.connected: dict[bytes, str] = {}
        self.elsewhere: set[bytes] = set()
        self.peer = ME

    async def connect(self, address: str) -> bytes:
        self.dials.append((asyncio.get_running_loop().time(), address))
        assert not address.startswith("/dns"), "the mesh dials numbers"
        if address in self.holes:
            await asyncio.sleep(BLACK_HOLE_S)
            raise NoAnswer(f"{address} did not answer in 15 s")
        if address not in self.up:
            raise NoAnswer(f"{address}: Connection refused")
        number = int(address.split("/")[2].rpartition(".")[2])
        self.connected[peer(number)] = address
        return peer(number)

    def peers(self) -> list[PeerView]:
        return [
            PeerView(peer, address, True, elsewhere=peer in self.elsewhere)
            for peer, address in self.connected.items()
        ]

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
        if peer not in self.tells:
            raise NotHeld("PEERS")
        return encode_peers(self.tells[peer])

    def addresses(self) -> list[str]:
        return []

    def counters(self) -> MeshCounters:
        return MeshCounters(0, 0)

    def mesh_peers(self, topic: Topic) -> int:
        return len(self.connected)

    def serving(self) -> int:
        return 0

    async def join(
        self,
        run_id: bytes,
        on_gossip: OnGossip,
        on_blob: OnBlob,
        on_answered: OnAnswered = ignore_answered,
    ) -> None:
        raise AssertionError

    async def publish(self, topic: Topic, message: bytes) -> None:
        raise AssertionError

    def blame(self, peer: bytes, offence: Offence) -> None:
        raise AssertionError

    def bans(self) -> list[BanView]:
        raise AssertionError

    def ban(self, peer: bytes, seconds: float) -> None:
        raise AssertionError

    def forgive(self, peer: bytes = b"", host: str = "") -> bool:
        raise AssertionError

    def tried(self, address: str) -> int:
        return Counter(a for _, a in self.dials)[address]

    def drop(self, number: int) -> None:
        """The peer goes down."""
        self.up.discard(self.connected.pop(peer(number)))


class Directory(Names):
    """What names lead to, as a test says."""

    def __init__(self) -> None:
        super().__init__()
        self.hosts: dict[str, list[str]] = {}
        self.lists: dict[str, list[str]] = {}
        self.read: list[float] = []

    async def look_up(self, host: str, port: int, family: int) -> list[str]:
        if host not in self.hosts:
            raise NameUnknown(f"{host}: no such host")
        return self.hosts[host]

    async def read_list(self, address: str) -> list[str]:
        self.read.append(asyncio.get_running_loop().time())
        if address not in self.lists:
            raise NameUnknown(f"{address}: no TXT records")
        return self.lists[address]


class Scene:
    """A node with an internet, and an address book in a file."""

    def __init__(self, folder: Path, named: list[str], met: list[str]) -> None:
        self.path = folder / "peers.json"
        self.net = Internet()
        self.names = Directory()
        self.book = AddressBook(FileDisk(), self.path)
        for age, old in enumerate(met):
            self.book.add(old, 1000 - age)
        self.peering = Peering(
            self.net, VirtualClock(), named=named, book=self.book, names=self.names
        )

    def on_disk(self) -> list[str]:
        return AddressBook(FileDisk(), self.path).newest()


P = ParamSpec("P")


def on_virtual_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run an async test in no time."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        run_virtual(test(*args, **kwargs))

    return run


@contextlib.asynccontextmanager
async def at_work(scene: Scene) -> AsyncIterator[None]:
    """Beside a node that keeps itself connected."""
    work = asyncio.create_task(scene.peering.run())
    yield
    assert not work.done()
    work.cancel()
    await asyncio.wait([work])
