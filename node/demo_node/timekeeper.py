"""Asks peers for their raw clocks, and steers our own by the answers (rules 3 and 4)."""

import asyncio
import random

from demo_node.observer import RoundObserver
from demo_node.ports import Blob, BlobRequest, Mesh, NotHeld, Offence, Unreachable
from demo_node.system_clock import SLEW_BPS, SystemClock
from demo_node.views import ClockView
from demo_protocol.answers import decode_time
from demo_protocol.common_time import (
    READINGS_KEPT,
    Reading,
    choose_ahead_ms,
    choose_median,
    choose_reading,
    compute_bound_ms,
    compute_reading,
    keep_readings,
)
from demo_protocol.errors import Reject
from demo_protocol.limits import TIME_REPLY_BYTES_MAX
from demo_protocol.schedule import BPS, Schedule

PACE_S = 0.5
"""How often to look whether anybody is to be asked."""

ASK_FIRST_S, ASK_S, ASK_AGAIN_S = 1.0, 45.0, 2.0
"""Pause after one of the first answers of a peer, after a later one, after none; +- a third."""

ASK_TIMEOUT_S = 2.0
"""What comes later than this says too little of what time it is."""

ASKED_MAX = 16
"""Peers whose clocks are known at once: more make the median no better."""

DISPUTED_S = 10.0
"""A starting node whose clock is disputed waits so long for enough peers to decide it."""

SETTLE_PACE_S = 0.1


class Timekeeper:
    """Keeps one node's clock by the others'."""

    def __init__(
        self,
        mesh: Mesh,
        clock: SystemClock,
        schedule: Schedule,
        observer: RoundObserver,
        rng: random.Random,
    ) -> None:
        """`rng` spreads questions over time."""
        self._rng = rng
        self._mesh = mesh
        self._clock = clock
        self._observer = observer
        self._tolerance_ms = schedule.skew_max_ms // 4
        # What takes longer than a round to slew is over sooner by sitting one out.
        self._slew_max_ms = schedule.round_ms * SLEW_BPS // BPS
        self._kept: dict[bytes, tuple[Reading, ...]] = {}
        self._due_ms: dict[bytes, int] = {}
        self._rtt_ms: dict[bytes, int] = {}
        self._ever_verified = False

    async def run(self) -> None:
        """Ask and correct, for ever."""
        while True:
            await self._ask_due()
            self._correct()
            await asyncio.sleep(PACE_S)

    async def settle(self, patience_s: float) -> None:
        """Return when peers have said whether our clock is right; then it is not stepped any more.

        To be awaited before anything is signed, or told to a machine that knows no way back.
        Waits for at most `patience_s` while nobody is connected or somebody has yet to answer; for
        at most DISPUTED_S while our clock is one of too few to say which of them are right.
        """
        begin_ms = self._clock.boot_ms()
        while True:
            self._correct()
            waited_s = (self._clock.boot_ms() - begin_ms) / 1000
            if self._ever_verified or waited_s >= self._patience_s(patience_s):
                self._clock.hold()
                return
            await asyncio.sleep(SETTLE_PACE_S)

    def view(self) -> ClockView:
        """What the status says of the clock."""
        own, peers = self._own_reading(), self._peer_readings()
        verified = choose_median(own, peers) is not None
        ahead_ms = self._clock.now_ms() - self._clock.boot_ms()
        return ClockView(
            correction_ms=self._clock.ahead_ms - own.ahead_ms,
            error_ms=compute_bound_ms(ahead_ms, own, peers) if verified else 0,
            peers=len(peers),
            verified=verified,
        )

    def rtt_ms(self, peer: bytes) -> int:
        """The last round trip to a connected peer, at least 1; 0 where none was measured."""
        return self._rtt_ms.get(peer, 0)

    def _patience_s(self, unheard_s: float) -> float:
        readings, ahead_ms = self._peer_readings(), self._clock.ahead_ms
        agreeing = sum(
            choose_ahead_ms(ahead_ms, reading, self._tolerance_ms) == ahead_ms
            for reading in readings
        )
        if agreeing + 1 <= len(readings) - agreeing:
            return DISPUTED_S
        return unheard_s if len(readings) < max(len(self._mesh.peers()), 1) else 0.0

    def _correct(self) -> None:
        """Steer to the median; with too few peers stay, or go on by the wall clock."""
        own, peers = self._own_reading(), self._peer_readings()
        median = choose_median(own, peers)
        self._ever_verified = self._ever_verified or median is not None
        aim = median or (None if self._ever_verified else own)
        if aim is None:
            return
        ahead_ms = choose_ahead_ms(self._clock.ahead_ms, aim, self._tolerance_ms)
        if ahead_ms != self._clock.ahead_ms:
            self._observer.on_event(
                "clock.corrected",
                moved_ms=ahead_ms - self._clock.ahead_ms,
                correction_ms=ahead_ms - own.ahead_ms,
                peers=len(peers),
            )
            self._clock.steer(ahead_ms, self._slew_max_ms)

    def _own_reading(self) -> Reading:
        return Reading(self._clock.raw_ahead_ms(), 1, self._clock.boot_ms())

    def _peer_readings(self) -> list[Reading]:
        """One of each peer that is connected and has answered."""
        now_ms = self._clock.boot_ms()
        connected = {view.peer for view in self._mesh.peers()}
        return [
            choose_reading(kept, now_ms) for peer, kept in self._kept.items() if peer in connected
        ]

    async def _ask_due(self) -> None:
        connected = {view.peer: None for view in self._mesh.peers()}
        for peer in [peer for peer in self._due_ms if peer not in connected]:
            del self._due_ms[peer]
            self._kept.pop(peer, None)
            self._rtt_ms.pop(peer, None)
        # Those whose clocks are known first: who comes later does not take their place.
        known_first = [*self._kept, *(peer for peer in connected if peer not in self._kept)]
        now_ms = self._clock.boot_ms()
        due = [peer for peer in known_first[:ASKED_MAX] if self._due_ms.get(peer, 0) <= now_ms]
        await asyncio.gather(*(self._ask(peer) for peer in due))

    async def _ask(self, peer: bytes) -> None:
        asked_ms = self._clock.boot_ms()
        begin_s = asyncio.get_running_loop().time()
        try:
            raw = await self._mesh.request(
                peer,
                BlobRequest(Blob.TIME),
                bytes_max=TIME_REPLY_BYTES_MAX,
                timeout_s=ASK_TIMEOUT_S,
            )
            raw_ms = decode_time(raw)
        except (Unreachable, NotHeld, Reject) as error:
            if isinstance(error, Reject):
                self._mesh.blame(peer, Offence.ANSWER)
            pause_s = ASK_AGAIN_S
        else:
            rtt_s = asyncio.get_running_loop().time() - begin_s
            self._rtt_ms[peer] = max(round(rtt_s * 1000), 1)
            self._observer.on_measured("demo_peer_rtt_seconds", rtt_s)
            reading = compute_reading(raw_ms, asked_ms, self._clock.boot_ms())
            kept = self._kept[peer] = keep_readings(self._kept.get(peer, ()), reading)
            pause_s = ASK_FIRST_S if len(kept) < READINGS_KEPT else ASK_S
        pause_ms = int(pause_s * 1000 * self._rng.uniform(2 / 3, 4 / 3))
        self._due_ms[peer] = self._clock.boot_ms() + pause_ms
