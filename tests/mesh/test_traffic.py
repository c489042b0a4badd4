"""Every byte on the sockets is told apart, once: what it was for, in which direction."""

import asyncio
import contextlib
import itertools
import os

import pytest

from demo_node.mesh import bounds
from demo_node.mesh.account import USES, Account, Totals
from demo_node.mesh.blob import CHOICE
from demo_node.mesh.figures import show_mesh
from demo_node.mesh.libp2p import Libp2pMesh
from demo_node.mesh.yamux import PatientYamux
from demo_node.ports import (
    Blob,
    BlobRequest,
    Direction,
    NotHeld,
    PullResult,
    Topic,
    Unreachable,
    Use,
)
from tests.mesh.hosts import Host, hosts, link, link_all, on_uvloop, seed
from tests.waiting import wait_until

OVERHEAD_MAX = 1.03
"""Of bulk: headers of frames and encryption are counted apart, a stream's own negotiation too."""

GOSSIP_OVERHEAD_MAX = 4096
"""What gossip says besides messages, each second and link: subscriptions, grafts, what it has."""


def traffic(host: Host, use: Use) -> tuple[int, int]:
    """Bytes in and out."""
    found = host.mesh.counters().traffic
    return found.get((Direction.IN, use), 0), found.get((Direction.OUT, use), 0)


def is_told_apart(host: Host) -> bool:
    """Do the uses add up to what the sockets have carried?"""
    done = host.mesh.counters()
    sums = [sum(n for (d, _), n in done.traffic.items() if d is way) for way in Direction]
    assert sums[0] <= host.mesh._tcp.bytes_in
    assert sums[1] <= host.mesh._tcp.bytes_out
    return sums == [host.mesh._tcp.bytes_in, host.mesh._tcp.bytes_out]


async def pull(host: Host, holder: Host, key: bytes, kind: Blob, bytes_max: int = 1 << 30) -> bytes:
    request = BlobRequest(kind, key)
    return await host.mesh.request(holder.mesh.peer, request, bytes_max=bytes_max, timeout_s=30)


def is_within(found: int, content: int) -> bool:
    return content <= found <= content * OVERHEAD_MAX


@on_uvloop
async def test_what_both_pull_and_gossip_adds_up_to_the_sockets() -> None:
    async with hosts(2) as (a, b):
        await link((a, b))
        a.held[b"p"], a.held[b"s"] = os.urandom(3_000_000), os.urandom(500_000)
        b.held[b"p"], b.held[b"s"] = os.urandom(1_000_000), os.urandom(2_000_000)
        before = {id(h): traffic(h, Use.GOSSIP) for h in (a, b)}
        messages = [os.urandom(1000) for _ in range(40)]

        async def talk(host: Host, own: list[bytes]) -> None:
            for message in own:
                await host.mesh.publish(Topic.HEADERS, message)

        begin_s = asyncio.get_running_loop().time()
        await asyncio.gather(
            *(pull(a, b, key, kind) for key, kind in [(b"p", Blob.PAYLOAD), (b"s", Blob.RECORDS)]),
            *(pull(b, a, key, kind) for key, kind in [(b"p", Blob.PAYLOAD), (b"s", Blob.INITIAL)]),
            talk(a, messages[:30]),
            talk(b, messages[30:]),
        )
        await wait_until(lambda: len(a.heard) == 10 and len(b.heard) == 30)
        await wait_until(lambda: is_told_apart(a) and is_told_apart(b))
        lasted_s = asyncio.get_running_loop().time() - begin_s
        for host, other in ((a, b), (b, a)):
            sent, received = host.held, other.held
            for use, key in ((Use.PAYLOAD, b"p"), (Use.SYNC, b"s")):
                came, went = traffic(host, use)
                assert is_within(came, len(received[key]))
                assert is_within(went, len(sent[key]))
            gossip_max = GOSSIP_OVERHEAD_MAX * (lasted_s + 2)
            for now, then, count in zip(
                traffic(host, Use.GOSSIP),
                before[id(host)],
                (len(host.heard), len(other.heard)),
                strict=True,
            ):
                assert count * 1000 <= now - then <= count * 1400 + gossip_max
            assert all(traffic(host, Use.OTHER))


@on_uvloop
async def test_no_total_ever_falls_and_none_runs_ahead_of_the_sockets() -> None:
    """Looked at whenever the loop has a moment: also in the middle of frames."""
    async with hosts(3) as made:
        await link_all(made)
        for host in made:
            host.held[b"p"] = os.urandom(6_000_000)
        seen: list[dict[tuple[Direction, Use], int]] = [{} for _ in made]
        looks = 0
        pulls = asyncio.gather(
            *(pull(a, b, b"p", Blob.PAYLOAD) for a, b in itertools.permutations(made, 2))
        )
        while not pulls.done():
            for host, before in zip(made, seen, strict=True):
                is_told_apart(host)
                now = dict(host.mesh.counters().traffic)
                assert all(now[key] >= total for key, total in before.items())
                before.update(now)
            looks += 1
            await asyncio.sleep(0)
        await pulls
        assert looks > 100
        await wait_until(lambda: all(is_told_apart(host) for host in made))


@on_uvloop
async def test_a_peer_that_breaks_off_in_the_middle_is_counted() -> None:
    async with hosts(2) as (a, b):
        await link((a, b))
        a.held[b"p"] = os.urandom(20_000_000)
        work = asyncio.create_task(pull(b, a, b"p", Blob.PAYLOAD))
        await wait_until(lambda: traffic(b, Use.PAYLOAD)[0] > 1_000_000)
        b.mesh._tcp.abort()
        with pytest.raises(Unreachable):
            await work
        await wait_until(lambda: not a.mesh.peers() and not a.mesh.serving())
        assert is_told_apart(a)
        assert is_told_apart(b)
        came, went = traffic(b, Use.PAYLOAD)[0], traffic(a, Use.PAYLOAD)[1]
        # Who asks knows what for before the choice of a protocol comes back, who is asked does not.
        assert 1_000_000 < came <= went + len(CHOICE) < 20_000_000


@on_uvloop
async def test_what_comes_after_we_have_hung_up_is_counted_as_what_it_was() -> None:
    async with hosts(2) as (a, b):
        await link((a, b))
        a.held[b"p"] = os.urandom(20_000_000)
        with pytest.raises(Unreachable):
            await pull(b, a, b"p", Blob.PAYLOAD, bytes_max=1000)
        await wait_until(lambda: not a.mesh.serving())
        await wait_until(lambda: is_told_apart(a) and is_told_apart(b))
        assert traffic(b, Use.PAYLOAD)[0] == pytest.approx(traffic(a, Use.PAYLOAD)[1], abs=100)


@on_uvloop
async def test_what_strangers_send_is_overhead() -> None:
    async with hosts(1) as (a,):
        host, port = a.address.split("/")[2], int(a.address.split("/")[4])
        for _ in range(3):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(os.urandom(5000))
            writer.write_eof()
            with contextlib.suppress(ConnectionError):
                await reader.read()
            writer.close()
        await wait_until(lambda: not a.mesh._tcp.open)
        assert is_told_apart(a)
        assert a.mesh._tcp.bytes_in > 0
        assert traffic(a, Use.OTHER)[0] == a.mesh._tcp.bytes_in


@on_uvloop
async def test_gossip_by_a_second_connection_is_gossip_too() -> None:
    async with hosts(2) as (a, b):
        await link((b, a))  # both dial, so that none of the two connections is dropped
        twin = Host(Libp2pMesh(seed(2), guest=a.mesh._guest))
        await twin.mesh.start()
        await twin.join()
        await twin.mesh.connect(a.address)
        pubsub = a.mesh._gossip.pubsub
        await wait_until(lambda: pubsub.has_several(b.mesh._host.get_id()))
        await wait_until(lambda: twin.mesh.mesh_peers(Topic.PROPOSALS) and is_told_apart(a))
        before = traffic(a, Use.GOSSIP)[1]
        await a.mesh.publish(Topic.PROPOSALS, os.urandom(20_000))
        await wait_until(lambda: b.heard and twin.heard and is_told_apart(a))
        assert traffic(a, Use.GOSSIP)[1] - before >= 2 * 20_000
        await twin.mesh.stop()


@on_uvloop
async def test_streams_that_have_ended_are_forgotten_and_gossip_is_not() -> None:
    async with hosts(2) as (a, b):
        await link((a, b))
        a.held[b"k"] = b"content"
        for _ in range(2 * bounds.STREAMS_PER_CONNECTION_MAX + 10):
            await pull(b, a, b"k", Blob.TIME)
        for host in (a, b):
            ((connection,),) = host.mesh._swarm.connections.values()
            assert isinstance(connection.muxed_conn, PatientYamux)
            assert len(connection.muxed_conn._uses) <= bounds.STREAMS_PER_CONNECTION_MAX
        before = traffic(b, Use.GOSSIP)[0], traffic(a, Use.GOSSIP)[1]
        await a.mesh.publish(Topic.PROPOSALS, os.urandom(20_000))
        await wait_until(lambda: b.heard and is_told_apart(a) and is_told_apart(b))
        after = traffic(b, Use.GOSSIP)[0], traffic(a, Use.GOSSIP)[1]
        assert min(after[0] - before[0], after[1] - before[1]) >= 20_000


@on_uvloop
async def test_requests_are_counted_by_kind_and_by_what_came_of_them() -> None:
    async with hosts(3) as (a, b, c):
        await link((a, b))
        b.held[b"k"] = b"content"
        for kind in Blob:
            await pull(a, b, b"k", kind)
            with pytest.raises(NotHeld):
                await pull(a, b, b"?", kind)
            with pytest.raises(Unreachable):
                await pull(a, c, b"k", kind)
            with pytest.raises(Unreachable):
                await pull(a, b, b"k", kind, bytes_max=3)
            a.mesh.forgive(peer=b.mesh.peer)  # too long an answer is held against it
        await pull(a, b, b"k", Blob.HEAD)
        slow = asyncio.create_task(pull(a, b, b"k", Blob.HEAD))
        await asyncio.sleep(0)
        slow.cancel()
        await asyncio.wait([slow])
        expected = {
            (kind, result): 1 + (result is PullResult.UNREACHABLE)
            for kind, result in itertools.product(Blob, PullResult)
        }
        expected[Blob.HEAD, PullResult.OK] += 1
        assert a.mesh.counters().pulls == expected


def test_every_kind_of_blob_has_a_use() -> None:
    assert USES.keys() == set(Blob)


def test_an_account_tells_every_byte_once() -> None:
    totals = Totals()
    account = Account(totals, Direction.IN)
    account.add(500)  # a handshake of 300, a frame of 150 with 100 for somebody, and more
    account.tell(Use.GOSSIP, 100, 50)
    assert totals.bytes == {(Direction.IN, Use.GOSSIP): 100, (Direction.IN, Use.OTHER): 350}
    account.add(30)
    account.tell(Use.PAYLOAD, 60)
    account.add(7)
    account.close()
    account.add(2)  # read before it was closed, told after
    assert totals.bytes == {
        (Direction.IN, Use.GOSSIP): 100,
        (Direction.IN, Use.PAYLOAD): 60,
        (Direction.IN, Use.OTHER): 350 + 20 + 7 + 2,
    }
    assert sum(totals.bytes.values()) == account.bytes


@on_uvloop
async def test_the_metrics_get_all_of_it() -> None:
    async with hosts(2) as (a, b):
        await link((a, b))
        b.held[b"k"] = b"content"
        await pull(a, b, b"k", Blob.TIME)
        await wait_until(lambda: is_told_apart(a))
        found = {(f.name, *f.labels): f.value for f in show_mesh(a.mesh)}
        assert found["demo_pulls_total", "time", "ok"] == 1
        assert found["demo_dials_total", "connected"] == 1
        assert found["demo_peer_changes_total", "connected"] == 1
        assert found["demo_peer_connections", "out"] == 1
        assert found["demo_peer_connections", "in"] == 0
        assert found["demo_queue_depth", "serving"] == 0
        assert all(found["demo_gossip_mesh_peers", topic] == 1 for topic in Topic)
        carried = sum(v for k, v in found.items() if k[0] == "demo_network_bytes_total")
        assert 0 < carried <= a.mesh._tcp.bytes_in + a.mesh._tcp.bytes_out
