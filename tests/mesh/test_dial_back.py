"""A peer is dialled back at the host it is seen at, and nothing of that stays."""

import asyncio
import socket

import pytest
from libp2p.peer.id import ID
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from demo_node.mesh.peer_id import encode_peer_id_bytes
from demo_node.ports import PeerChange, Topic
from demo_protocol.reach import DialBack
from tests.mesh.hosts import Host, free_port, hosts, link, on_uvloop
from tests.waiting import wait_until


def port_of(host: Host) -> int:
    return host.mesh.port()


def at(port: int) -> str:
    return f"/ip4/127.0.0.1/tcp/{port}"


@on_uvloop
async def test_who_answers_with_its_key_is_reached_from_both_ends_of_a_connection() -> None:
    async with hosts(2) as (a, b):
        await link((a, b))
        for asking, dialling in ((a, b), (b, a)):
            port = port_of(asking)
            found = await dialling.mesh.dial_back(asking.mesh.peer, port)
            assert found == DialBack(at(port), reached=True)


@on_uvloop
async def test_a_closed_port_and_another_key_are_not_reached() -> None:
    async with hosts(3) as (a, b, c):
        await link((a, b))
        for port in (free_port(), port_of(b), port_of(c)):
            found = await b.mesh.dial_back(a.mesh.peer, port)
            assert found == DialBack(at(port), reached=False)


@on_uvloop
async def test_who_accepts_and_says_nothing_is_not_reached(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("demo_node.mesh.bounds.DIAL_BACK_S", 0.5)
    async with hosts(2) as (a, b):
        server = socket.create_server(("127.0.0.1", 0))  # the kernel accepts, nobody reads
        silent = int(server.getsockname()[1])
        await link((a, b))
        assert await b.mesh.dial_back(a.mesh.peer, silent) == DialBack(at(silent), reached=False)
        await wait_until(lambda: len(b.mesh._tcp.open) == 1)
        server.close()


@on_uvloop
async def test_who_answers_with_garbage_is_not_reached_and_ends_nobody() -> None:
    """A Noise handshake whose second message no key made: the library raises whatever it likes."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for line in (b"/multistream/1.0.0\n", b"/noise\n"):
            await reader.readuntil(line)
            writer.write(bytes([len(line)]) + line)
        await reader.read(1024)
        writer.write((96).to_bytes(2) + bytes(range(96)))
        await writer.drain()
        writer.close()

    async with hosts(2) as (a, b):
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        await link((a, b))
        assert await b.mesh.dial_back(a.mesh.peer, port) == DialBack(at(port), reached=False)
        assert await b.mesh.dial_back(a.mesh.peer, port_of(a)) == DialBack(at(port_of(a)), True)
        server.close()


@on_uvloop
async def test_who_is_not_connected_is_not_dialled_wherever_it_says_it_is() -> None:
    async with hosts(2) as (a, b):
        port = port_of(a)
        peer_id = ID(encode_peer_id_bytes(a.mesh.peer))
        b.mesh._host.get_peerstore().add_addrs(peer_id, [Multiaddr(at(port))], 60)
        assert await b.mesh.dial_back(a.mesh.peer, port) is None


@on_uvloop
async def test_it_leaves_the_connection_gossip_and_counters_as_they_were() -> None:
    async with hosts(2) as (a, b):
        await link((a, b))
        for _ in range(20):
            found = await b.mesh.dial_back(a.mesh.peer, port_of(a))
            assert found is not None
            assert found.reached
        await wait_until(lambda: len(a.mesh._tcp.open) == len(b.mesh._tcp.open) == 1)
        for host in (a, b):
            assert host.mesh.counters().changes[PeerChange.CONNECTED] == 1
            assert host.mesh.counters().changes[PeerChange.DISCONNECTED] == 0
        assert a.mesh.mesh_peers(Topic.HEADERS) == b.mesh.mesh_peers(Topic.HEADERS) == 1
        await a.mesh.publish(Topic.HEADERS, b"still here")
        await wait_until(lambda: b.messages() == [b"still here"])


@on_uvloop
async def test_where_others_came_through_is_told_before_what_the_machine_knows() -> None:
    async with hosts(1) as (a,):
        before = a.mesh.addresses()
        a.mesh.reached_at = ("/ip4/8.8.8.8/tcp/4001",)
        first, *others = a.mesh.addresses()
        assert first.startswith("/ip4/8.8.8.8/tcp/4001/p2p/")
        assert others == before
        assert [f"{x}/p2p/{before[0].rpartition('/')[2]}" for x in a.mesh.local_addresses()] == (
            before
        )
