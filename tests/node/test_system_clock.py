"""The machine's clock under correction (rule 4)."""

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import time

import pytest

from demo_node.sim.whole.virtual_loop import run_virtual
from demo_node.system_clock import SLEW_BPS, SystemClock

EPOCH_MS = 1_700_000_000_000


class Machine:
    """Its two clocks, set by hand."""

    def __init__(self) -> None:
        self.boot_ms = 50_000
        self.wall_ahead_ms = EPOCH_MS

    def clock(self, offset_ms: int = 0) -> SystemClock:
        return SystemClock(
            offset_ms,
            boot_ms=lambda: self.boot_ms,
            wall_ms=lambda: self.boot_ms + self.wall_ahead_ms,
        )


def test_the_clock_begins_as_the_wall_clock_and_an_offset_makes_it_wrong() -> None:
    machine = Machine()
    assert machine.clock().now_ms() == EPOCH_MS + 50_000
    assert machine.clock(5_000).now_ms() == machine.clock(5_000).raw_now_ms() == EPOCH_MS + 55_000


def test_a_wall_clock_that_is_set_moves_what_peers_are_told_and_nothing_else() -> None:
    machine = Machine()
    clock = machine.clock()
    machine.wall_ahead_ms -= 30_000
    machine.boot_ms += 1_000
    assert clock.now_ms() == EPOCH_MS + 51_000
    assert clock.raw_now_ms() == EPOCH_MS + 21_000


def test_before_it_is_held_a_clock_steps_both_ways() -> None:
    clock = Machine().clock()
    for ahead_ms in (EPOCH_MS - 3_600_000, EPOCH_MS + 3_600_000, EPOCH_MS):
        clock.steer(ahead_ms, 10_000_000)
        assert clock.now_ms() == 50_000 + ahead_ms


@pytest.mark.parametrize("moved_ms", [-100, 100])
def test_held_it_slews_at_most_five_in_a_hundred_until_it_is_there(moved_ms: int) -> None:
    machine = Machine()
    clock = machine.clock()
    clock.hold()
    clock.steer(EPOCH_MS + moved_ms, 100)
    shown = [clock.now_ms()]
    for _ in range(30):
        machine.boot_ms += 100
        shown.append(clock.now_ms())
    steps = [later - earlier for earlier, later in itertools.pairwise(shown)]
    rate = 1 + SLEW_BPS / 10_000 * (1 if moved_ms > 0 else -1)
    assert set(steps[:20]) == {round(100 * rate)}
    assert set(steps[20:]) == {100}
    assert shown[-1] == machine.boot_ms + EPOCH_MS + moved_ms


def test_a_slew_that_is_turned_round_goes_on_from_where_it_is() -> None:
    machine = Machine()
    clock = machine.clock()
    clock.hold()
    clock.steer(EPOCH_MS + 100, 100)
    machine.boot_ms += 1_000
    assert clock.now_ms() == machine.boot_ms + EPOCH_MS + 50
    clock.steer(EPOCH_MS - 20, 100)
    assert clock.now_ms() == machine.boot_ms + EPOCH_MS + 50
    machine.boot_ms += 2_000
    assert clock.now_ms() == machine.boot_ms + EPOCH_MS - 20


def test_held_it_jumps_forward_and_stands_still_rather_than_go_back() -> None:
    machine = Machine()
    clock = machine.clock()
    clock.hold()
    before_ms = clock.now_ms()
    clock.steer(EPOCH_MS + 5_000, 100)
    assert clock.now_ms() == before_ms + 5_000
    clock.steer(EPOCH_MS, 100)
    for waited_ms in (0, 2_000, 5_000):
        machine.boot_ms = 50_000 + waited_ms
        assert clock.now_ms() == before_ms + 5_000
    machine.boot_ms += 1
    assert clock.now_ms() == before_ms + 5_001


def test_a_comparison_that_was_interrupted_is_made_again() -> None:
    """The process was stopped between the readings of the two clocks."""
    ticks = iter([0, 20_000, 20_000, 20_000, 20_000, 20_000, 20_000])
    clock = SystemClock(boot_ms=lambda: next(ticks), wall_ms=lambda: EPOCH_MS + 20_000)
    assert clock.ahead_ms == EPOCH_MS


def test_a_sleeper_wakes_by_the_corrected_clock_also_where_that_stands_still() -> None:
    async def scenario() -> list[float]:
        loop = asyncio.get_running_loop()
        clock = SystemClock(
            boot_ms=lambda: round(loop.time() * 1000),
            wall_ms=lambda: round(loop.time() * 1000) + EPOCH_MS,
        )
        clock.hold()
        woken = []

        async def sleeper(deadline_ms: int) -> None:
            await clock.sleep_until_ms(deadline_ms)
            assert clock.now_ms() >= deadline_ms
            woken.append(round(loop.time(), 2))

        async def operator() -> None:
            await asyncio.sleep(1)
            clock.steer(EPOCH_MS + 60_000, 100)  # 61 s at once
            await asyncio.sleep(3)
            clock.steer(EPOCH_MS + 55_000, 100)

        before_ms = clock.now_ms()
        await asyncio.gather(
            operator(),
            *(sleeper(before_ms + after_ms) for after_ms in (500, 60_000, 64_500, 70_000)),
        )
        return woken

    woken = run_virtual(scenario())
    assert woken[0] == 0.5
    assert 1 < woken[1] <= 2
    assert woken[2:] == [9.5, 15.0]


def test_a_short_rest_is_not_slept_over_and_over_while_the_clock_stands_still() -> None:
    async def scenario() -> int:
        loop = asyncio.get_running_loop()
        reads = 0

        def boot_ms() -> int:
            nonlocal reads
            reads += 1
            return round(loop.time() * 1000)

        clock = SystemClock(boot_ms=boot_ms, wall_ms=lambda: EPOCH_MS)
        clock.hold()
        before_ms = clock.now_ms()
        clock.steer(clock.ahead_ms - 60_000, 100)
        await clock.sleep_until_ms(before_ms + 10)
        return reads

    assert run_virtual(scenario()) <= 2 * 60 + 20


CHILD = """
import sys
from demo_node.system_clock import SystemClock
clock = SystemClock()
clock.hold()
print("up", flush=True)
for _ in sys.stdin:
    print(clock.now_ms(), flush=True)
"""


def test_a_process_that_was_stopped_has_the_right_time_at_once() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == "up\n"
        os.kill(child.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, child.pid, os.WSTOPPED)
        time.sleep(1.5)  # what it misses
        os.kill(child.pid, signal.SIGCONT)
        asked_ms = time.time_ns() // 1_000_000
        child.stdin.write("now\n")
        child.stdin.flush()
        told_ms = int(child.stdout.readline())
        answered_ms = time.time_ns() // 1_000_000
        child.stdin.close()
    assert asked_ms - 10 <= told_ms <= answered_ms + 10
