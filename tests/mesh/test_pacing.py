"""The caps: the bucket on virtual time, and real hosts behind a slow uplink."""

import asyncio
import hashlib
import os
import time
from collections import deque
from dataclasses import dataclass
from itertools import pairwise

import pytest
import trio
import trio.testing
from hypothesis import example, given
from hypothesis import strategies as st

from demo_node.mesh.libp2p import Libp2pMesh
from demo_node.mesh.pacing import BURST_S, DEBT_S, Bucket, Pacer
from demo_node.ports import Blob, BlobRequest, NotHeld, Topic
from demo_node.racing import Pace, Race
from tests.mesh.hosts import Host, hosts, link, on_uvloop, seed
from tests.waiting import wait_until


@dataclass(frozen=True)
class Step:
    """`do` happens after `after_s`, with `size` bytes; a new cap is `size` a second."""

    do: str
    after_s: float
    size: int


RATES = st.integers(1_000, 20_000_000)
STEPS = st.lists(
    st.builds(
        Step,
        do=st.sampled_from(["piece", "piece", "piece", "unpaid", "refund"]),
        after_s=st.one_of(st.just(0.0), st.floats(0, 5)),
        size=st.integers(1, 300_000),
    ),
    max_size=60,
)


class Pipe:
    """What a bucket lets through, on a clock of its own."""

    def __init__(self, rate: int) -> None:
        self.bucket = Bucket(rate, 0)
        self.now_s = 0.0
        self.passed: list[tuple[float, int]] = []
        """(when, bytes) of pieces that had their turn."""
        self.unpaid: list[tuple[float, int]] = []

    def carry_out(self, step: Step) -> None:
        self.now_s += step.after_s
        match step.do:
            case "piece":
                pause_s = self.bucket.pause_s(self.now_s)
                self.now_s += pause_s
                # No starvation: who has waited as long as it was told to has its turn.
                assert self.bucket.pause_s(self.now_s) <= 1e-6
                self.bucket.pay(step.size, self.now_s)
                self.bucket.passed(step.size, self.now_s)
                self.passed.append((self.now_s, step.size))
            case "unpaid":
                self.bucket.passed(step.size, self.now_s)
                self.unpaid.append((self.now_s, step.size))
            case "refund":  # of a reply that never came
                self.bucket.pay(step.size, self.now_s)
                self.bucket.refund(step.size, self.now_s)
            case _:
                self.bucket.set_rate(step.size, self.now_s)


def most_above(rate: float, moved: list[tuple[float, int]]) -> float:
    """The most that passed in any span of time beyond `rate` times its length."""
    most = excess = 0.0
    before_s = 0.0
    for at_s, size in moved:  # the best span that ends here: as with the largest sum of a part
        excess = max(excess - rate * (at_s - before_s), 0) + size
        most, before_s = max(most, excess), at_s
    return most


@given(rate=RATES, steps=STEPS)
def test_over_any_span_at_most_the_cap_and_one_burst_passes(rate: int, steps: list[Step]) -> None:
    """And one piece, whose turn comes while nothing is owed, however large it is."""
    pipe = Pipe(rate)
    for step in steps:
        pipe.carry_out(step)
    largest = max((size for _, size in pipe.passed), default=0)
    slack = pipe.bucket.burst + largest + 1
    assert most_above(rate, pipe.passed) <= slack * (1 + 1e-9)


@given(rate=RATES, steps=STEPS)
def test_what_passed_unasked_is_made_up_for(rate: int, steps: list[Step]) -> None:
    """As long as the debt is not at its bound: pieces and the rest together keep to the cap."""
    unpaid_max = int(rate * DEBT_S / 60)
    small = [
        Step("unpaid", s.after_s, min(s.size, unpaid_max)) if s.do == "unpaid" else s for s in steps
    ]
    pipe = Pipe(rate)
    for step in small:
        pipe.carry_out(step)
    moved = sorted(pipe.passed + pipe.unpaid)
    largest = max((size for _, size in pipe.passed), default=0)
    slack = pipe.bucket.burst + largest + sum(size for _, size in pipe.unpaid) + 1
    assert most_above(rate, moved) <= slack * (1 + 1e-9)
    at_s = pipe.now_s + pipe.bucket.pause_s(pipe.now_s)  # when all is paid back
    total = sum(size for _, size in moved)
    assert total <= (rate * at_s + pipe.bucket.burst) * (1 + 1e-9) + 1


@given(
    rate=RATES,
    steps=st.lists(
        st.builds(
            Step,
            do=st.sampled_from(["piece", "unpaid", "refund", "rate"]),
            after_s=st.floats(0, 5),
            size=st.integers(1_000, 20_000_000),
        ),
        max_size=40,
    ),
)
@example(rate=1_000_000, steps=[Step("unpaid", 0, 9_000_000), Step("rate", 0, 1_000)])
def test_debts_are_bounded(rate: int, steps: list[Step]) -> None:
    """Whatever came unasked, and whatever the cap was before: seconds, and the last piece."""
    pipe = Pipe(rate)
    for step in steps:
        pipe.carry_out(step)
        pieces = [size for _, size in pipe.passed[-1:]]
        most_s = DEBT_S + sum(size / pipe.bucket.rate for size in pieces)
        assert pipe.bucket.pause_s(pipe.now_s) <= most_s * (1 + 1e-9) + 1e-6


def test_the_cap_is_used_up_while_there_is_something_to_send() -> None:
    bucket = Bucket(100_000, 0)
    now_s, sent = 0.0, 0
    while now_s < 60:
        now_s += bucket.pause_s(now_s)
        bucket.pay(5000, now_s)
        bucket.passed(5000, now_s)
        sent += 5000
    assert 0.99 * 6_000_000 <= sent <= 1.01 * 6_000_000


def test_a_flood_of_gossip_silences_replies_for_some_seconds_and_no_longer() -> None:
    bucket = Bucket(1000, 0)
    bucket.passed(1_000_000, 0)
    assert bucket.pause_s(0) == DEBT_S
    assert bucket.pause_s(DEBT_S) == 0


def test_streams_get_equal_shares_however_many_pieces_they_want() -> None:
    got = [0, 0, 0]

    async def stream(pacer: Pacer, number: int) -> None:
        for _ in range(1000 if number else 50):
            await pacer.wait_turn(pacer.piece_bytes)
            pacer.passed(pacer.piece_bytes)
            got[number] += 1

    async def main() -> None:
        pacer = Pacer(200_000)
        with trio.move_on_after(6):
            async with trio.open_nursery() as nursery:
                for number in range(3):
                    nursery.start_soon(stream, pacer, number)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert max(got) - min(got) <= 1
    assert sum(got) == pytest.approx(6 * 20, abs=8)


def test_without_a_cap_nothing_waits() -> None:
    async def main() -> None:
        pacer = Pacer(0)
        assert await pacer.wait_turn(1 << 40) == 0
        pacer.passed(1 << 40)

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
async def test_what_we_pull_comes_at_the_cap_and_gossip_passes_meanwhile() -> None:
    """Several pulls at once, of which one is longer than a window: what comes keeps to the cap."""
    rate, window, body = 200_000, 256 << 10, 350_000
    async with hosts(1) as (b,):
        a = Host(Libp2pMesh(seed(9), download_bytes_per_s=rate, guest=b.mesh._guest))
        await a.mesh.start()
        await a.join()
        await link((b, a))
        b.held = {b"long": bytes(body), b"other": bytes(100_000), b"small": bytes(3000)}
        readings = [(time.monotonic(), a.mesh.counters().bytes_in)]
        # Our own cap is not the peer's slowness: a second would be too little for any of these.
        pulls = [
            asyncio.create_task(ask(a, b, key, timeout_s=1))
            for key in (b"long", b"other", b"other")
        ]
        await b.mesh.publish(Topic.HEADERS, b"meanwhile")
        await wait_until(lambda: b"meanwhile" in a.messages())
        assert await ask(a, b, b"small", kind=Blob.SETS, timeout_s=1) == bytes(3000)
        assert not all(pull.done() for pull in pulls)
        while not all(pull.done() for pull in pulls):
            readings.append((time.monotonic(), a.mesh.counters().bytes_in))
            await asyncio.sleep(0.02)
        assert [len(await pull) for pull in pulls] == [body, 100_000, 100_000]
        most = excess = 0.0
        for (before_s, before), (now_s, now) in pairwise(readings):
            excess = max(excess + now - before - rate * (now_s - before_s), 0)
            most = max(most, excess)
        # Bytes are counted as they come, a window of the long one perhaps at once.
        assert most <= rate * BURST_S + window + 30_000
        await a.mesh.stop()


@on_uvloop
async def test_nobody_else_is_asked_because_of_our_own_cap() -> None:
    async with hosts(2) as made:
        a = Host(Libp2pMesh(seed(9), download_bytes_per_s=50_000, guest=made[0].mesh._guest))
        await a.mesh.start()
        await a.join()
        raw = os.urandom(200_000)
        for b in made:
            await a.mesh.connect(b.address)
            b.held = {hashlib.sha256(raw).digest(): raw}
        request = BlobRequest(Blob.PAYLOAD, hashlib.sha256(raw).digest())
        await ask(a, made[0], request.key)  # what comes next waits almost four seconds
        race = Race(a.mesh, request, len(raw), Pace(), patience_s=6.0, limit_s=6.0, giving_s=60.0)
        assert await race.run(deque(b.mesh.peer for b in made)) == raw
        assert race.hedges == 0
        assert race.giver == made[0].mesh.peer
        await a.mesh.stop()


@on_uvloop
async def test_a_cap_that_is_lifted_holds_nobody_up_any_more() -> None:
    async with hosts(1) as (b,):
        a = Host(Libp2pMesh(seed(9), download_bytes_per_s=1_000, guest=b.mesh._guest))
        await a.mesh.start()
        await a.join()
        await b.mesh.connect(a.address)
        b.held = {b"long": bytes(300_000)}
        pull = asyncio.create_task(ask(a, b, b"long"))  # five minutes at the cap
        await wait_until(lambda: a.mesh.counters().bytes_in > 250_000)  # its first window
        a.mesh.set_caps(0, 0)
        assert await pull == bytes(300_000)
        await a.mesh.stop()


@on_uvloop
async def test_what_did_not_come_costs_nothing() -> None:
    """Else a few pulls of what a peer does not hold would use up the cap."""
    async with hosts(1) as (b,):
        a = Host(Libp2pMesh(seed(9), download_bytes_per_s=10_000, guest=b.mesh._guest))
        await a.mesh.start()
        await a.join()
        await b.mesh.connect(a.address)
        begin = time.monotonic()
        for _ in range(10):  # each would take 26 s
            with pytest.raises(NotHeld):
                await ask(a, b, b"none")
        assert time.monotonic() - begin < 20
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


async def ask(
    asking: Host, holder: Host, key: bytes, *, kind: Blob = Blob.PAYLOAD, timeout_s: float = 30
) -> bytes:
    request = BlobRequest(kind, key)
    return await asking.mesh.request(
        holder.mesh.peer, request, bytes_max=1 << 20, timeout_s=timeout_s
    )
