"""The work for a join, where a run wants a stamp (rule 26): in a thread, in slices."""

import asyncio
import time
from typing import Final

from demo_node.observer import RoundObserver
from demo_node.ports import Clock
from demo_protocol.admission import compute_hour, search_stamp
from demo_protocol.effects import MakeStamp
from demo_protocol.events import StampMade
from demo_protocol.schedule import Schedule, round_at

SLICE: Final = 1 << 14
"""Hashes at a time, about 15 ms: between two of them it is asked whether the hour is over."""


async def make_stamp(
    effect: MakeStamp, schedule: Schedule, clock: Clock, observer: RoundObserver
) -> StampMade | None:
    """A stamp, or None once its hour is over: then another is asked for.

    What it takes is said once, before and after.
    """
    begin_s, first = time.perf_counter(), 0
    observer.on_event("stamp.begun", bits=effect.bits, hashes=1 << effect.bits)
    while compute_hour(schedule, round_at(schedule, clock.now_ms())) <= effect.hour:
        nonce = await asyncio.to_thread(search_stamp, effect.seed, effect.bits, first, SLICE)
        if nonce is not None:
            seconds = round(time.perf_counter() - begin_s, 1)
            observer.on_event("stamp.made", bits=effect.bits, hashes=nonce + 1, seconds=seconds)
            return StampMade(clock.now_ms(), effect.hour, nonce)
        first += SLICE
    return None
