import asyncio

import pytest

from demo_node.observe import loop_lag
from demo_node.observe.loop_lag import MEAN_S, watch_loop_lag
from demo_node.sim.whole.virtual_loop import VirtualLoop


def look(*blocked_s: float, then_s: float = 0.0) -> list[float]:
    """All lags, in MEAN_S, at looks due every MEAN_S of a loop that is blocked from 0.0 s on."""
    lags: list[float] = []

    async def run() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        watch = asyncio.create_task(watch_loop_lag(lags.append, lambda: 0.5))
        await asyncio.sleep(0)
        for seconds in blocked_s:
            loop.block(seconds)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        await asyncio.sleep(then_s)
        watch.cancel()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(run())
    return [round(lag / MEAN_S, 3) for lag in lags]


def test_a_loop_that_is_free_has_no_lag() -> None:
    assert look(then_s=5.5 * MEAN_S) == [0.0] * 5


def test_a_blocked_loop_shows_in_every_look_that_fell_due_meanwhile() -> None:
    assert look(4.5 * MEAN_S, then_s=1.4 * MEAN_S) == [3.5, 2.5, 1.5, 0.5, 0.0]


def test_a_process_that_stood_still_says_so_in_few_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_lag, "LOOKS_MAX", 2)
    assert look(1_000_000 * MEAN_S, then_s=0.5 * MEAN_S) == [999_999.0, 999_998.0, 0.0]


def test_looks_fall_due_in_step_with_nothing() -> None:
    """Else work that comes every so often would always, or never, be met."""
    lags: list[float] = []
    due: list[float] = []

    async def run() -> None:
        loop = asyncio.get_running_loop()

        def on_lag(seconds: float) -> None:
            lags.append(seconds)
            due.append(loop.time())

        watch = asyncio.create_task(watch_loop_lag(on_lag))
        await asyncio.sleep(1_000 * MEAN_S)
        watch.cancel()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(run())
    phases = [(at / MEAN_S) % 1.0 for at in due]
    assert 800 < len(phases) < 1_200
    for tenth in range(10):
        assert 30 < sum(tenth <= 10 * phase < tenth + 1 for phase in phases) < 250
