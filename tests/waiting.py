"""The one allowed wait in tests: until something holds, at most so long."""

import asyncio
import time
from collections.abc import Callable

PAUSE_S = 0.01


async def wait_until(holds: Callable[[], object], deadline_s: float = 20) -> None:
    """Return as soon as `holds()` is true; fail the test after `deadline_s`."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + deadline_s
    while not holds():
        if loop.time() > deadline:
            raise AssertionError(f"not within {deadline_s} s: {holds}")
        await asyncio.sleep(PAUSE_S)


def wait_until_sync(holds: Callable[[], object], deadline_s: float = 20) -> None:
    """The same outside of an event loop."""
    deadline = time.monotonic() + deadline_s
    while not holds():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {deadline_s} s: {holds}")
        time.sleep(PAUSE_S)
