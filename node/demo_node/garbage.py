"""Short pauses of Python's garbage collector: it stops every thread for as long as it looks.

Modules alone are 130,000 objects, which a full collection looks at for 75 ms, about once a minute;
a chain of 200 members and 200 rounds is as many again. Objects that are set aside (`gc.freeze`) are
not looked at any more. They still go when nobody refers to them; only what needs the collector to
be freed, because it refers to itself in a circle, then stays. So objects are set aside only when a
collection has just found all of them in use, and everything is looked at again some hours later, or
when there is twice as much of it.
"""

import asyncio
import contextlib
import gc
import time
from collections.abc import Iterator
from typing import Final

PAUSE_S: Final = 0.004
"""A full collection that takes longer sets aside what it has looked at."""

EVERY_S: Final = 2.0
"""Between full collections. Python itself waits until there are many objects more to look at."""

ALL_EVERY_S: Final = 6 * 3600.0
"""Between two that look at everything, where more was set aside meanwhile: a connection that has
ended since is a circle of some 100 kB. They are the only long pauses."""

GROWTH_MAX: Final = 1.0
"""Everything is looked at sooner where what was set aside since takes more than so many times as
long to look at as all of it did: strangers who come and go would fill the memory meanwhile."""

FULL: Final = 2
"""The generation whose collection looks at all that is not set aside."""


class _Collector:
    """Python's, of which a process has one. By time: to count what is set aside takes 15 ms."""

    all_s = 0.0
    """What looking at everything took, the last time."""
    set_aside_s = 0.0
    """What looking at that took which was set aside since."""


@contextlib.contextmanager
def short_pauses() -> Iterator[None]:
    """Set aside what is there now, and inside the block whatever comes to stay."""
    began_s = 0.0

    def on_collection(phase: str, info: dict[str, int]) -> None:
        nonlocal began_s
        if info["generation"] != FULL:
            return
        if phase == "start":
            began_s = time.thread_time()
        elif (took_s := time.thread_time() - began_s) > PAUSE_S:
            gc.freeze()
            _Collector.set_aside_s += took_s

    _look_at_all()
    gc.freeze()
    gc.callbacks.append(on_collection)
    try:
        yield
    finally:
        gc.callbacks.remove(on_collection)
        gc.unfreeze()


async def collect_often() -> None:
    """Look while little has come since the last time, for ever. A task of the daemon's group."""
    loop = asyncio.get_running_loop()
    looked_at_all_s = loop.time()
    while True:
        await asyncio.sleep(EVERY_S)
        is_due = _Collector.set_aside_s and loop.time() - looked_at_all_s > ALL_EVERY_S
        if is_due or _Collector.set_aside_s > GROWTH_MAX * _Collector.all_s:
            _look_at_all()
            looked_at_all_s = loop.time()
        else:
            gc.collect()


def _look_at_all() -> None:
    gc.unfreeze()
    began_s = time.thread_time()
    gc.collect()
    _Collector.all_s, _Collector.set_aside_s = time.thread_time() - began_s, 0.0
