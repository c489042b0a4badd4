"""The work for a join: beside the loop, in slices, given up when its hour is over (rule 26)."""

import asyncio

from demo_node.sim.whole.silent_observer import SilentObserver
from demo_node.sim.whole.virtual_loop import VirtualClock, run_virtual
from demo_node.stamping import SLICE, make_stamp
from demo_protocol.admission import HOUR_MS, compute_hour, search_stamp
from demo_protocol.effects import MakeStamp
from demo_protocol.events import StampMade
from demo_protocol.schedule import round_at
from tests.builders import schedule

TIMING = schedule()


def ordered(bits: int, clock: VirtualClock) -> MakeStamp:
    """What a machine asks for now."""
    return MakeStamp(compute_hour(TIMING, round_at(TIMING, clock.now_ms())), b"seed", bits)


def test_a_stamp_is_found_over_several_slices_and_what_it_took_is_said_once() -> None:
    async def main() -> None:
        clock, observer = VirtualClock(), SilentObserver()
        order = ordered(16, clock)
        expected = search_stamp(b"seed", 16, 0, 1 << 22)
        assert expected is not None
        assert expected > SLICE
        made = await make_stamp(order, TIMING, clock, observer)
        assert isinstance(made, StampMade)
        assert (made.hour, made.nonce) == (order.hour, expected)
        assert [name for name, _ in observer.events] == ["stamp.begun", "stamp.made"]
        assert observer.events[0][1] == {"bits": 16, "hashes": 1 << 16}
        assert observer.events[1][1]["hashes"] == expected + 1

    run_virtual(main())


class LaterEveryTime:
    """A clock that is a quarter of an hour on whenever it is looked at."""

    def __init__(self, now_ms: int) -> None:
        self.now = now_ms

    def now_ms(self) -> int:
        self.now += HOUR_MS // 4
        return self.now

    async def sleep_until_ms(self, at_ms: int) -> None:
        self.now = at_ms


def test_it_is_given_up_when_the_hour_is_over() -> None:
    begin_ms = (TIMING.genesis_ms // HOUR_MS + 1) * HOUR_MS
    order = MakeStamp(compute_hour(TIMING, round_at(TIMING, begin_ms + TIMING.round_ms)), b"", 200)
    clock, observer = LaterEveryTime(begin_ms), SilentObserver()
    assert asyncio.run(make_stamp(order, TIMING, clock, observer)) is None
    assert [name for name, _ in observer.events] == ["stamp.begun"]
    assert clock.now == begin_ms + HOUR_MS
