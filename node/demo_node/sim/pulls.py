"""What a simulated node asks others for, and when the answer comes.

As `demo_node.fetching` and `demo_node.pull`: whoever is named is asked first, then anybody; what
nobody gives is asked for again.
"""

import functools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from demo_protocol.answers import decode_links, decode_records, encode_records
from demo_protocol.effects import PullHeaders, PullPayload, PullProposal, PullRecords
from demo_protocol.errors import Ignore, Reject
from demo_protocol.events import (
    HeadersFetched,
    PayloadsHeld,
    ProposalFetched,
    RecordsFetched,
    SetsCompared,
)
from demo_protocol.limits import HEADERS_PER_REQUEST_MAX
from demo_protocol.reconcile import compare, compute_comparison_ms, summarise
from demo_protocol.schedule import BPS
from demo_protocol.sets import (
    decode_difference,
    decode_header_names,
    decode_headers,
    decode_summary,
    encode_difference,
    encode_header_names,
    encode_headers,
    encode_summary,
)

if TYPE_CHECKING:
    from demo_node.sim.actor import Actor

AGAIN_MS, AGAIN_MAX_MS = 500, 4_000
"""Until what nobody gave is asked for again."""

PEERS_ASKED = 5
"""For what its author does not give; of those named each is asked, too."""

Given = list[tuple[PullPayload, "Actor"]]
"""What is under way, and from whom."""

Give = Callable[["Actor"], bytes | None]
"""A peer's answer to a question; None where it has nothing."""

Take = Callable[[bytes, "Actor"], None]
"""What is done with an answer, and with whose it is. May raise Ignore or Reject."""


class Pulls:
    """One node's questions in one life."""

    def __init__(self, actor: "Actor") -> None:
        self._actor = actor
        self._world = actor.world
        self._pulling: dict[bytes, tuple[int, ...]] = {}
        """Payloads under way, and the rounds whose headers name them."""
        self._chains: set[bytes] = set()
        self._downlink_free_ms = 0.0

    # --- payloads --------------------------------------------------------------------------------

    def pull_payloads(self, effects: Iterable[PullPayload]) -> None:
        """Get what nobody is asked for yet; what is on the disk is only read."""
        shelf, pulling = self._actor.disk.payloads, self._pulling
        here, missing = dict[int, list[bytes]](), []
        for effect in effects:
            name, round_ = effect.payload_hash, effect.round
            rounds = pulling.get(name)
            if rounds is not None:
                if round_ not in rounds:
                    pulling[name] = (*rounds, round_)
            elif name in shelf:
                here.setdefault(round_, []).append(name)
            else:
                missing.append(effect)
                pulling[name] = (round_,)
        if here:
            self._actor.later(1, functools.partial(self._hold, here))
        self._ask_for_payloads(missing, AGAIN_MS)

    def _ask_for_payloads(self, effects: list[PullPayload], pause_ms: int) -> None:
        """From their authors, or whoever has them of those named and of some others."""
        actor, world = self._actor, self._world
        given: Given = []
        refused = []
        others: list[Actor] | None = None
        find_author = world.find_author
        for effect in effects:
            holder = find_author(actor, effect)
            if holder is None:
                others = world.peers_of(actor, PEERS_ASKED) if others is None else others
                holder = world.find_holder(actor, effect, others)
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
        for effect in effects:
            if effect.round < oldest:
                self._pulling.pop(effect.payload_hash, None)
        self._ask_for_payloads([e for e in effects if e.round >= oldest], pause_ms)

    def _receive_payloads(self, given: Given) -> None:
        """Those whose holder is still there to finish what it began to send."""
        can_ask, me = self._world.can_ask, self._actor
        came = [effect for effect, holder in given if can_ask(me, holder.index)]
        if len(came) < len(given):
            broken = [effect for effect, holder in given if not can_ask(me, holder.index)]
            self._ask_for_payloads(broken, AGAIN_MS)
        names = [effect.payload_hash for effect in came]
        me.disk.payloads.add_all(names)
        self._count(sum([effect.payload_bytes for effect in came]))
        held: dict[int, list[bytes]] = {}
        for name in names:
            for round_ in self._pulling.pop(name, ()):
                held.setdefault(round_, []).append(name)
        self._hold(held)

    def _hold(self, held: dict[int, list[bytes]]) -> None:
        for round_, names in held.items():
            self._actor.post(PayloadsHeld(self._actor.now_ms(), round_, tuple(names)))

    # --- headers, proposals, records -------------------------------------------------------------

    def pull_headers(self, effect: PullHeaders) -> None:
        """As many as one question may name, each from the first of its holders that has any."""
        for start in range(0, len(effect.hashes), HEADERS_PER_REQUEST_MAX):
            names = effect.hashes[start : start + HEADERS_PER_REQUEST_MAX]
            key = encode_header_names(names)
            self._count(len(key))
            give = functools.partial(_give_headers, key)
            self._ask(self._holders(effect.holders, only=effect.only), give, self._take_headers)

    def _take_headers(self, raw: bytes, holder: "Actor") -> None:
        self._actor.post(HeadersFetched(self._actor.now_ms(), decode_headers(raw), holder.name))

    def pull_proposal(self, effect: PullProposal) -> None:
        """The body of a proposal whose notice came; again and again while it is awaited."""
        if effect.proposal not in self._actor.view.pool.awaited:
            return
        holders, name = self._holders(effect.holders), effect.proposal
        is_given = self._ask(holders, lambda h: h.view.find_proposal(name), self._take_body)
        again = functools.partial(self.pull_proposal, effect)
        self._actor.later(AGAIN_MAX_MS if is_given else AGAIN_MS, again)

    def _take_body(self, raw: bytes, holder: "Actor") -> None:
        self._actor.post(ProposalFetched(self._actor.now_ms(), raw, holder.name))

    def pull_records(self, effect: PullRecords) -> None:
        """Part of a chain, from the first of its holders that has it; once at a time."""
        record, count = effect.record, effect.count
        if record in self._chains:
            return
        holders = self._holders(effect.holders, only=effect.only)
        take = functools.partial(self._take_records, record)
        if self._ask(holders, lambda holder: _give_records(holder, record, count), take):
            self._chains.add(record)

    def _take_records(self, record: bytes, raw: bytes, holder: "Actor") -> None:
        self._chains.discard(record)
        bundles = decode_records(raw)
        decode_links(bundles, self._world.run_id, record, self._world.decode_proposal)
        self._actor.post(RecordsFetched(self._actor.now_ms(), bundles, holder.name))

    # --- rule 23 ---------------------------------------------------------------------------------

    def compare_this_round(self) -> None:
        """Ask one peer, at this round's moment, what it knows and we do not."""
        schedule, round_ = self._world.manifest.schedule, self._actor.view.round
        due_ms = compute_comparison_ms(schedule, round_, self._actor.rng.randrange(BPS))
        self._actor.later(max(due_ms - self._actor.now_ms(), 0), self._compare)

    def _compare(self) -> None:
        for peer in self._world.peers_of(self._actor, 1):
            if peer.view.round >= 0:
                summary = encode_summary(summarise(self._actor.view))
                self._count(len(summary))
                self._ask(
                    [peer], functools.partial(_give_difference, summary), self._take_difference
                )

    def _take_difference(self, raw: bytes, peer: "Actor") -> None:
        self._actor.post(SetsCompared(self._actor.now_ms(), decode_difference(raw), peer.name))

    # --- what all have in common -----------------------------------------------------------------

    def _holders(self, named: Iterable[bytes], *, only: bool = False) -> list["Actor"]:
        return self._world.holders(self._actor, named, only=only)

    def _way_ms(self, holder: "Actor", size: int) -> int:
        return self._world.links.pull_delay_ms(self._actor.index, holder.index, size)

    def _wait_ms(self, size: int) -> int:
        """Until the downlink is free of what was asked for before, and of this."""
        now_ms = self._world.timeline.now_ms
        begin_ms = max(self._downlink_free_ms, now_ms)
        self._downlink_free_ms = begin_ms + self._world.links.download_ms(size)
        return int(self._downlink_free_ms - now_ms)

    def _ask(self, holders: list["Actor"], give: Give, take: Take) -> bool:
        """One after the other, until one gives something that can be taken. Does any give?"""
        for number, holder in enumerate(holders):
            raw = give(holder) if holder.is_up else None
            if raw:
                answer = raw if holder.traits.answer is None else holder.traits.answer(raw)
                self._count(len(answer))
                others = holders[number + 1 :]
                arrive = functools.partial(self._arrive, answer, holder, take, give, others)
                self._actor.later(self._way_ms(holder, len(answer)), arrive)
                return True
        return False

    def _arrive(
        self, raw: bytes, holder: "Actor", take: Take, give: Give, others: list["Actor"]
    ) -> None:
        """Here an answer is decoded, and may be refused: then the others are asked."""
        try:
            take(raw, holder)
        except (Ignore, Reject) as error:
            self._world.watcher.on_rejected(self._actor, error, holder.name)
            self._ask(others, give, take)

    def _count(self, size: int) -> None:
        self._world.bytes_in[self._actor.index] += size


def _give_headers(key: bytes, holder: "Actor") -> bytes | None:
    headers = holder.view.pool.headers
    raws = [headers[name].raw for name in decode_header_names(key) if name in headers]
    return encode_headers(raws) if raws else None


def _give_records(holder: "Actor", record: bytes, count: int) -> bytes | None:
    bundles = holder.store.give_records(record, count)
    return encode_records(bundles) if bundles else None


def _give_difference(summary: bytes, holder: "Actor") -> bytes:
    return encode_difference(compare(holder.view, decode_summary(summary)))
