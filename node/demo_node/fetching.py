"""What the round machine wants from others: pulled, judged, kept, and told to it."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator

from demo_node.arrivals import Arrivals
from demo_node.copies import Copies
from demo_node.native import decode_payload
from demo_node.observer import Figure, RoundObserver
from demo_node.ports import Clock, Offence, RoundStore
from demo_node.pull import Puller
from demo_node.verifying import Verifier
from demo_protocol.answers import decode_links, decode_records
from demo_protocol.effects import PullHeaders, PullPayload, PullProposal, PullRecords
from demo_protocol.errors import ConfigError, Ignore, Reject
from demo_protocol.events import (
    Event,
    HeadersFetched,
    PayloadsHeld,
    ProposalFetched,
    RecordsFetched,
)
from demo_protocol.sets import decode_headers
from demo_protocol.view import View

NEEDED_ROUNDS = 2
"""Rounds of payloads behind those that may still come late: whatever the disk budget says."""


class Fetcher:
    """Pulls payloads, headers and records, and sees to it that payloads are on disk."""

    def __init__(
        self,
        view: View,
        puller: Puller,
        store: RoundStore,
        clock: Clock,
        observer: RoundObserver,
        post: Callable[[Event], None],
        verifier: Verifier,
    ) -> None:
        """`post` tells the machine; it raises Ignore or Reject on what is not taken."""
        self.view = view
        self.puller = puller
        self.store = store
        self.clock = clock
        self.observer = observer
        self._post = post
        self._verifier = verifier
        self.arrivals = Arrivals()
        self.copies = Copies(view.is_member)
        self._pulling: dict[tuple[bytes, int], set[int]] = {}
        """What is under way, and the rounds whose headers name it."""
        self._is_window_short = False
        self._is_unwritable = False
        self._payloads: Counter[str] = Counter()

    def figures(self) -> Iterator[Figure]:
        """What became of the payloads that others announced."""
        for verdict, total in self._payloads.items():
            yield Figure("demo_payloads_total", total, (verdict,))
        yield from self.copies.figures()

    async def keep_payload(self, round_: int, payload_hash: bytes, raw: bytes) -> None:
        """A disk that takes none is no reason to stop: it is in memory, and others have it."""
        try:
            await self.store.keep_payload(round_, payload_hash, raw)
        except ConfigError as error:
            if not self._is_unwritable:
                self.observer.on_event("payload.unsaved", reason=str(error))
            self._is_unwritable = True
        else:
            self._is_unwritable = False

    async def keep_own_payload(self, round_: int, payload_hash: bytes, raw: bytes) -> None:
        """What this node has made of a round."""
        self.copies.add_own(payload_hash)
        await self.keep_payload(round_, payload_hash, raw)

    async def forget_payloads(self, round_: int) -> None:
        """Of the chain's rounds: what a run that stood still needs to go on stays."""
        agreement = self.view.manifest.agreement
        newest = min(round_, self.view.head_state.round)
        asked = newest - agreement.payload_window_rounds
        needed_from = newest - agreement.late_rounds - NEEDED_ROUNDS
        first = await self.store.forget_payloads_before(asked, needed_from)
        if first > max(asked, 0) and not self._is_window_short:
            self._is_window_short = True
            self.observer.on_event(
                "window.shortened",
                rounds=newest - first,
                asked=agreement.payload_window_rounds,
                reason="the disk budget is used up",
            )

    async def pull_payload(self, effect: PullPayload) -> None:
        """Get a payload and keep it, unless that is under way already: once for each round."""
        # By length too: a header that names it with a wrong one must not be in the way.
        pull = (effect.payload_hash, effect.payload_bytes)
        under_way = self._pulling.get(pull)
        if under_way is not None:
            under_way.add(effect.round)
            return
        rounds = self._pulling[pull] = {effect.round}
        self.arrivals.begin(effect.payload_hash)
        try:
            raw = await self.store.read_payload(effect.payload_hash)
            if raw is None:
                raw = await self._pull_from_others(effect)
            elif not self._is_payload_sound(effect, raw):
                raw = None
            if raw is not None:
                self.arrivals.come(effect.payload_hash, raw)  # others need not wait for our disk
            while raw is not None and rounds:  # one more may be named meanwhile
                round_ = min(rounds)
                await self.keep_payload(round_, effect.payload_hash, raw)
                rounds.discard(round_)
                self._post(PayloadsHeld(self.clock.now_ms(), round_, (effect.payload_hash,)))
        finally:
            del self._pulling[pull]
            self.arrivals.end(effect.payload_hash)

    async def _pull_from_others(self, effect: PullPayload) -> bytes | None:
        """The payload, if anybody gives a sound one for as long as it is wanted."""
        begin_s = time.perf_counter()
        round_s = self.view.manifest.schedule.round_ms / 1000
        raw = await self.puller.pull_payload(
            effect,
            self._is_payload_wanted(),
            round_s / 4,
            lambda: effect.round < self.view.round,
        )
        self.observer.on_op("pull", time.perf_counter() - begin_s)
        if raw is None:
            self._payloads["missing"] += 1
            return None
        self.observer.on_measured("demo_payload_bytes", len(raw), "received")
        is_sound = self._is_payload_sound(effect, raw)
        self._payloads["accepted" if is_sound else "rejected"] += 1
        return raw if is_sound else None

    def _is_payload_wanted(self) -> Callable[[], bool]:
        """Rule 16: keep fetching until L rounds later."""
        last = self.view.round + self.view.manifest.agreement.late_rounds
        return lambda: self.view.round <= last

    def _is_payload_sound(self, effect: PullPayload, raw: bytes) -> bool:
        """Its author's bytes, but are they a payload? Every node answers alike."""
        begin_s = time.perf_counter()
        try:
            decode_payload(raw, self.view.schema, self.view.manifest.learning.k)
        except Reject as error:
            author = self._find_author(effect)
            self.observer.on_event(
                "payload.rejected", round=effect.round, author=author.hex(), reason=str(error)
            )
            if author:  # who gave it passed on what its author signed
                self.puller.blame(author, Offence.PAYLOAD)
            return False
        self.observer.on_op("decode", time.perf_counter() - begin_s)
        return True

    def _find_author(self, effect: PullPayload) -> bytes:
        """Who signed for this payload; empty where nobody's header is left."""
        headers = (sealed.body for sealed in self.view.pool.of_round(effect.round))
        found = (h.peer for h in headers if h.payload_hash == effect.payload_hash)
        return next(found, b"")

    async def pull_headers(self, effect: PullHeaders) -> None:
        """Get headers from whoever has good ones, until all that were named are here."""
        given = 0
        async for raw, holder in self.puller.pull_headers(effect):
            try:
                raws = decode_headers(raw)
            except Reject:
                self.puller.blame(holder, Offence.ANSWER)
                continue
            await self._verifier.prepare(raws)
            if self._post_fetched(HeadersFetched(self.clock.now_ms(), raws, holder)):
                given += len(raws)
            if given >= len(effect.hashes):
                return

    async def pull_proposal(self, effect: PullProposal) -> None:
        """Get a whole proposal from whoever has it, for as long as it is awaited (rule 15)."""
        async for raw, holder in self.puller.pull_proposal(
            effect,
            lambda: effect.proposal in self.view.pool.awaited,
            self.view.manifest.schedule.round_ms / 4000,
        ):
            if self._post_fetched(ProposalFetched(self.clock.now_ms(), raw, holder)):
                return

    async def pull_records(self, effect: PullRecords) -> None:
        """Get a record and its ancestors from the first holder that gives good ones."""
        async for raw, holder in self.puller.pull_records(effect):
            try:
                bundles = decode_records(raw)
                decode_links(bundles, self.view.run_id, effect.record)
            except Reject:
                self.puller.blame(holder, Offence.ANSWER)
                continue
            for bundle in bundles:
                await self._verifier.prepare(bundle.headers)
                if not self._post_fetched(RecordsFetched(self.clock.now_ms(), (bundle,), holder)):
                    break
                await asyncio.sleep(0)  # its signatures took milliseconds: others' turn
            else:
                return

    def _post_fetched(self, event: HeadersFetched | ProposalFetched | RecordsFetched) -> bool:
        """The one place where Ignore and Reject of what was pulled end."""
        try:
            self._post(event)
        except (Ignore, Reject) as error:
            self.observer.on_event("answer.rejected", reason=str(error))
            # Of a record more may be wrong than who gave it can see: what others build on it.
            if isinstance(error, Reject) and not isinstance(event, RecordsFetched):
                self.puller.blame(event.sender, Offence.ANSWER)
            return False
        return True
