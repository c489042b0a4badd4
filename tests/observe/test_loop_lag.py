import asyncio
import time

from demo_node.observe.loop_lag import INTERVAL_S, watch_loop_lag


def test_a_blocked_loop_shows() -> None:
    async def run() -> float:
        lag: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        watch = asyncio.create_task(watch_loop_lag(lag.set_result))
        await asyncio.sleep(0)
        time.sleep(INTERVAL_S + 0.1)  # noqa: ASYNC251  # a blocked loop is what is tested
        seconds = await asyncio.wait_for(lag, 10)
        watch.cancel()
        return seconds

    assert asyncio.run(run()) >= 0.1
