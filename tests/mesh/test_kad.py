"""What docs/decisions/discovery.md says of the library's kad-dht: why it is unused."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
import trio
from libp2p.abc import IHost, IRawConnection
from libp2p.kad_dht.kad_dht import DHTMode, KadDHT
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.records.utils import InvalidRecordType
from libp2p.records.validator import NamespacedValidator, Validator
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from demo_node.mesh.guard import Guard
from demo_node.mesh.host import build_host, close_listeners
from demo_node.mesh.pacing import Pacer
from demo_node.mesh.peer_id import encode_peer_id
from demo_node.mesh.transport import MeteredTCP
from tests.mesh.hosts import free_port, hosts, on_uvloop, seed

KEY = "/demo/" + "ab" * 32
LISTEN = Multiaddr("/ip4/127.0.0.1/tcp/0")
PRINTER = Multiaddr("/ip4/127.0.0.99/tcp/631")


class NoRecords(Validator):
    """Only who provides a key is of use: values are refused, whatever they say."""

    def validate(self, key: str, value: bytes) -> None:
        raise ValueError("there are no values")

    def select(self, key: str, values: list[bytes]) -> int:
        return 0


class CountingTCP(MeteredTCP):
    """Knows what was dialled."""

    def __init__(self) -> None:
        super().__init__(Pacer(0), Pacer(0), Guard())
        self.dialled: list[str] = []

    async def dial(self, maddr: Multiaddr) -> IRawConnection:
        self.dialled.append(str(maddr))
        return await super().dial(maddr)


@dataclass
class Node:
    number: int
    tcp: CountingTCP = field(default_factory=CountingTCP)
    host: IHost = field(init=False)
    dht: KadDHT = field(init=False)

    def __post_init__(self) -> None:
        self.host = build_host(seed(self.number), self.tcp)
        strict = NamespacedValidator({"demo": NoRecords()}, strict_validation=True)
        self.dht = KadDHT(
            self.host,
            DHTMode.SERVER,
            validator=strict,
            validator_changed=True,
            strict_validation=True,
        )

    @property
    def info(self) -> PeerInfo:
        return PeerInfo(self.host.get_id(), self.host.get_addrs())

    async def meet(self, other: "Node") -> None:
        await self.host.connect(other.info)
        await self.dht.routing_table.add_peer(other.info)
        await other.dht.routing_table.add_peer(self.info)


@contextlib.asynccontextmanager
async def nodes(count: int) -> AsyncIterator[list[Node]]:
    made = [Node(number + 1) for number in range(count)]
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(trio.fail_after(60))
        for node in made:
            await stack.enter_async_context(node.host.run(listen_addrs=[LISTEN]))
            await stack.enter_async_context(background_trio_service(node.dht))
        try:
            yield made
        finally:
            for node in made:
                await close_listeners(node.host)
                node.tcp.abort()  # trap 34


def peer_id(number: int) -> ID:
    return ID.from_string(encode_peer_id(bytes([number]) * 32))


def test_a_joiner_whose_bootstrap_peer_is_dead_finds_nobody_but_by_who_is_not_of_the_run() -> None:
    async def scenario() -> None:
        async with nodes(3) as (member, other, joiner):
            await member.meet(other)
            await member.dht.provide(KEY)
            dead = PeerInfo(peer_id(9), [Multiaddr(f"/ip4/127.0.0.1/tcp/{free_port()}")])
            await joiner.dht.routing_table.add_peer(dead)
            assert await joiner.dht.find_providers(KEY) == []
            await joiner.meet(other)
            found = await joiner.dht.find_providers(KEY)
            assert {info.peer_id for info in found} == {member.host.get_id()}

    trio.run(scenario)


def test_it_dials_private_places_on_a_strangers_word() -> None:
    async def scenario() -> None:
        async with nodes(2) as (stranger, victim):
            await victim.meet(stranger)
            invented = PeerInfo(peer_id(77), [PRINTER])
            stranger.host.get_peerstore().add_addrs(invented.peer_id, invented.addrs, 1000)
            await stranger.dht.routing_table.add_peer(invented)
            with trio.move_on_after(20):
                await victim.dht.find_providers("/demo/" + "cd" * 32)
            assert any(str(PRINTER) in place for place in victim.tcp.dialled)

    trio.run(scenario)


@pytest.mark.parametrize("key", ["plain", "/other/x", KEY])
def test_a_strict_validator_takes_no_value(key: str) -> None:
    async def scenario() -> None:
        async with nodes(1) as (node,):
            with pytest.raises((ValueError, InvalidRecordType)):
                await node.dht.put_value(key, b"x")

    trio.run(scenario)


@on_uvloop
async def test_our_mesh_does_not_answer_it() -> None:
    async with hosts(1) as (host,):
        offered = host.mesh._host.get_mux().get_protocols()
        assert not [protocol for protocol in offered if "kad" in str(protocol)]
