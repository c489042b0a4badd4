"""Peers that ask for a payload before it is here are put off, and not for long."""

import asyncio

from demo_node.arrivals import UNHEARD_S, WAIT_MAX_S, WAITING_MAX, Arrivals
from demo_node.sim.whole.virtual_loop import run_virtual

NAME, RAW = b"name", b"payload"


async def lasts(arrivals: Arrivals, wait_s: float) -> tuple[bytes | None, float]:
    loop = asyncio.get_running_loop()
    begin_s = loop.time()
    return await arrivals.wait(NAME, wait_s), loop.time() - begin_s


def test_all_who_wait_get_it_when_it_comes_and_later_ones_until_the_disk_has_it() -> None:
    async def scenario() -> None:
        arrivals = Arrivals()
        arrivals.begin(NAME)
        waiting = [asyncio.create_task(lasts(arrivals, 10)) for _ in range(3)]
        await asyncio.sleep(4)
        assert arrivals.waiting == 3
        arrivals.come(NAME, RAW)
        assert await asyncio.gather(*waiting) == [(RAW, 4)] * 3
        assert await lasts(arrivals, 0) == (RAW, 0)
        arrivals.end(NAME)
        assert arrivals.waiting == 0
        assert await lasts(arrivals, 0) == (None, 0)

    run_virtual(scenario())


def test_nobody_waits_longer_than_it_said_nor_for_what_is_given_up() -> None:
    async def scenario() -> None:
        arrivals = Arrivals()
        arrivals.begin(NAME)
        arrivals.begin(NAME)  # once more, under another length
        assert await lasts(arrivals, 2.5) == (None, 2.5)
        assert await lasts(arrivals, 3600) == (None, WAIT_MAX_S)
        waiting = asyncio.create_task(lasts(arrivals, 10))
        await asyncio.sleep(2)
        arrivals.end(NAME)
        await asyncio.sleep(1)
        arrivals.end(NAME)
        assert await waiting == (None, 3)

    run_virtual(scenario())


def test_what_nobody_here_has_heard_of_is_waited_for_a_moment() -> None:
    """Its header may be on its way; a name that somebody made up costs little."""

    async def scenario() -> None:
        arrivals = Arrivals()
        assert await lasts(arrivals, 10) == (None, UNHEARD_S)
        waiting = asyncio.create_task(lasts(arrivals, 10))
        await asyncio.sleep(UNHEARD_S / 2)
        arrivals.begin(NAME)
        await asyncio.sleep(2 * UNHEARD_S)
        arrivals.come(NAME, RAW)
        assert await waiting == (RAW, 2.5 * UNHEARD_S)

    run_virtual(scenario())


def test_so_many_wait_and_who_gives_up_leaves_room() -> None:
    async def scenario() -> None:
        arrivals = Arrivals()
        arrivals.begin(NAME)
        waiting = [asyncio.create_task(lasts(arrivals, 10)) for _ in range(WAITING_MAX)]
        await asyncio.sleep(1)
        assert await lasts(arrivals, 10) == (None, 0)
        waiting.pop().cancel()
        late = asyncio.create_task(lasts(arrivals, 5))
        await asyncio.sleep(1)
        arrivals.come(NAME, RAW)
        assert await late == (RAW, 1)
        assert await asyncio.gather(*waiting) == [(RAW, 2)] * (WAITING_MAX - 1)

    run_virtual(scenario())
