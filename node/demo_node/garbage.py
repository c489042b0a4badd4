"""Short pauses of Python's garbage collector: it stops every thread for as long as it looks.

Modules alone are 130,000 objects, which a full collection looks at for 75 ms, about once a minute;
a chain of 200 members and 200 rounds is as many again. Objects that are set aside (`gc.freeze`) are
not looked at any more. They still go when nobody refers to them; only what would need the collector
to be freed, because it refers to itself in a circle, then stays. So nothing is set aside before a
full collection has just said that all of it is in use, and again only after much more has come.
"""

import contextlib
import gc
import time
from collections.abc import Iterator
from typing import Final

PAUSE_S: Final = 0.004
"""A full collection that takes longer sets aside what it has looked at."""

FULL: Final = 2
"""The generation whose collection looks at everything."""


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
        elif time.thread_time() - began_s > PAUSE_S:
            gc.freeze()

    gc.collect()
    gc.freeze()
    gc.callbacks.append(on_collection)
    try:
        yield
    finally:
        gc.callbacks.remove(on_collection)
        gc.unfreeze()
