"""Peers that freeze or die: processes of their own, on loopback."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator

import pytest

from demo_node.mesh import bounds
from demo_node.ports import Blob, BlobRequest, Topic, Unreachable
from tests.mesh.child import ECHO
from tests.mesh.hosts import RUN, Host, free_port, hosts, link, on_uvloop
from tests.waiting import wait_until

pytestmark = pytest.mark.swarm

NOTICED_S = 25.0
"""For a peer that freezes; 2 to 3 s at this test's interval, 4 to 5 s in life."""


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "HEALTH_INTERVAL_S", 0.5)


@contextlib.asynccontextmanager
async def process(
    role: str, host: Host, number: int
) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A child in a role, and its address."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.mesh.child",
        role,
        host.address,
        str(number),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert child.stdout is not None
        yield child, (await child.stdout.readline()).decode().strip()
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.communicate()


@contextlib.asynccontextmanager
async def child(host: Host, size: int) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A process that pulls `size` bytes from `host` for ever, and its address."""
    host.held[RUN] = os.urandom(size)
    async with process("pull", host, size) as (made, address):
        await wait_until(lambda: host.asked)
        yield made, address


async def echoed(host: Host, word: bytes) -> None:
    """Gossip flows there and back: what is said is answered, every time it is said."""
    await wait_until(lambda: all(host.mesh.mesh_peers(t) for t in Topic), NOTICED_S)
    await host.mesh.publish(Topic.HEADERS, word)
    await wait_until(lambda: ECHO + word in host.messages(), NOTICED_S)


@pytest.mark.parametrize("size", [1000, 100_000_000], ids=["idle", "amid a transfer"])
@on_uvloop
async def test_a_frozen_peer_is_dropped_others_are_not_and_it_may_come_back(size: int) -> None:
    async with hosts(2) as (a, b):
        await link((a, b))
        async with child(a, size) as (process, address):
            (frozen,) = {p.peer for p in a.mesh.peers()} - {b.mesh.peer}
            process.send_signal(signal.SIGSTOP)
            with pytest.raises(Unreachable):
                await a.mesh.request(frozen, BlobRequest(Blob.HEAD), bytes_max=9, timeout_s=0.5)
            await b.mesh.publish(Topic.HEADERS, b"meanwhile")
            await wait_until(lambda: a.messages() == [b"meanwhile"], 5)
            await wait_until(lambda: [p.peer for p in a.mesh.peers()] == [b.mesh.peer], NOTICED_S)
            await wait_until(lambda: not a.mesh.serving())
            process.send_signal(signal.SIGCONT)
            assert await a.mesh.connect(address) == frozen


@on_uvloop
async def test_a_killed_peer_is_noticed_at_once() -> None:
    async with hosts(1) as (a,), child(a, 1000) as (process, _):
        process.kill()
        await wait_until(lambda: not a.mesh.peers(), 5)


@on_uvloop
async def test_a_process_that_is_killed_and_started_again_is_heard_again() -> None:
    port = free_port()
    async with hosts(1) as (a,):
        for life in range(3):
            async with process("echo", a, port) as (other, address):
                await echoed(a, b"life %d" % life)
                other.kill()
                await other.wait()
                await wait_until(lambda: not a.mesh.peers(), 5)
                for _ in range(3):
                    with pytest.raises(Unreachable, match="refused"):
                        await a.mesh.connect(address)


@on_uvloop
async def test_a_process_that_wakes_after_it_was_given_up_is_heard_again() -> None:
    async with hosts(1) as (a,), process("echo", a, free_port()) as (other, _):
        await echoed(a, b"before")
        other.send_signal(signal.SIGSTOP)
        await wait_until(lambda: not a.mesh.peers(), NOTICED_S)
        other.send_signal(signal.SIGCONT)
        await echoed(a, b"after")


@on_uvloop
async def test_a_process_that_wakes_before_it_was_given_up_missed_nothing() -> None:
    async with hosts(1) as (a,), process("echo", a, free_port()) as (other, _):
        await echoed(a, b"before")
        other.send_signal(signal.SIGSTOP)
        await a.mesh.publish(Topic.HEADERS, b"meanwhile")
        other.send_signal(signal.SIGCONT)
        await wait_until(lambda: ECHO + b"meanwhile" in a.messages(), NOTICED_S)


@on_uvloop
async def test_a_stop_does_not_wait_for_a_frozen_peer() -> None:
    async with hosts(1) as (a,), child(a, 100_000_000) as (process, _):
        process.send_signal(signal.SIGSTOP)
        await wait_until(a.mesh.serving)
        begin = time.monotonic()
        await a.mesh.stop()
        assert time.monotonic() - begin < 5
