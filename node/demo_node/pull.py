"""Pulling by hash from whoever holds it."""

import asyncio
import contextlib
import hashlib
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from demo_node.observer import Figure
from demo_node.ports import Blob, BlobRequest, Mesh, NotHeld, Offence, Unreachable
from demo_node.racing import Pace, Race, Verdict
from demo_node.spreading import order_holders
from demo_protocol.effects import PullHeaders, PullPayload, PullProposal, PullRecords
from demo_protocol.limits import (
    HEADERS_PER_REQUEST_MAX,
    HEADERS_REPLY_BYTES_MAX,
    PROPOSAL_BYTES_MAX,
    RECORDS_REPLY_BYTES_MAX,
)
from demo_protocol.networks import compute_network, is_relayed
from demo_protocol.sets import encode_header_names

Given = TypeVar("Given")

ASKED_AT_ONCE = 3
"""Holders asked at once for what only one need give: one that is slow, or lies, holds up nobody."""

PULLS_MAX = 32
"""Payloads pulled at once. Most wait at a holder until it has them, and cost it and us a stream."""

BEHIND_MAX = 4
"""Of these, payloads of rounds that are over: after a cut there are many, and they come slowly.

They must not hold up those of the round that is on, which would cost that round, and so on."""

BEHIND_PATIENCE = 4
"""So much longer gets a holder for one of those: an attempt given up is an uplink's work lost."""

TIMEOUT_S = 20.0
"""One attempt at one holder, at most; of a payload, one that gives nothing."""

GIVING_MAX_S = 60.0
"""One holder of a payload that gives it steadily, at most."""

RETRY_FIRST_S, RETRY_MAX_S = 0.05, 2.0
"""Pause after every holder failed: short at first, since a payload counts for one round only."""

RETRY_BUSY_S = 0.1
"""Where a holder was busy, twice as long each time, and each puller half as long or half as much
longer: what it gave goes on meanwhile, and those who know nobody else do not come back at once."""


class Puller:
    """Asks those who should hold something, then everybody else."""

    def __init__(self, mesh: Mesh, is_member: Callable[[bytes], bool] = lambda peer: True) -> None:
        """`is_member`: who is asked for payloads before others are."""
        self._mesh = mesh
        self._is_member = is_member
        self._payloads = asyncio.Semaphore(PULLS_MAX)
        self._behind = asyncio.Semaphore(BEHIND_MAX)
        self._pulling = 0
        self._pace = Pace()
        self._verdicts: Counter[Verdict] = Counter()
        self._hedges = 0
        self._sources: Counter[str] = Counter()

    def figures(self) -> Iterator[Figure]:
        """How many payloads are being pulled, those included that wait for their turn."""
        yield Figure("demo_queue_depth", self._pulling, ("pulls",))
        yield Figure("demo_payload_hedges_total", self._hedges)
        for source, total in self._sources.items():
            yield Figure("demo_payload_sources_total", total, (source,))
        for verdict, total in self._verdicts.items():
            yield Figure("demo_payload_requests_total", total, (verdict,))

    async def ask(
        self, holder: bytes, request: BlobRequest, bytes_max: int, timeout_s: float = TIMEOUT_S
    ) -> bytes | None:
        """One holder's answer, or None where it has none."""
        try:
            return await self._mesh.request(
                holder, request, bytes_max=bytes_max, timeout_s=timeout_s
            )
        except (Unreachable, NotHeld):
            return None

    def blame(self, peer: bytes, offence: Offence) -> None:
        """The peer did what no honest one does."""
        self._mesh.blame(peer, offence)

    async def first_given(
        self,
        holders: Sequence[bytes],
        attempt: Callable[[bytes], Awaitable[Given | None]],
        timeout_s: float,
    ) -> Given | None:
        """The first that `attempt` gets from any of them; None where none has it in that time.

        A few are asked at once, in an order of our own: else the same one would be asked first by
        everybody. What `attempt` raises is raised.
        """
        relayed = self._relayed()
        own = sorted(holders, key=lambda peer: hashlib.sha256(self._mesh.peer + peer).digest())
        asked = iter(sorted(own, key=relayed.__contains__))

        async def ask_in_turn() -> Given | None:
            for holder in asked:  # the next that nobody has asked yet
                if (given := await attempt(holder)) is not None:
                    return given
            return None

        asking = [asyncio.create_task(ask_in_turn()) for _ in range(ASKED_AT_ONCE)]
        try:
            async with asyncio.timeout(timeout_s):
                for answered in asyncio.as_completed(asking):
                    if (given := await answered) is not None:
                        return given
        except TimeoutError:
            pass
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
        return None

    async def pull_payload(
        self,
        effect: PullPayload,
        wanted: Callable[[], bool],
        patience_s: float,
        is_behind: Callable[[], bool] = lambda: False,
    ) -> bytes | None:
        """Ask holders until one gives these very bytes; None once nobody wants them.

        Nobody who gives nothing gets more than `patience_s` at first, so that frozen holders do not
        use up the rounds a payload is wanted in; then twice that, and so on, for slow links. One
        whose round is over (`is_behind`) leaves room for others.
        """
        self._pulling += 1
        try:
            return await self._pull_payload(effect, wanted, patience_s, is_behind)
        finally:
            self._pulling -= 1

    async def _pull_payload(
        self,
        effect: PullPayload,
        wanted: Callable[[], bool],
        patience_s: float,
        is_behind: Callable[[], bool],
    ) -> bytes | None:
        pause_s = RETRY_FIRST_S
        timeout_s = min(patience_s, TIMEOUT_S)
        silent: Sequence[bytes] = ()
        is_first = True
        busy_turns = 0
        while wanted():
            async with contextlib.AsyncExitStack() as turn:
                limit_s, wait_s = timeout_s, timeout_s
                if is_behind():  # whoever has it has had it for long
                    await turn.enter_async_context(self._behind)
                    limit_s, wait_s = max(limit_s, min(BEHIND_PATIENCE * patience_s, TIMEOUT_S)), 0
                await turn.enter_async_context(self._payloads)
                order = self._order_holders(effect)
                relayed = self._relayed()
                # The silent had their time. A relay carries what nobody else gives.
                order.sort(key=lambda peer: (peer in silent, peer in relayed))
                race = Race(
                    self._mesh,
                    BlobRequest(Blob.PAYLOAD, effect.payload_hash, wait_ms=int(1000 * wait_s)),
                    effect.payload_bytes,
                    self._pace,
                    patience_s=patience_s,
                    limit_s=limit_s,
                    giving_s=GIVING_MAX_S,
                    is_first=is_first,
                )
                is_first = False
                try:
                    raw = await race.run(deque(order))
                finally:
                    self._verdicts += race.verdicts
                    self._hedges += race.hedges
                    for liar in race.liars:
                        self.blame(liar, Offence.ANSWER)
            if raw is not None:
                self._sources["author" if race.giver in effect.holders[:1] else "other"] += 1
                return raw
            silent = race.silent
            if not silent:  # all have answered
                if race.verdicts[Verdict.BUSY]:
                    busy_turns += 1
                    pause_s = max(pause_s, self._busy_pause_s(effect, busy_turns))
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, RETRY_MAX_S)
            timeout_s = min(2 * timeout_s, TIMEOUT_S)
        return None

    def _busy_pause_s(self, effect: PullPayload, turns: int) -> float:
        """After so many turns in which somebody was busy. No dice: a simulation is repeatable."""
        name = self._mesh.peer + effect.payload_hash + turns.to_bytes(8)
        jitter = 0.5 + int.from_bytes(hashlib.sha256(name).digest()[:4]) / 2**32
        longest_s = RETRY_BUSY_S * 2.0 ** min(turns - 1, 8)
        return min(longest_s * jitter, RETRY_MAX_S)

    def _order_holders(self, effect: PullPayload) -> list[bytes]:
        """Members first: keys cost nothing, and who only connects must not stand between others."""
        connected = self.holders()
        near = [p for p in connected if p in effect.holders or self._is_member(p)]
        order = order_holders(effect.round, effect.holders, self._mesh.peer, near)
        return list(dict.fromkeys([*order, *connected]))

    async def pull_headers(self, effect: PullHeaders) -> AsyncIterator[tuple[bytes, bytes]]:
        """(answer to HEADERS, holder) of every holder in turn, until it has none of them."""
        for holder in self.holders(effect.holders, only=effect.only):
            for start in range(0, len(effect.hashes), HEADERS_PER_REQUEST_MAX):
                names = effect.hashes[start : start + HEADERS_PER_REQUEST_MAX]
                request = BlobRequest(Blob.HEADERS, encode_header_names(names))
                raw = await self.ask(holder, request, HEADERS_REPLY_BYTES_MAX)
                if raw is None:
                    break
                yield raw, holder

    async def pull_proposal(
        self, effect: PullProposal, wanted: Callable[[], bool], patience_s: float
    ) -> AsyncIterator[tuple[bytes, bytes]]:
        """(proposal, holder) of every holder in turn that has it, again and again while wanted.

        Patience is as for a payload: a frozen holder must not use up the propose phase.
        """
        request = BlobRequest(Blob.PROPOSAL, effect.proposal)
        pause_s, timeout_s = RETRY_FIRST_S, min(patience_s, TIMEOUT_S)
        while wanted():
            for holder in self.holders(effect.holders):
                raw = await self.ask(holder, request, PROPOSAL_BYTES_MAX, timeout_s)
                if raw is not None and wanted():
                    yield raw, holder
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, RETRY_MAX_S)
            timeout_s = min(2 * timeout_s, TIMEOUT_S)

    async def pull_records(self, effect: PullRecords) -> AsyncIterator[tuple[bytes, bytes]]:
        """(answer to RECORDS, holder) of every holder in turn that has the record."""
        request = BlobRequest(Blob.RECORDS, effect.record, effect.count)
        for holder in self.holders(effect.holders, only=effect.only):
            raw = await self.ask(holder, request, RECORDS_REPLY_BYTES_MAX)
            if raw is not None:
                yield raw, holder

    def networks(self) -> dict[bytes, str]:
        """Connected peers, each with the network that it counts for (rule 22)."""
        return {view.peer: compute_network(view.address, view.peer) for view in self._mesh.peers()}

    def _relayed(self) -> set[bytes]:
        """Connected peers whose bytes cost a third one's line twice."""
        return {view.peer for view in self._mesh.peers() if is_relayed(view.address)}

    def holders(self, first: Iterable[bytes] = (), *, only: bool = False) -> list[bytes]:
        """Those named, then whoever else is connected: by hash, anybody's copy will do.

        Those by way of a relay at last, named or not.
        """
        connected = [view.peer for view in self._mesh.peers() if not view.elsewhere]
        others = () if only else connected
        found = [peer for peer in dict.fromkeys((*first, *others)) if peer in connected]
        return sorted(found, key=self._relayed().__contains__)
