"""The upload cap: the bucket on virtual time, and real hosts behind a slow uplink."""

import asyncio
import itertools
import random
import time

import pytest
import trio
import trio.testing

from demo_node.mesh.libp2p import Libp2pMesh
from demo_node.mesh.pacing import DEBT_S, PIECE_BYTES_MIN, Bucket, UploadPacer
from demo_node.ports import Blob, BlobRequest, Topic
from tests.mesh.hosts import Host, hosts, link, on_uvloop, seed
from tests.waiting import wait_until

WRAPPING = 1.1
"""What is sent of a piece, with everything around it, over its bytes: in life below 1.03."""


@pytest.mark.parametrize("trial", range(30))
def test_what_leaves_in_any_span_of_time_is_bounded_by_the_cap(trial: int) -> None:
    """Whatever is asked for and whenever: pieces wait, gossip does not and is made up for."""
    dice = random.Random(trial)
    rate = dice.choice([8_000.0, 100_000.0, 2_000_000.0])
    piece = max(int(rate / 20), PIECE_BYTES_MIN)
    gossip_share = dice.uniform(0, 0.5)
    now_s = 0.0
    bucket = Bucket(rate, now_s)
    sent: list[tuple[float, float]] = []
    loudest = 0.0
    gossip_due = 0.0
    for _ in range(300):
        if dice.random() < 0.1:
            now_s += dice.uniform(0, 2)  # nobody wants anything
            gossip_due = 0.0
        pause_s = bucket.pause_s(now_s)
        now_s += pause_s
        gossip_due += (pause_s + piece / rate) * rate * gossip_share
        if gossip_due > 1000:
            bucket.sent(int(gossip_due), now_s)
            sent.append((now_s, int(gossip_due)))
            loudest = max(loudest, gossip_due)
            gossip_due = 0.0
            continue
        bucket.pay(piece, now_s)
        wrapped = int(piece * dice.uniform(1, WRAPPING))
        bucket.sent(wrapped, now_s)
        sent.append((now_s, wrapped))
    slack = bucket.burst + piece * WRAPPING + loudest + 1
    total = list(itertools.accumulate((size for _, size in sent), initial=0.0))
    for first in range(0, len(sent), 7):
        for last in range(first, len(sent), 5):
            span_s = sent[last][0] - sent[first][0]
            assert total[last + 1] - total[first] <= rate * span_s + slack


def test_the_cap_is_used_up_while_there_is_something_to_send() -> None:
    bucket = Bucket(100_000, 0)
    now_s, sent = 0.0, 0
    while now_s < 60:
        now_s += bucket.pause_s(now_s)
        bucket.pay(5000, now_s)
        bucket.sent(5000, now_s)
        sent += 5000
    assert 0.99 * 6_000_000 <= sent <= 1.01 * 6_000_000


def test_a_flood_of_gossip_silences_replies_for_some_seconds_and_no_longer() -> None:
    bucket = Bucket(1000, 0)
    bucket.sent(1_000_000, 0)
    assert bucket.pause_s(0) == DEBT_S
    assert bucket.pause_s(DEBT_S) == 0


def test_streams_get_equal_shares_however_many_pieces_they_want() -> None:
    got = [0, 0, 0]

    async def stream(pacer: UploadPacer, number: int) -> None:
        for _ in range(1000 if number else 50):
            await pacer.wait_turn(pacer.piece_bytes)
            pacer.sent(pacer.piece_bytes)
            got[number] += 1

    async def main() -> None:
        pacer = UploadPacer(200_000)
        with trio.move_on_after(6):
            async with trio.open_nursery() as nursery:
                for number in range(3):
                    nursery.start_soon(stream, pacer, number)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert max(got) - min(got) <= 1
    assert sum(got) == pytest.approx(6 * 20, abs=8)


def test_without_a_cap_nothing_waits() -> None:
    async def main() -> None:
        pacer = UploadPacer(0)
        assert await pacer.wait_turn(1 << 40) == 0
        pacer.sent(1 << 40)

    trio.run(main, clock=trio.testing.MockClock())


@on_uvloop
async def test_a_payload_takes_its_time_and_gossip_passes_meanwhile() -> None:
    async with hosts(1) as (b,):
        a = Host(Libp2pMesh(seed(9), upload_bytes_per_s=100_000, guest=b.mesh._guest))
        await a.mesh.start()
        await a.join()
        await link((b, a))
        a.held = {b"large": bytes(150_000), b"small": bytes(3000)}
        begin = time.monotonic()
        pull = asyncio.create_task(ask(b, a, b"large"))
        await wait_until(lambda: a.asked)
        await a.mesh.publish(Topic.HEADERS, b"meanwhile")
        await wait_until(lambda: b"meanwhile" in b.messages())
        assert await ask(b, a, b"small") == bytes(3000)
        assert not pull.done(), "gossip and small answers do not queue behind a payload"
        assert await pull == bytes(150_000)
        assert time.monotonic() - begin > 1.0  # 1.5 s, less what a pause had saved up
        await a.mesh.stop()


@on_uvloop
async def test_small_answers_do_not_wait_their_turn() -> None:
    """The time, for one: clocks are set by how long its answer took."""
    async with hosts(1) as (b,):
        a = Host(Libp2pMesh(seed(9), upload_bytes_per_s=8_000, guest=b.mesh._guest))
        await a.mesh.start()
        await a.join()
        await b.mesh.connect(a.address)
        a.held = {b"large": bytes(24_000), b"small": bytes(100)}
        pull = asyncio.create_task(ask(b, a, b"large"))
        await wait_until(lambda: a.asked)
        for _ in range(20):
            await ask(b, a, b"small")
        assert not pull.done()  # six pieces, half a second each
        await pull
        await a.mesh.stop()


async def ask(asking: Host, holder: Host, key: bytes) -> bytes:
    return await asking.mesh.request(
        holder.mesh.peer, BlobRequest(Blob.PAYLOAD, key), bytes_max=1 << 20, timeout_s=30
    )
