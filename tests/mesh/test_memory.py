import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from demo_node.mesh.memory import MemoryMesh, MemoryNetwork
from demo_node.ports import Blob, BlobRequest, Mesh, NotHeld, Topic, Unreachable
from demo_node.sim.whole.virtual_loop import VirtualLoop
from demo_protocol.errors import LocalFault
from demo_protocol.limits import HEADER_BYTES_MAX

RUN = bytes(32)
REQUEST = BlobRequest(Blob.PAYLOAD, b"key")


def on_virtual_time(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run on a virtual clock; an hour of it must not take seconds."""

    def run() -> None:
        begin = time.monotonic()
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(test())
        assert time.monotonic() - begin < 10

    return run


def now() -> float:
    return asyncio.get_running_loop().time()


class Node:
    """A memory mesh and what it heard, with the time."""

    def __init__(self, network: MemoryNetwork, number: int) -> None:
        self.mesh: MemoryMesh = network.add(bytes([number]) * 32)
        self.heard: list[tuple[float, bytes, bytes]] = []
        self.held: dict[bytes, bytes] = {}
        self.verdict = True

    async def join(self) -> "Node":
        await self.mesh.join(RUN, self.on_gossip, self.on_blob)
        return self

    def on_gossip(self, topic: Topic, peer: bytes, message: bytes) -> bool:
        self.heard.append((now(), peer, message))
        return self.verdict

    async def on_blob(self, peer: bytes, request: BlobRequest) -> bytes | None:
        return self.held.get(request.key)


async def nodes(network: MemoryNetwork, count: int) -> list[Node]:
    made = [await Node(network, i + 1).join() for i in range(count)]
    network.connect_all()
    return made


def test_it_is_a_mesh() -> None:
    mesh: Mesh = MemoryNetwork().add(bytes(32))
    assert mesh.peer == bytes(32)


@on_virtual_time
async def test_a_message_reaches_everybody_else_once_after_the_links_delay() -> None:
    a, b, c = await nodes(MemoryNetwork(delay_s=lambda s, r, n: 0.1 * r[0]), 3)
    begin = now()
    await a.mesh.publish(Topic.HEADERS, b"x")
    await asyncio.sleep(10)
    assert [(round(t - begin, 6), p, m) for t, p, m in b.heard] == [(0.2, a.mesh.peer, b"x")]
    assert [(round(t - begin, 6), p, m) for t, p, m in c.heard] == [(0.3, a.mesh.peer, b"x")]
    assert a.heard == []


@on_virtual_time
async def test_the_verdict_decides_what_is_forwarded() -> None:
    network = MemoryNetwork()
    a, b, c = [await Node(network, i).join() for i in range(3)]
    await a.mesh.connect(b.mesh.addresses()[0])
    await b.mesh.connect(c.mesh.addresses()[0])
    b.verdict = False
    await a.mesh.publish(Topic.HEADERS, b"bad")
    await asyncio.sleep(1)
    b.verdict = True
    await a.mesh.publish(Topic.HEADERS, b"good")
    await asyncio.sleep(1)
    assert [m for _, _, m in b.heard] == [b"bad", b"good"]
    assert [(p, m) for _, p, m in c.heard] == [(b.mesh.peer, b"good")]


@on_virtual_time
async def test_messages_of_one_moment_arrive_in_the_order_of_sending() -> None:
    a, b = await nodes(MemoryNetwork(delay_s=lambda s, r, n: 0.25), 2)
    messages = [bytes([i]) for i in range(200)]
    for message in messages:
        await a.mesh.publish(Topic.HEADERS, message)
    await asyncio.sleep(1)
    assert [m for _, _, m in b.heard] == messages


@on_virtual_time
async def test_a_blob_takes_both_ways_and_its_size() -> None:
    network = MemoryNetwork(delay_s=lambda s, r, n: 0.05 + n / 1e6)
    a, b = await nodes(network, 2)
    a.held[b"key"] = bytes(500_000)
    begin = now()
    reply = await b.mesh.request(a.mesh.peer, REQUEST, bytes_max=500_000, timeout_s=10)
    assert reply == a.held[b"key"]
    assert now() - begin == pytest.approx(0.05 + 0.05 + 0.5, abs=1e-4)
    assert b.mesh.counters().bytes_in == a.mesh.counters().bytes_out == 500_000


@on_virtual_time
async def test_a_pull_fails_as_a_real_one_does() -> None:
    down = False
    network = MemoryNetwork(is_cut=lambda s, r: down)
    a, b = await nodes(network, 2)
    with pytest.raises(NotHeld):
        await b.mesh.request(a.mesh.peer, REQUEST, bytes_max=9, timeout_s=1)
    a.held[b"key"] = bytes(10)
    with pytest.raises(Unreachable, match="10 bytes of 9"):
        await b.mesh.request(a.mesh.peer, REQUEST, bytes_max=9, timeout_s=1)
    down = True
    begin = now()
    with pytest.raises(Unreachable, match="did not answer"):
        await b.mesh.request(a.mesh.peer, REQUEST, bytes_max=10, timeout_s=3600)
    assert now() - begin == pytest.approx(3600)
    down = False
    a.mesh.stop()
    with pytest.raises(Unreachable, match="not connected"):
        await b.mesh.request(a.mesh.peer, REQUEST, bytes_max=10, timeout_s=1)


@on_virtual_time
async def test_a_cut_stops_what_is_on_its_way_and_heals() -> None:
    cut_until = 0.0
    network = MemoryNetwork(delay_s=lambda s, r, n: 1, is_cut=lambda s, r: now() < cut_until)
    a, b = await nodes(network, 2)
    await a.mesh.publish(Topic.HEADERS, b"lost")
    cut_until = now() + 5
    assert a.mesh.peers() == []
    with pytest.raises(Unreachable):
        await a.mesh.connect(b.mesh.addresses()[0])
    await asyncio.sleep(6)
    await a.mesh.publish(Topic.HEADERS, b"heard")
    await asyncio.sleep(2)
    assert [m for _, _, m in b.heard] == [b"heard"]
    assert [p.peer for p in a.mesh.peers()] == [b.mesh.peer]


@on_virtual_time
async def test_loss_is_decided_per_transmission() -> None:
    sent: list[tuple[bytes, bytes, int]] = []

    def every_second(sender: bytes, receiver: bytes, size: int) -> bool:
        sent.append((sender, receiver, size))
        return len(sent) % 2 == 0

    a, b = await nodes(MemoryNetwork(is_lost=every_second), 2)
    for i in range(10):
        await a.mesh.publish(Topic.HEADERS, bytes([i]))
    await asyncio.sleep(1)
    assert len(sent) == 10
    assert [m[0] for _, _, m in b.heard] == [0, 2, 4, 6, 8]


@on_virtual_time
async def test_peers_come_and_go() -> None:
    network = MemoryNetwork()
    a, b = await nodes(network, 2)
    (view,) = b.mesh.peers()
    assert (view.peer, view.address, view.outbound) == (
        a.mesh.peer,
        a.mesh.addresses()[0],
        False,
    )
    a.mesh.stop()
    assert b.mesh.peers() == []
    again = await Node(network, 1).join()
    assert await b.mesh.connect(again.mesh.addresses()[0]) == a.mesh.peer
    await again.mesh.publish(Topic.HEADERS, b"back")
    await asyncio.sleep(1)
    assert [m for _, _, m in b.heard] == [b"back"]
    assert a.heard == []


@on_virtual_time
async def test_misuse_is_our_fault() -> None:
    network = MemoryNetwork()
    a = Node(network, 1)
    with pytest.raises(LocalFault, match="no run"):
        await a.mesh.publish(Topic.HEADERS, b"")
    await a.join()
    with pytest.raises(LocalFault, match="joined before"):
        await a.join()
    with pytest.raises(LocalFault, match="1025 bytes"):
        await a.mesh.publish(Topic.HEADERS, bytes(HEADER_BYTES_MAX + 1))
    with pytest.raises(Unreachable):
        await a.mesh.connect(a.mesh.addresses()[0])
