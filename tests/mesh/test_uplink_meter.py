"""Measuring an uplink by what is acknowledged, on virtual time, and what it needs of a socket."""

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from demo_node.mesh.uplink_meter import LINGER_S, LOOK_S, UplinkMeter
from demo_node.ports import Blob, BlobRequest, Slice
from demo_node.uplink import SLICE_S, is_whole
from tests.mesh.hosts import hosts, on_uvloop
from tests.waiting import wait_until


class Link:
    """Sends what it is given at so many bytes a second, and hears of it a round trip later."""

    def __init__(self, bytes_per_s: float, rtt_s: float = 0.05) -> None:
        self.rate, self.rtt_s = bytes_per_s, rtt_s
        self.written = 0
        self._acknowledged = 0.0
        self._at_s = 0.0

    def write(self, size: int) -> None:
        self.acknowledged()
        if self.written == int(self._acknowledged):
            self._at_s = trio.current_time() + self.rtt_s
        self.written += size

    def acknowledged(self) -> int:
        now_s = trio.current_time()
        if now_s > self._at_s:
            more = (now_s - self._at_s) * self.rate
            self._acknowledged = min(self._acknowledged + more, self.written)
            self._at_s = now_s
        return int(self._acknowledged)

    def unacknowledged(self) -> int:
        return self.written - self.acknowledged()


def measured(link: Link, send: Callable[[UplinkMeter], Awaitable[None]]) -> Slice:
    meter = UplinkMeter(link.acknowledged, link.unacknowledged)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(meter.run)
            await send(meter)
            await trio.sleep(100)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    return meter.fastest.take()


@pytest.mark.parametrize("mbit", [0.5, 2, 10, 100])
def test_a_link_that_is_busy_is_measured_within_a_tenth(mbit: float) -> None:
    link = Link(mbit * 125_000)

    async def send(meter: UplinkMeter) -> None:
        with meter.reply():
            for _ in range(100):  # ten seconds of it
                link.write(int(link.rate / 10))
                await trio.sleep(0.1)

    seen = measured(link, send)
    assert is_whole(seen)
    assert seen.bytes_per_s == pytest.approx(link.rate, rel=0.1)


def test_pauses_between_replies_are_no_part_of_it() -> None:
    link = Link(250_000)

    async def send(meter: UplinkMeter) -> None:
        for _ in range(5):
            with meter.reply():
                link.write(250_000)
                await trio.sleep(0.5)
            await trio.sleep(30)

    assert measured(link, send).bytes_per_s == pytest.approx(link.rate, rel=0.15)


def test_what_is_over_soon_is_no_whole_slice() -> None:
    link = Link(1e9, rtt_s=0.04)

    async def send(meter: UplinkMeter) -> None:
        with meter.reply():
            link.write(10_000)
            await trio.sleep(0.01)

    seen = measured(link, send)
    assert not is_whole(seen)
    assert seen.seconds <= 0.04 + 2 * LOOK_S


def test_a_peer_that_acknowledges_nothing_is_not_waited_for() -> None:
    link = Link(0.0)
    looked: list[float] = []

    async def send(meter: UplinkMeter) -> None:
        with meter.reply():
            link.write(1_000_000)
        await trio.sleep(LINGER_S + SLICE_S)
        looked.append(trio.current_time())

    def count() -> int:
        looked.append(trio.current_time())
        return link.written

    link.unacknowledged = count  # type: ignore[method-assign]
    assert measured(link, send).bytes == 0
    assert max(looked) <= 2 * (LINGER_S + SLICE_S)


@on_uvloop
async def test_a_host_measures_what_it_gives_away() -> None:
    """On loopback: how fast nobody knows, but it is all seen, and only once."""
    async with hosts(2) as (a, b):
        await a.mesh.connect(b.address)
        b.held = {b"key": bytes(8 << 20)}
        asked = BlobRequest(Blob.PAYLOAD, b"key")
        await a.mesh.request(b.mesh.peer, asked, bytes_max=8 << 20, timeout_s=30)
        seen: list[Slice] = []

        def has_seen() -> bool:
            seen.append(b.mesh.take_uplink())
            return seen[-1].bytes > 0

        await wait_until(has_seen)
        assert seen[-1].bytes <= 9 << 20
        await wait_until(lambda: b.mesh._tcp.count_unacknowledged() == 0)
        assert b.mesh._tcp.count_acknowledged() == b.mesh.counters().bytes_out
        assert a.mesh.take_uplink() == Slice()  # who only asks learns nothing of its uplink


@on_uvloop
async def test_behind_a_cap_a_host_sees_the_cap() -> None:
    """Sockets, frames and wrapping are real, and the rate is known."""
    rate = 200_000
    async with hosts(2) as (a, b):
        await a.mesh.connect(b.address)
        b.mesh.set_caps(rate, 0)
        b.held = {b"key": bytes(3 * rate)}
        asked = BlobRequest(Blob.PAYLOAD, b"key")
        await a.mesh.request(b.mesh.peer, asked, bytes_max=3 * rate, timeout_s=30)
        seen = b.mesh.take_uplink()
        assert is_whole(seen)
        # The fastest quarter of a second: at its most, what had been saved up comes to it.
        assert 0.8 * rate <= seen.bytes_per_s <= 2.2 * rate
