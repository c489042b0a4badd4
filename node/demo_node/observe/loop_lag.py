"""Measure what goes wrong first on a shared loop: how late it wakes a sleeper."""

import asyncio
from collections.abc import Callable
from typing import Final

INTERVAL_S: Final = 0.25
"""Four looks a second cost nothing and still meet every long blockage."""


async def watch_loop_lag(on_lag: Callable[[float], None]) -> None:
    """Report the overshoot of a sleep, in seconds, for ever. A task of the daemon's group."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + INTERVAL_S
        await asyncio.sleep(INTERVAL_S)
        on_lag(max(0.0, loop.time() - due))
