"""How a simulated node keeps its clock by the others' (rules 3 and 4): `demo_node.timekeeper`'s
walk with questions and answers modelled. What it decides is `demo_protocol.common_time`'s.
"""

from typing import TYPE_CHECKING

from demo_node.system_clock import SLEW_BPS
from demo_protocol.common_time import (
    Reading,
    choose_ahead_ms,
    choose_median,
    choose_reading,
    compute_reading,
    keep_readings,
)
from demo_protocol.schedule import BPS

if TYPE_CHECKING:
    from demo_node.sim.actor import Actor

ASKED = 8
"""Clocks that a node knows at once."""

ASK_MS = 10_000
"""How often it asks again."""

ANSWER_BYTES = 16


class Timekeeper:
    """Keeps the clock of one life of a node."""

    def __init__(self, actor: "Actor") -> None:
        self._actor = actor
        schedule = actor.world.manifest.schedule
        self._tolerance_ms = schedule.skew_max_ms // 4
        self._slew_max_ms = schedule.round_ms * SLEW_BPS // BPS
        self._kept: dict[int, tuple[Reading, ...]] = {}
        self._ever_verified = False

    def settle(self) -> None:
        """Ask before anything is signed: until now the clock may step freely."""
        self._ask()
        self._correct()
        self._actor.clock.hold()

    def run(self) -> None:
        """Ask and correct from now on, while the node lives."""
        self._actor.later(ASK_MS * 2 // 3 + self._actor.rng.randrange(ASK_MS * 2 // 3), self._again)

    def _again(self) -> None:
        self._ask()
        self._correct()
        self.run()

    def _ask(self) -> None:
        actor, world = self._actor, self._actor.world
        reachable = {i for i in self._kept if world.can_ask(actor, i)}
        self._kept = {i: kept for i, kept in self._kept.items() if i in reachable}
        if len(self._kept) < ASKED:
            for peer in world.peers_of(actor, ASKED):
                if len(self._kept) < ASKED:
                    self._kept.setdefault(peer.index, ())
        for index in self._kept:
            self._read(world.actors[index])

    def _read(self, peer: "Actor") -> None:
        """The answer is here at once; it says what it would have after its way there and back."""
        actor = self._actor
        took_ms = actor.world.links.pull_delay_ms(actor.index, peer.index, ANSWER_BYTES)
        there_ms = actor.rng.randrange(took_ms + 1)
        asked_ms = actor.clock.boot_ms()
        answer_ms = peer.clock.raw_now_ms() + there_ms
        reading = compute_reading(answer_ms, asked_ms, asked_ms + took_ms)
        self._kept[peer.index] = keep_readings(self._kept[peer.index], reading)

    def _correct(self) -> None:
        clock = self._actor.clock
        boot_ms = clock.boot_ms()
        own = Reading(clock.raw_ahead_ms(), 1, boot_ms)
        peers = [choose_reading(kept, boot_ms) for kept in self._kept.values() if kept]
        median = choose_median(own, peers)
        self._ever_verified = self._ever_verified or median is not None
        aim = median or (None if self._ever_verified else own)
        if aim is not None:
            ahead_ms = choose_ahead_ms(clock.ahead_ms, aim, self._tolerance_ms)
            if ahead_ms != clock.ahead_ms:
                clock.steer(ahead_ms, self._slew_max_ms)
