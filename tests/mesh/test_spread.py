"""A payload among real meshes on loopback: how much of it leaves its author."""

import asyncio
import hashlib
import os

import pytest

from demo_node.mesh import bounds
from demo_node.ports import Blob, BlobRequest, Busy, Direction, Topic, Unreachable, Use
from tests.mesh.hosts import Host, hosts, link, on_uvloop
from tests.node.spread import Peer
from tests.waiting import wait_until

COUNT = 16
SIZE = 50_000
OVERHEAD_MAX = 1.03


def sent(host: Host) -> int:
    return host.mesh.counters().traffic.get((Direction.OUT, Use.PAYLOAD), 0)


@on_uvloop
async def test_of_16_an_authors_uplink_carries_its_payload_three_times_at_most() -> None:
    async with hosts(COUNT, join=False) as made:
        peers = [Peer(host.mesh) for host in made]
        for host, peer in zip(made, peers, strict=True):
            host.on_blob = peer.answer
            await host.join()
        for number, host in enumerate(made):  # not all at once: so many handshakes are an attack
            await asyncio.gather(*(host.mesh.connect(other.address) for other in made[:number]))
        await wait_until(lambda: all(h.mesh.mesh_peers(t) >= 4 for h in made for t in Topic))
        for author in (0, 7):
            effect = peers[author].make(os.urandom(SIZE), round_=author)
            before = sent(made[author])
            others = [peer for peer in peers if peer is not peers[author]]
            await asyncio.gather(*(peer.pull(effect) for peer in others))
            assert all(effect.payload_hash in peer.shelf.held for peer in peers)
            assert sent(made[author]) - before <= 3 * SIZE * OVERHEAD_MAX
            assert peers[author].given[effect.payload_hash] <= 3


@on_uvloop
async def test_a_request_that_is_given_up_stops_the_sender() -> None:
    async with hosts(2) as (a, b):
        await link((a, b))
        a.held[b"p"] = os.urandom(60_000_000)
        came = 0

        def count(size: int) -> None:
            nonlocal came
            came += size

        pull = asyncio.create_task(
            b.mesh.request(
                a.mesh.peer,
                BlobRequest(Blob.PAYLOAD, b"p"),
                bytes_max=1 << 30,
                timeout_s=30,
                on_piece=count,
            )
        )
        await wait_until(lambda: came > 1_000_000)
        pull.cancel()
        await asyncio.wait([pull])
        await wait_until(lambda: not a.mesh.serving())
        stopped_at = sent(a)
        assert stopped_at < 30_000_000
        await b.mesh.request(
            a.mesh.peer, BlobRequest(Blob.HEAD, b"p"), bytes_max=1 << 30, timeout_s=30
        )
        assert sent(a) == stopped_at


@on_uvloop
async def test_one_payload_goes_to_some_peers_at_once_and_then_to_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bounds, "COPIES_AT_ONCE", 2)
    async with hosts(4) as made:
        holder, *others = made
        await link(*((other, holder) for other in others))
        holder.held[b"p"] = os.urandom(2_000_000)
        begun: list[int] = []
        hold = asyncio.Event()

        async def ask(number: int) -> bytes:
            return await others[number].mesh.request(
                holder.mesh.peer,
                BlobRequest(Blob.PAYLOAD, b"p"),
                bytes_max=1 << 30,
                timeout_s=30,
                on_piece=lambda size: None if size else begun.append(number),
            )

        blobs = holder.mesh._blobs
        reply = blobs._reply

        replying: list[object] = []

        async def slow_reply(*args: object) -> None:
            replying.append(args)
            await holder.mesh._guest.ask(hold.wait)
            await reply(*args)  # type: ignore[arg-type]

        blobs._reply = slow_reply  # type: ignore[method-assign, assignment]
        pulls = [asyncio.create_task(ask(number)) for number in range(3)]
        await wait_until(lambda: holder.mesh.serving() == 3)
        await wait_until(lambda: blobs._sending.count(b"p") == bounds.COPIES_AT_ONCE + 1)
        await asyncio.sleep(0.1)
        assert len(replying) == bounds.COPIES_AT_ONCE
        hold.set()
        assert await asyncio.gather(*pulls) == [holder.held[b"p"]] * 3
        assert sorted(begun) == [0, 1, 2]
        await wait_until(lambda: not blobs._sending)


@on_uvloop
async def test_who_is_busy_says_so_and_the_mesh_lives_on() -> None:
    async with hosts(2, join=False) as (a, b):

        async def answer(asking: bytes, request: BlobRequest) -> bytes | None:
            raise Busy("ask others")

        b.on_blob = answer
        await asyncio.gather(a.join(), b.join())
        await link((a, b))
        for _ in range(2):
            with pytest.raises(Busy):
                await a.mesh.request(
                    b.mesh.peer, BlobRequest(Blob.PAYLOAD, b"p"), bytes_max=9, timeout_s=9
                )


@on_uvloop
async def test_who_asks_says_how_long_it_would_wait() -> None:
    async with hosts(2) as (a, b):
        await link((a, b))
        b.held[hashlib.sha256(b"").digest()] = b"x"
        request = BlobRequest(Blob.PAYLOAD, hashlib.sha256(b"").digest(), wait_ms=1234)
        assert await a.mesh.request(b.mesh.peer, request, bytes_max=9, timeout_s=9) == b"x"
        assert b.asked == [(a.mesh.peer, request)]
        with pytest.raises(Unreachable):
            await a.mesh.request(b.mesh.peer, request, bytes_max=0, timeout_s=9)
