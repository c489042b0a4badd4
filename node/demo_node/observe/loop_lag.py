"""Measure what goes wrong first on a shared loop: how late it wakes a sleeper."""

import asyncio
import random
from collections.abc import Callable
from typing import Final

MEAN_S: Final = 0.1
"""Between two looks. Ten a second cost 2 ms of a core; what blocks for 10 ms in every round is met
in one round of ten."""

LOOKS_MAX: Final = 50
"""At once, after a blockage: a process that stood still for an hour says so in few."""


async def watch_loop_lag(
    on_lag: Callable[[float], None], draw: Callable[[], float] = random.random
) -> None:
    """Tell how late a sleeper would have been woken, in seconds, for ever. A task of the daemon's.

    A fair sample: looks fall due at random moments, in step with nothing, and all that fell due
    while the loop was blocked are made. So the share of looks that were later than 10 ms is the
    share of time in which whoever had to be woken waited longer than that. `draw`: 0 to 1.
    """
    loop = asyncio.get_running_loop()
    due_s = loop.time() + 2 * MEAN_S * draw()
    while True:
        await asyncio.sleep(due_s - loop.time())
        now_s = loop.time()
        for _ in range(LOOKS_MAX):
            on_lag(max(0.0, now_s - due_s))
            due_s += 2 * MEAN_S * draw()
            if due_s > now_s:
                break
        else:
            due_s = now_s
