"""The relays between a swarm's nodes, with echoes in place of nodes."""

import asyncio
import contextlib
import os
import socket
import sys
import threading
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, field
from typing import Final

import pytest

from demo_node.cli.swarm.links import find_diallers
from demo_node.cli.swarm.processes import find_free_ports
from demo_node.cli.swarm.wires import CHUNK_BYTES, CHUNKS_MAX, Connection, Wires, relay_host
from demo_node.sim.links import Cut
from tests.cli.test_swarm_processes import on_loop
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel says who dials")

QUIET_S: Final = 0.2
"""Long enough for loopback; what a cut holds stays away however long."""


@dataclass
class Far:
    """What stands behind node 1's relay: keeps what comes, and who it seemed to come from."""

    port: int
    server: asyncio.Server
    heard: bytearray = field(default_factory=bytearray)
    seen: list[str] = field(default_factory=list)
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    ended: int = 0


@contextlib.asynccontextmanager
async def far() -> AsyncIterator[Far]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        made.seen.append(writer.get_extra_info("peername")[0])
        made.writers.append(writer)
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(CHUNK_BYTES):
                made.heard += data
        made.ended += 1
        writer.close()

    (port,) = find_free_ports(1)
    made = Far(port, await asyncio.start_server(serve, "127.0.0.1", port))
    try:
        yield made
    finally:
        made.server.close()
        for writer in made.writers:
            writer.close()


@contextlib.asynccontextmanager
async def wired(wires: Wires) -> AsyncIterator[tuple[Wires, Far]]:
    """A relay of node 1 on the same port as its node, as in a swarm."""
    async with far() as node:
        await wires.lead_to(1, node.port, ("127.0.0.1", node.port))
        try:
            yield wires, node
        finally:
            await wires.close()


def all_from(node: int) -> Wires:
    return Wires(lambda asked: dict.fromkeys(asked, node))


@contextlib.asynccontextmanager
async def dialled(node: Far) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(relay_host(1), node.port)
    try:
        yield reader, writer
    finally:
        writer.close()


BOTH = Cut(frozenset({0}), frozenset({1}))


def test_relays_of_different_nodes_have_different_hosts_and_none_is_a_nodes_own() -> None:
    hosts = {relay_host(node) for node in range(1000)}
    assert len(hosts) == 1000
    assert "127.0.0.1" not in hosts
    assert all(socket.inet_aton(host)[-1] not in (0, 255) for host in hosts)


@on_loop
async def test_bytes_go_both_ways_and_come_from_the_diallers_own_relay() -> None:
    async with wired(all_from(7)) as (wires, node), dialled(node) as (reader, writer):
        writer.write(b"question")
        await wait_until(lambda: node.heard == b"question")
        node.writers[0].write(b"answer")
        assert await reader.readexactly(6) == b"answer"
        assert node.seen == [relay_host(7)]
        assert wires.held == 0


@on_loop
async def test_an_end_is_passed_on_after_all_that_was_said_before_it() -> None:
    said = os.urandom(3 * CHUNKS_MAX * CHUNK_BYTES // 2)
    async with wired(all_from(0)) as (_, node), dialled(node) as (_reader, writer):
        writer.write(said)
        writer.close()
        await wait_until(lambda: node.ended == 1)
        assert bytes(node.heard) == said


@on_loop
async def test_the_far_sides_end_reaches_the_dialler() -> None:
    async with wired(all_from(0)) as (_, node), dialled(node) as (reader, writer):
        writer.write(b"x")
        await wait_until(lambda: len(node.heard) == 1)
        node.writers[0].write(b"goodbye")
        node.writers[0].close()
        assert await reader.read() == b"goodbye"


@on_loop
async def test_a_cut_holds_what_is_sent_and_the_heal_delivers_it() -> None:
    async with wired(all_from(0)) as (wires, node), dialled(node) as (reader, writer):
        writer.write(b"before")
        await wait_until(lambda: node.heard == b"before")
        wires.add_cut(BOTH)
        writer.write(b" during")
        node.writers[0].write(b"back")
        await wait_until(lambda: wires.held == 2)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), QUIET_S)
        assert node.heard == b"before"
        wires.heal(BOTH)
        await wait_until(lambda: node.heard == b"before during")
        assert await reader.readexactly(4) == b"back"


@on_loop
async def test_a_cut_of_one_way_lets_the_other_through() -> None:
    async with wired(all_from(0)) as (wires, node), dialled(node) as (reader, writer):
        writer.write(b"x")
        await wait_until(lambda: node.heard == b"x")
        wires.add_cut(Cut(frozenset({0}), frozenset({1}), one_way=True))
        node.writers[0].write(b"heard")
        assert await reader.readexactly(5) == b"heard"
        writer.write(b"unheard")
        await wait_until(lambda: wires.held == 1)
        assert node.heard == b"x"


@on_loop
@pytest.mark.parametrize("sender", [0, 1])
async def test_no_connection_begins_while_either_direction_is_cut(sender: int) -> None:
    cut = Cut(frozenset({sender}), frozenset({1 - sender}), one_way=True)
    async with wired(all_from(0)) as (wires, node):
        wires.add_cut(cut)
        async with dialled(node) as (_, writer):
            writer.write(b"x")
            await wait_until(lambda: wires.held == 1)
            assert not node.seen
            wires.heal()
            await wait_until(lambda: node.heard == b"x")


@on_loop
async def test_a_cut_is_not_noticed_by_others_and_overlapping_ones_all_must_heal() -> None:
    async with wired(all_from(0)) as (wires, node), dialled(node) as (_, writer):
        elsewhere, wider = (
            Cut(frozenset({0}), frozenset({2})),
            Cut(frozenset({0, 2}), frozenset({1})),
        )
        wires.add_cut(elsewhere)
        writer.write(b"a")
        await wait_until(lambda: node.heard == b"a")
        wires.add_cut(BOTH)
        wires.add_cut(wider)
        writer.write(b"b")
        await wait_until(lambda: wires.held == 1)
        wires.heal(BOTH)
        assert not wires.is_open(0, 1)
        wires.heal(wider)
        await wait_until(lambda: node.heard == b"ab")
        assert not wires.is_open(0, 2)


@on_loop
async def test_latency_is_paid_once_a_piece_and_not_once_after_another() -> None:
    wires = Wires(lambda asked: dict.fromkeys(asked, 0), latency_s=0.3, jitter_s=0.05)
    loop = asyncio.get_running_loop()
    async with wired(wires) as (_, node), dialled(node) as (_reader, writer):
        begin_s = loop.time()
        writer.write(bytes(20 * CHUNK_BYTES))
        await wait_until(lambda: len(node.heard) == 20 * CHUNK_BYTES)
        took_s = loop.time() - begin_s
    assert 0.3 <= took_s < 20 * 0.3 / 2


@on_loop
async def test_who_is_no_node_gets_no_connection() -> None:
    wires = Wires(lambda asked: {})
    async with wired(wires) as (_, node), dialled(node) as (reader, _writer):
        assert await reader.read() == b""
        assert not node.seen


@on_loop
async def test_a_node_that_is_down_hangs_up() -> None:
    async with wired(all_from(0)) as (_, node):
        node.server.close()
        await node.server.wait_closed()
        async with dialled(node) as (reader, _writer):
            assert await reader.read() == b""


@on_loop
async def test_closing_ends_connections_that_a_cut_holds() -> None:
    async with wired(all_from(0)) as (wires, node), dialled(node) as (reader, writer):
        wires.add_cut(BOTH)
        writer.write(b"x")
        await wait_until(lambda: wires.held > 0)
        await wires.close()
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""


def test_the_kernel_knows_who_dials() -> None:
    with socket.socket() as listener, socket.socket() as dialler:
        listener.bind(("127.0.1.9", 0))
        listener.listen()
        dialler.connect(listener.getsockname())
        here, there = dialler.getsockname(), listener.getsockname()
        link = (here, there)
        other = (there, here)  # not accepted by anybody
        assert find_diallers({os.getppid(): 3, os.getpid(): 4}, [other, link]) == {link: 4}
        assert find_diallers({os.getppid(): 3}, [link]) == {}
    assert find_diallers({os.getpid(): 4}, [link]) == {}


@on_loop
async def test_connections_that_come_together_are_looked_for_together() -> None:
    """Each look at the kernel's table is slow: twenty nodes that dial each other may not wait."""
    looks: list[int] = []
    first, go_on = threading.Event(), threading.Event()

    def find(asked: Collection[Connection]) -> dict[Connection, int]:
        looks.append(len(asked))
        first.set()
        assert go_on.wait(20)
        return dict.fromkeys(asked, 0)

    async with wired(Wires(find)) as (wires, node), contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(dialled(node))
        await wait_until(first.is_set)
        for _ in range(9):
            await stack.enter_async_context(dialled(node))
        await wait_until(lambda: len(wires._unknown) == 9)
        go_on.set()
        await wait_until(lambda: len(node.seen) == 10)
    assert looks == [1, 9]
