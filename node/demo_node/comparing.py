"""Rule 23: every round one random peer is asked what it knows and this node does not."""

import random
from collections import Counter
from collections.abc import Callable, Iterator

from demo_node.observer import Figure, RoundObserver
from demo_node.ports import Blob, BlobRequest, Clock, Offence
from demo_node.pull import Puller
from demo_protocol.errors import Reject
from demo_protocol.events import Event, SetsCompared
from demo_protocol.limits import SETS_REPLY_BYTES_MAX
from demo_protocol.reconcile import compute_comparison_ms, find_lacking, summarise
from demo_protocol.schedule import BPS, round_at
from demo_protocol.sets import decode_difference, encode_summary
from demo_protocol.view import View

RESULTS = ("equal", "different", "failed")
"""Of a comparison: nothing was missing here; something was; the peer gave no answer."""


class Comparing:
    """Asks once a round, and never while the last answer is still awaited."""

    def __init__(
        self,
        view: View,
        puller: Puller,
        clock: Clock,
        observer: RoundObserver,
        post: Callable[[Event], None],
        rng: random.Random,
    ) -> None:
        """`rng` chooses the peer, and the moment, so that not everybody asks at once."""
        self._view = view
        self._puller = puller
        self._clock = clock
        self._observer = observer
        self._post = post
        self._rng = rng
        self._results: Counter[str] = Counter()
        self._lacking: Counter[str] = Counter()

    def figures(self) -> Iterator[Figure]:
        """What came of comparing, and how much was missing here."""
        for result in RESULTS:
            yield Figure("demo_comparisons_total", self._results[result], (result,))
        for kind in ("header", "record"):
            yield Figure("demo_comparison_missing_total", self._lacking[kind], (kind,))

    async def run(self) -> None:
        """Compare once a round, for ever."""
        schedule = self._view.manifest.schedule
        last = -1
        while True:
            round_ = max(round_at(schedule, self._clock.now_ms()), last + 1)
            due_ms = compute_comparison_ms(schedule, round_, self._rng.randrange(BPS))
            last = round_
            if due_ms < self._clock.now_ms():
                continue  # we came into the middle of this round
            await self._clock.sleep_until_ms(due_ms)
            await self._compare()

    async def _compare(self) -> None:
        connected = sorted(self._puller.holders())
        if self._view.round < 0 or not connected:
            return
        peer = self._rng.choice(connected)
        request = BlobRequest(Blob.SETS, encode_summary(summarise(self._view)))
        # Whoever answers later than the next round begins tells us nothing that is still news.
        patience_s = self._view.manifest.schedule.round_ms / 4000
        raw = await self._puller.ask(peer, request, SETS_REPLY_BYTES_MAX, patience_s)
        if raw is None:
            self._results["failed"] += 1
            return
        try:
            difference = decode_difference(raw)
        except Reject as error:
            self._results["failed"] += 1
            self._observer.on_event("answer.rejected", reason=str(error))
            self._puller.blame(peer, Offence.ANSWER)
            return
        lacking = find_lacking(self._view, difference)
        self._results["different" if lacking.headers or lacking.records else "equal"] += 1
        self._lacking["header"] += len(lacking.headers)
        self._lacking["record"] += len(lacking.records)
        self._post(SetsCompared(self._clock.now_ms(), difference, peer))
