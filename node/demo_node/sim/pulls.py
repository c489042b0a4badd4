"""What a simulated node asks others for, and when the answer comes.

As `demo_node.fetching` and `demo_node.pull`: whoever is named is asked first, then anybody; what
nobody gives is asked for again.
"""

import functools
from collections.abc import Iterable
from typing import TYPE_CHECKING

from demo_protocol.effects import PullHeaders, PullPayload, PullProposal, PullRecords
from demo_protocol.errors import Ignore, Reject
from demo_protocol.events import (
    Bundle,
    HeadersFetched,
    PayloadsHeld,
    ProposalFetched,
    RecordsFetched,
    SetsCompared,
)
from demo_protocol.reconcile import compare, compute_comparison_ms, summarise
from demo_protocol.schedule import BPS
from demo_protocol.sets import Difference

if TYPE_CHECKING:
    from demo_node.sim.actor import Actor

AGAIN_MS, AGAIN_MAX_MS = 500, 4_000
"""Until what nobody gave is asked for again."""

HASH_BYTES = 32
SUMMARY_BYTES = 200
"""A summary and its frame."""

Given = list[tuple[PullPayload, "Actor"]]
"""What is under way, and from whom."""


class Pulls:
    """One node's questions in one life."""

    def __init__(self, actor: "Actor") -> None:
        self._actor = actor
        self._world = actor.world
        self._pulling: set[bytes] = set()
        self._downlink_free_ms = 0.0

    # --- payloads --------------------------------------------------------------------------------

    def pull_payloads(self, effects: Iterable[PullPayload]) -> None:
        """Get what nobody is asked for yet; what is on the disk is only read."""
        held, pulling = self._actor.disk.payloads, self._pulling
        here, missing = [], []
        for effect in effects:
            name = effect.payload_hash
            if name in held:
                here.append(effect)
            elif name not in pulling:
                missing.append(effect)
                pulling.add(name)
        if here:
            self._actor.later(1, functools.partial(self._hold, here))
        self._ask_for_payloads(missing, AGAIN_MS)

    def _ask_for_payloads(self, effects: list[PullPayload], pause_ms: int) -> None:
        """From their authors, or whoever has them."""
        find = self._world.find_holder
        given: Given = []
        refused = []
        for effect in effects:
            holder = find(self._actor, effect)
            if holder is None:
                refused.append(effect)
            else:
                given.append((effect, holder))
        if refused:
            longer_ms = min(2 * pause_ms, AGAIN_MAX_MS)
            self._actor.later(pause_ms, functools.partial(self._ask_again, refused, longer_ms))
        if given:
            size = sum(effect.payload_bytes for effect, _ in given)
            delay_ms = self._wait_ms(size) + self._way_ms(given[0][1], size // len(given))
            self._actor.later(delay_ms, functools.partial(self._receive_payloads, given))

    def _ask_again(self, effects: list[PullPayload], pause_ms: int) -> None:
        """What is older than the payload window is not wanted any more."""
        window = self._world.manifest.agreement.payload_window_rounds
        oldest = self._actor.view.round - window
        self._pulling.difference_update(e.payload_hash for e in effects if e.round < oldest)
        self._ask_for_payloads([e for e in effects if e.round >= oldest], pause_ms)

    def _receive_payloads(self, given: Given) -> None:
        """Those whose holder is still there to finish what it began to send."""
        came = [effect for effect, holder in given if self._reaches(holder)]
        if len(came) < len(given):
            broken = [effect for effect, holder in given if not self._reaches(holder)]
            self._ask_for_payloads(broken, AGAIN_MS)
        shelf = self._actor.disk.payloads
        for effect in came:
            self._pulling.discard(effect.payload_hash)
            shelf.add(effect.payload_hash, effect.round)
        self._count(sum(effect.payload_bytes for effect in came))
        self._hold(came)

    def _hold(self, effects: list[PullPayload]) -> None:
        if effects:
            held = tuple((effect.payload_hash, effect.round) for effect in effects)
            self._actor.post(PayloadsHeld(self._actor.now_ms(), held))

    # --- headers, proposals, records -------------------------------------------------------------

    def pull_headers(self, effect: PullHeaders) -> None:
        """From the first of its holders that has any."""
        for holder in self._holders(effect.holders, only=effect.only):
            headers = holder.view.pool.headers
            raws = tuple(headers[name].raw for name in effect.hashes if name in headers)
            if raws:
                size = sum(map(len, raws))
                self._answer(holder, size, functools.partial(self._receive_headers, raws, holder))
                return

    def _receive_headers(self, raws: tuple[bytes, ...], holder: "Actor") -> None:
        self._post(HeadersFetched(self._actor.now_ms(), raws, holder.name))

    def pull_proposal(self, effect: PullProposal) -> None:
        """The body of a proposal whose notice came; again and again while it is awaited."""
        if effect.proposal not in self._actor.view.pool.awaited:
            return
        for holder in self._holders(effect.holders):
            raw = holder.view.find_proposal(effect.proposal)
            if raw is not None:
                arrive = functools.partial(self._receive_proposal, raw, holder)
                self._answer(holder, len(raw), arrive)
                return
        self._actor.later(AGAIN_MS, functools.partial(self.pull_proposal, effect))

    def _receive_proposal(self, raw: bytes, holder: "Actor") -> None:
        self._post(ProposalFetched(self._actor.now_ms(), raw, holder.name))

    def pull_records(self, effect: PullRecords) -> None:
        """Part of a chain, from the first of its holders that has it."""
        for holder in self._holders(effect.holders, only=effect.only):
            bundles = holder.store.give_records(effect.record, effect.count)
            if bundles:
                size = sum(len(b.proposal) + sum(map(len, b.headers)) for b in bundles)
                arrive = functools.partial(self._receive_records, bundles, holder)
                self._answer(holder, size, arrive)
                return

    def _receive_records(self, bundles: tuple[Bundle, ...], holder: "Actor") -> None:
        self._post(RecordsFetched(self._actor.now_ms(), bundles, holder.name))

    # --- rule 23 ---------------------------------------------------------------------------------

    def compare_this_round(self) -> None:
        """Ask one peer, at this round's moment, what it knows and we do not."""
        schedule, round_ = self._world.manifest.schedule, self._actor.view.round
        due_ms = compute_comparison_ms(schedule, round_, self._actor.rng.randrange(BPS))
        self._actor.later(max(due_ms - self._actor.now_ms(), 0), self._compare)

    def _compare(self) -> None:
        for peer in self._world.peers_of(self._actor, 1):
            if peer.view.round >= 0:
                difference = compare(peer.view, summarise(self._actor.view))
                size = SUMMARY_BYTES + HASH_BYTES * (
                    len(difference.headers) + len(difference.records)
                )
                arrive = functools.partial(self._receive_difference, difference, peer)
                self._answer(peer, size, arrive)

    def _receive_difference(self, difference: Difference, peer: "Actor") -> None:
        self._post(SetsCompared(self._actor.now_ms(), difference, peer.name))

    # --- what all have in common -----------------------------------------------------------------

    def _holders(self, named: Iterable[bytes], *, only: bool = False) -> list["Actor"]:
        return self._world.holders(self._actor, named, only=only)

    def _reaches(self, holder: "Actor") -> bool:
        return holder.is_up and self._world.links.is_linked(self._actor.index, holder.index)

    def _way_ms(self, holder: "Actor", size: int) -> int:
        return self._world.links.pull_delay_ms(self._actor.index, holder.index, size)

    def _wait_ms(self, size: int) -> int:
        """Until the downlink is free of what was asked for before, and of this."""
        now_ms = self._world.timeline.now_ms
        begin_ms = max(self._downlink_free_ms, now_ms)
        self._downlink_free_ms = begin_ms + self._world.links.download_ms(size)
        return int(self._downlink_free_ms - now_ms)

    def _answer(self, holder: "Actor", size: int, arrive: "functools.partial[None]") -> None:
        self._count(size)
        self._actor.later(self._way_ms(holder, size), arrive)

    def _count(self, size: int) -> None:
        self._world.bytes_in[self._actor.index] += size

    def _post(
        self, event: HeadersFetched | ProposalFetched | RecordsFetched | SetsCompared
    ) -> None:
        try:
            self._actor.post(event)
        except (Ignore, Reject) as error:
            self._world.watcher.on_rejected(self._actor, error, event.sender)
