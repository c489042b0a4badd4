"""What `Guest` promises, each promise one test, on uvloop."""

import asyncio
import itertools
import signal
import threading
import time

import pytest
import trio

from demo_node.mesh.guest import Guest, GuestClosed
from demo_node.mesh.ticks import Ticks
from tests.mesh.hosts import guests, on_uvloop
from tests.waiting import wait_until


async def nothing() -> None:
    """A trio function that does not wait."""


async def add(a: int, b: int) -> int:
    await trio.lowlevel.checkpoint()
    return a + b


async def fail() -> None:
    await trio.lowlevel.checkpoint()
    raise ValueError("in trio")


@on_uvloop
async def test_a_result_and_an_error_cross_and_the_guest_survives() -> None:
    async with guests() as guest:
        assert await guest.call(add, 1, 2) == 3
        with pytest.raises(ValueError, match="in trio"):
            await guest.call(fail)
        assert await guest.call(add, 2, 2) == 4


@on_uvloop
async def test_cancelling_the_asyncio_side_unwinds_the_trio_side_first() -> None:
    log: list[str] = []

    async def long() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.01)
            log.append("unwound")

    async with guests() as guest:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await guest.call(long)
        assert log == ["unwound"]


@on_uvloop
async def test_an_error_while_unwinding_is_not_lost_as_a_warning() -> None:
    async def bad_end() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("while unwinding")

    async with guests() as guest:
        call = asyncio.create_task(guest.call(bad_end))
        await asyncio.sleep(0.01)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await guest.call(add, 1, 1) == 2


@on_uvloop
async def test_stopping_ends_running_and_later_calls() -> None:
    async with guests() as guest:
        running = asyncio.create_task(guest.call(trio.sleep_forever))
        await guest.call(nothing)
        await guest.stop()
        with pytest.raises(GuestClosed):
            await running
        with pytest.raises(GuestClosed):
            await guest.call(nothing)
        await guest.wait()
        await guest.stop()


@on_uvloop
async def test_stopping_lets_every_task_finish_its_finally() -> None:
    log: list[str] = []

    async def task(*, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:  # type: ignore[name-defined]
        try:
            task_status.started()
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.01)
            log.append("tidied")

    async with guests() as guest:
        await guest.spawn(task)
        await guest.spawn(task)
    assert log == ["tidied", "tidied"]


@on_uvloop
async def test_an_error_in_a_spawned_task_ends_the_guest_and_wait_raises_it() -> None:
    async def bad(*, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:  # type: ignore[name-defined]
        task_status.started("up")
        await trio.lowlevel.checkpoint()
        raise RuntimeError("mesh died")

    async with guests() as guest:
        assert await guest.spawn(bad) == "up"
        with pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="mesh died")):
            await guest.wait()


@on_uvloop
async def test_an_error_before_a_task_has_started_goes_to_who_spawned_it() -> None:
    async with guests() as guest:
        with pytest.raises(ValueError, match="in trio"):
            await guest.spawn(lambda task_status: fail())
        assert await guest.call(add, 1, 1) == 2


@on_uvloop
async def test_trio_may_ask_asyncio() -> None:
    async def double(x: int) -> int:
        await asyncio.sleep(0.001)
        return x * 2

    async def refuse() -> None:
        raise KeyError("no")

    async def talk() -> int:
        with pytest.raises(KeyError):
            await guest.ask(refuse)
        return await guest.ask(double, 21)

    async with guests() as guest:
        assert await guest.call(talk) == 42


@on_uvloop
async def test_a_cancelled_question_unwinds_the_asyncio_side_first() -> None:
    log: list[str] = []

    async def slow() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            log.append("unwound")

    async def talk() -> bool:
        with trio.move_on_after(0.02) as scope:
            await guest.ask(slow)
        return scope.cancelled_caught

    async with guests() as guest:
        assert await guest.call(talk)
        assert log == ["unwound"]


@on_uvloop
async def test_cancelling_a_call_that_asks_unwinds_both_sides() -> None:
    log: list[str] = []

    async def slow() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            log.append("asyncio")

    async def talk() -> None:
        try:
            await guest.ask(slow)
        finally:
            log.append("trio")

    async with guests() as guest:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await guest.call(talk)
        assert log == ["asyncio", "trio"]


@on_uvloop
async def test_a_question_whose_task_was_cancelled_from_outside_says_so() -> None:
    tasks: list[asyncio.Task[None] | None] = []

    async def slow() -> None:
        tasks.append(asyncio.current_task())
        await asyncio.sleep(60)

    async with guests() as guest:
        call = asyncio.create_task(guest.call(guest.ask, slow))
        await wait_until(lambda: tasks)
        assert tasks[0]
        tasks[0].cancel()
        with pytest.raises(GuestClosed):
            await call


@on_uvloop
async def test_neither_loop_starves_the_other() -> None:
    ticks = {"trio": 0, "asyncio": 0}

    async def trio_ticks() -> None:
        while True:
            await trio.sleep(0.002)
            ticks["trio"] += 1

    async def asyncio_ticks() -> None:
        while True:
            await asyncio.sleep(0.002)
            ticks["asyncio"] += 1

    async def trio_spin() -> None:
        while True:
            await trio.lowlevel.checkpoint()

    async def asyncio_spin() -> None:
        for _ in itertools.count():
            await asyncio.sleep(0)

    async with guests() as guest:
        for spin in (guest.call(trio_spin), asyncio_spin()):
            ticks.update(trio=0, asyncio=0)
            running = [spin, guest.call(trio_ticks), asyncio_ticks()]
            tasks = [asyncio.ensure_future(c) for c in running]
            await wait_until(lambda: min(ticks.values()) > 10, deadline_s=10)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@on_uvloop
async def test_a_hop_is_cheap() -> None:
    async def now() -> float:
        return time.perf_counter()

    async with guests() as guest:
        hops = []
        for _ in range(500):
            begin = time.perf_counter()
            await guest.call(guest.ask, now)
            hops.append(time.perf_counter() - begin)
    assert sorted(hops)[250] < 0.005  # 0.1 ms on a quiet core


@on_uvloop
async def test_asyncio_keeps_its_signal_handlers() -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, stop.set)  # before the guest run, as a daemon does
    try:
        async with guests() as guest:
            await guest.call(nothing)
            signal.raise_signal(signal.SIGINT)
            async with asyncio.timeout(5):
                await stop.wait()
            assert await guest.call(add, 1, 1) == 2
    finally:
        loop.remove_signal_handler(signal.SIGINT)


@on_uvloop
async def test_one_thread_hosts_one_guest() -> None:
    async with guests():
        with pytest.raises(RuntimeError):
            await Guest().start()


@on_uvloop
async def test_no_thread_waits_in_trios_place() -> None:
    before = set(threading.enumerate())
    async with guests() as guest:
        waiting = asyncio.create_task(guest.call(trio.sleep, 0.05))
        await asyncio.sleep(0.02)
        assert set(threading.enumerate()) <= before
        await waiting


@on_uvloop
async def test_a_sleep_ends_in_time_though_another_would_have_ended_sooner_or_later() -> None:
    async with guests() as guest:
        begin_s = time.monotonic()
        late = asyncio.create_task(guest.call(trio.sleep, 30))
        soon = [asyncio.create_task(guest.call(trio.sleep, s)) for s in (0.2, 0.05, 0.1)]
        await soon[1]
        assert time.monotonic() - begin_s >= 0.05
        await asyncio.gather(*soon)
        assert 0.2 <= time.monotonic() - begin_s < 5
        late.cancel()
        with pytest.raises(asyncio.CancelledError):
            await late


def test_where_asyncio_cannot_wait_for_trio_it_is_left_to_itself() -> None:
    loop = asyncio.new_event_loop()
    try:
        assert not Ticks.take_over(lambda: None, loop)
    finally:
        loop.close()
