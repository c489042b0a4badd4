"""Payloads among 16 peers over uplinks with a rate: whose carries what, and when all have it."""

import asyncio
import hashlib
from typing import cast

import pytest

from demo_node.copies import COPIES_MAX
from demo_node.mesh.memory import MemoryMesh
from demo_node.ports import BlobRequest, OnBlob
from demo_node.racing import MEASURED_MIN
from demo_node.sim.whole.virtual_loop import run_virtual
from demo_node.sparing import REFUSED_MAX, Sparing
from tests.node.spread import DELAY_S, GIVEN_UP_S, MBIT, ROUND_S, make_peers, spread

SIZE = 100_000
COUNT = 16


@pytest.mark.parametrize("mbit", [2, 10, 100])
def test_an_authors_uplink_carries_its_payload_three_times_at_most_and_all_have_it(
    mbit: int,
) -> None:
    """Sooner than where all ask the author, whose uplink then carries it 15 times."""
    was = run_virtual(spread(1, SIZE, lambda n: mbit, DELAY_S, before=True))
    now = run_virtual(spread(1, SIZE, lambda n: mbit, DELAY_S))
    assert was.author_copies >= COUNT - 1
    assert now.author_copies <= 3
    if mbit < 100:  # on a fast link what counts is the way
        assert now.all_s < 0.7 * was.all_s
    one_s = SIZE / MBIT / mbit
    assert now.all_s < 7 * one_s + 6 * DELAY_S


def test_one_slow_uplink_holds_up_nobody() -> None:
    def uplink(number: int) -> float:
        return 2 if number == 0 else 100

    now = run_virtual(spread(1, 1_000_000, uplink, DELAY_S))
    assert now.author_copies <= 3
    two_s = 2 * 1_000_000 / MBIT / 2
    assert now.all_s < 1.3 * two_s  # part of a third may go out meanwhile


@pytest.mark.parametrize("size", [SIZE, 4 * SIZE])
def test_where_all_are_authors_no_uplink_carries_much_more_than_another(size: int) -> None:
    now = run_virtual(spread(COUNT, size, lambda n: 10, DELAY_S))
    assert now.author_copies <= 3
    least_s = (COUNT - 1) * size / MBIT / 10
    assert now.all_s < 1.3 * least_s


def test_it_happens_the_same_way_every_time() -> None:
    first, again = (run_virtual(spread(COUNT, SIZE, lambda n: 2, DELAY_S)) for _ in range(2))
    assert first == again


def test_frozen_lying_and_slow_holders_hold_up_nobody() -> None:
    """A third of the peers; the author's uplink stays its own."""

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        raw = bytes(SIZE)

        async def freeze(asking: bytes, request: BlobRequest) -> bytes | None:
            await asyncio.sleep(3600)
            return None

        async def lie(asking: bytes, request: BlobRequest) -> bytes | None:
            return bytes([1]) * SIZE

        async def lack(asking: bytes, request: BlobRequest) -> bytes | None:
            return None

        wrong: dict[int, OnBlob] = {2: freeze, 5: lie, 8: lack, 11: freeze, 14: lie}
        peers = await make_peers(
            COUNT, lambda n: 0.1 if n == 7 else 10, DELAY_S, misbehave=wrong.get
        )
        for round_ in range(12):
            effect = peers[0].make(raw + bytes([round_]), round_=round_)
            begin_s, sent = loop.time(), peers[0].sent()
            pulls = [peer.pull(effect) for n, peer in enumerate(peers) if n not in {0, *wrong}]
            assert all(await asyncio.gather(*pulls))
            # In the first ones nobody knows yet what is slow.
            assert loop.time() - begin_s < (ROUND_S if round_ < MEASURED_MIN else ROUND_S / 4)
            assert peers[0].sent() - sent <= COPIES_MAX * len(raw) * 1.01
            assert not any(peer.arrivals.waiting for peer in peers)

    run_virtual(scenario())


def test_the_author_gives_it_to_whoever_finds_nobody_else() -> None:
    async def scenario() -> None:
        async def lack(asking: bytes, request: BlobRequest) -> bytes | None:
            return None

        wrong = dict.fromkeys(range(1, COUNT), lack)
        peers = await make_peers(COUNT, lambda n: 10, DELAY_S, misbehave=wrong.get)
        raw = bytes(SIZE)
        effect = peers[0].make(raw)
        loop = asyncio.get_running_loop()
        begin_s = loop.time()
        assert await asyncio.gather(*(p.pull(effect) for p in peers[1:])) == [raw] * (COUNT - 1)
        direct_s = (COUNT - 1) * SIZE / MBIT / 10
        assert loop.time() - begin_s < direct_s + 6

    run_virtual(scenario())


def test_a_request_that_is_called_off_leaves_the_uplink_to_others() -> None:
    async def scenario() -> None:
        peers = await make_peers(2, lambda n: 10, DELAY_S)
        raw = bytes(1_000_000)
        effect = peers[0].make(raw)
        pull = asyncio.create_task(peers[1].pull(effect))
        await asyncio.sleep(0.3)
        pull.cancel()
        await asyncio.wait([pull])
        sent = peers[0].sent()
        assert 0 < sent < len(raw) / 2
        await asyncio.sleep(10)
        assert peers[0].sent() == sent
        assert hashlib.sha256(raw).digest() == effect.payload_hash

    run_virtual(scenario())


def test_a_metered_node_gives_what_it_alone_has() -> None:
    """Once whoever asks has asked all others, twice; and those never ask it."""

    async def scenario() -> None:
        metered, asking, third = await make_peers(3, lambda n: 10, DELAY_S)
        metered.server.sparing = Sparing(metered.mesh, lambda name: False)
        effect = metered.make(bytes(SIZE), counts=False)
        loop = asyncio.get_running_loop()
        begin_s = loop.time()
        async with asyncio.timeout(GIVEN_UP_S):
            assert await asking.pull(effect) == bytes(SIZE)
        assert loop.time() - begin_s < ROUND_S / 4
        assert metered.asked == [(asking.mesh.peer, effect.payload_hash)] * (REFUSED_MAX + 1)
        async with asyncio.timeout(GIVEN_UP_S):
            assert await third.pull(effect) == bytes(SIZE)
        assert metered.given[effect.payload_hash] == 1

    run_virtual(scenario())


def test_leaves_of_a_star_have_it_soon_though_its_middle_says_busy() -> None:
    """They know nobody else: whoever says "busy" to them gives it in the end."""

    async def scenario() -> None:
        peers = await make_peers(COUNT, lambda n: 100, DELAY_S)
        middle, *leaves = peers
        for leaf in leaves:
            for other in leaves:
                cast(MemoryMesh, leaf.mesh).unlink(other.mesh.peer)
        effect = middle.make(bytes(SIZE))
        loop = asyncio.get_running_loop()
        begin_s = loop.time()
        assert all(await asyncio.gather(*(leaf.pull(effect) for leaf in leaves)))
        took_s = sorted(leaf.came_at_s[effect.payload_hash] - begin_s for leaf in leaves)
        direct_s = COUNT * SIZE / MBIT / 100 + 2 * DELAY_S
        assert took_s[-1] < direct_s + 0.8
        # Those who were sent on do not come back all at once.
        assert took_s[-1] - took_s[COPIES_MAX] > 0.1

    run_virtual(scenario())
