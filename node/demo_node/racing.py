"""One payload, asked of one holder, and of a second where the first is slow: never of more at once.

Of two, one that begins to give calls the other off, so that no uplink carries a payload for
nothing; where both have begun the first that has given all does.
"""

import asyncio
import hashlib
import math
import statistics
from collections import Counter, deque
from dataclasses import dataclass
from enum import StrEnum

from demo_node.ports import BlobRequest, Busy, Mesh, NotHeld, Unreachable

AT_ONCE = 2
"""Requests for one payload; the second only where the first is slow."""

SLOW = 3
"""So many times what is usual is slow."""

HEDGE_MIN_S = 0.2
"""No second request sooner: on a busy machine or a long way that is no sign of trouble."""

HEDGES_PER_S, HEDGES_BURST = 2.0, 16
"""Second requests of a node: a request costs either side 2 ms and more."""

HEDGES_RESERVED = 8
"""Of these, for payloads that had none yet: one that nobody has is asked of one after the other."""

MEASURED_MAX, MEASURED_MIN = 64, 4
"""Answers that what is usual follows from. Before there are a few, a part of the limit is."""

SLOW_PART = 4
"""Slow, before anything is measured, is this part of the patience; and that, whatever was.

So that some holders can be asked in one turn: most who do not answer wait for it themselves."""

IN_THREAD_BYTES = 1 << 20
"""Hashing this much takes a millisecond; longer content goes to a thread, off the loop."""


async def sha256(raw: bytes) -> bytes:
    """The hash, without keeping the loop from its other work."""
    if len(raw) > IN_THREAD_BYTES:
        return (await asyncio.to_thread(hashlib.sha256, raw)).digest()
    return hashlib.sha256(raw).digest()


class Allowance:
    """Second requests that a node may make, of all its pulls: a bucket of tokens.

    On a machine or a link that is overloaded everything is slow, and more requests make it slower.
    """

    def __init__(self) -> None:
        self._level = float(HEDGES_BURST)
        self._at_s = 0.0

    def has_one(self, now_s: float, *, is_first: bool) -> bool:
        """May there be one more, now? `is_first`: for a payload that had none."""
        self._level = min(self._level + (now_s - self._at_s) * HEDGES_PER_S, HEDGES_BURST)
        self._at_s = now_s
        return self._level >= (1 if is_first else 1 + HEDGES_RESERVED)

    def take(self) -> None:
        """There is one more."""
        self._level -= 1


class Verdict(StrEnum):
    """What came of one request for a payload."""

    GIVEN = "given"
    NOT_HELD = "not_held"
    BUSY = "busy"
    UNREACHABLE = "unreachable"
    WRONG = "wrong"  # other bytes than were asked for
    CALLED_OFF = "called_off"  # another was quicker, or time was up


class Pace:
    """How long holders have taken lately."""

    def __init__(self) -> None:
        self._begin_s = deque[float](maxlen=MEASURED_MAX)
        self._byte_s = deque[float](maxlen=MEASURED_MAX)
        self.allowance = Allowance()

    def note(self, begin_s: float, size: int, giving_s: float) -> None:
        """A holder began after `begin_s`, and gave `size` bytes in `giving_s`."""
        self._begin_s.append(begin_s)
        self._byte_s.append(giving_s / max(size, 1))

    def hedge_s(self, patience_s: float) -> float:
        """A holder that has not begun by then is slow."""
        return min(self._slow_s(self._begin_s, 1, patience_s), patience_s / SLOW_PART)

    def giving_s(self, size: int, patience_s: float) -> float:
        """One that has begun and needs longer is slow."""
        return self._slow_s(self._byte_s, size, patience_s)

    def _slow_s(self, measured: deque[float], size: int, patience_s: float) -> float:
        if len(measured) < MEASURED_MIN:
            return patience_s / SLOW_PART
        return max(SLOW * statistics.median(measured) * size, HEDGE_MIN_S)


@dataclass(slots=True, eq=False)
class _Attempt:
    """One request. Times are those of the loop's clock."""

    holder: bytes
    asked_at_s: float
    task: asyncio.Task[bytes]
    begun_at_s: float = math.inf
    received: int = 0
    held_since_s: float = math.inf
    """Since then it waits for our own cap, which is not its holder's slowness."""

    @property
    def is_held(self) -> bool:
        """Does it wait for our own cap?"""
        return self.held_since_s < math.inf

    def release(self, now_s: float) -> float:
        """It waits no longer: moves its times by what it has waited, and returns that."""
        waited_s = now_s - self.held_since_s
        self.held_since_s = math.inf
        self.asked_at_s += waited_s
        self.begun_at_s += waited_s
        return waited_s

    def rest_s(self, size: int, now_s: float) -> float:
        """Until all is here, as fast as it has been so far."""
        if not self.received:
            return math.inf
        given_s = min(now_s, self.held_since_s) - self.begun_at_s
        return (size - self.received) * given_s / self.received


class Race:
    """One turn of asking for a payload."""

    def __init__(
        self,
        mesh: Mesh,
        request: BlobRequest,
        size: int,
        pace: Pace,
        *,
        patience_s: float,
        limit_s: float,
        giving_s: float,
        is_first: bool = True,
    ) -> None:
        """`patience_s`: what is slow follows from it, where too little is measured.

        Nobody who gives nothing gets more than `limit_s`, and who gives not over `giving_s`.
        `is_first`: this payload had no turn before.
        """
        self._mesh = mesh
        self._request = request
        self._size = size
        self._pace = pace
        self._patience_s = patience_s
        self._limit_s = limit_s
        self._giving_s = giving_s
        self._is_first = is_first
        self._clock = asyncio.get_running_loop().time
        self._end_s = self._clock() + limit_s
        self._ask_at_s, self._hedge_s = 0.0, 0.0
        self._running: list[_Attempt] = []
        self._leaving: set[asyncio.Task[bytes]] = set()
        self._news = asyncio.Event()
        self._begun: _Attempt | None = None
        self.hedges = 0
        self.verdicts: Counter[Verdict] = Counter()
        self.silent: list[bytes] = []
        """Who was still being asked in the end."""
        self.liars: list[bytes] = []
        """Who gave other bytes than were asked for."""
        self.giver: bytes = b""
        """Whose bytes they are, once there are any."""

    async def run(self, holders: deque[bytes]) -> bytes | None:
        """The payload; None where time is up, or all have said that they do not give it.

        Those who said so are taken out of `holders`.
        """
        self._hedge_s = self._pace.hedge_s(self._patience_s)
        self._ask_at_s = self._clock()
        try:
            while True:
                self._news.clear()
                if (raw := await self._collect()) is not None:
                    return raw
                self._call_off_rivals(holders)
                now_s = self._clock()
                is_over = now_s >= self._end_s
                if is_over and not any(self._is_worth_waiting(a, now_s) for a in self._running):
                    return None
                if not self._running and not self._leaving and not holders:
                    return None
                is_due = not self._running or now_s >= self._ask_at_s
                if is_due and self._running and not self._needs_another(holders, now_s):
                    self._ask_at_s, is_due = self._look_again_at(now_s), False
                if is_due and holders and self._make_room(holders, now_s):
                    self._ask(holders.popleft(), now_s)
                    self._ask_at_s, is_due = now_s + self._hedge_s, False
                look_at_s = now_s + self._hedge_s if is_over else self._end_s
                # Where one is due and nobody can be asked only news count.
                await self._wait_until(look_at_s if is_due else min(look_at_s, self._ask_at_s))
        finally:
            for attempt in list(self._running):
                self.silent.append(attempt.holder)
                self._call_off(attempt)
            if self._leaving:
                await asyncio.wait(self._leaving)

    def _ask(self, holder: bytes, now_s: float) -> None:
        if self._running:
            self.hedges += 1
            self._pace.allowance.take()
        task = asyncio.create_task(
            self._mesh.request(
                holder,
                self._request,
                bytes_max=self._size,
                timeout_s=self._giving_s,
                on_piece=lambda size: self._on_piece(attempt, size),
                on_wait=lambda is_held: self._on_wait(attempt, is_held),
            )
        )
        attempt = _Attempt(holder, now_s, task)
        task.add_done_callback(lambda _: self._news.set())
        self._running.append(attempt)

    def _on_piece(self, attempt: _Attempt, size: int) -> None:
        if attempt.begun_at_s == math.inf:
            attempt.begun_at_s = self._clock()
            self._begun = attempt
            self._news.set()
        attempt.received += size

    def _on_wait(self, attempt: _Attempt, is_held: bool) -> None:
        now_s = self._clock()
        if is_held:
            attempt.held_since_s = now_s
        elif attempt.is_held:
            self._end_s += attempt.release(now_s)
            if attempt.begun_at_s == math.inf and self._running[-1:] == [attempt]:
                self._ask_at_s = attempt.asked_at_s + self._hedge_s

    def _call_off_rivals(self, holders: deque[bytes]) -> None:
        """One has just begun: who has not is the first to be asked if it does not go on well."""
        begun, self._begun = self._begun, None
        if begun in self._running:
            for rival in [a for a in self._running if a.begun_at_s == math.inf]:
                holders.appendleft(rival.holder)
                self._call_off(rival)

    def _needs_another(self, holders: deque[bytes], now_s: float) -> bool:
        """Is whoever is being asked slow, and is there another who may be asked?"""
        is_well = any(self._is_well(attempt, now_s) for attempt in self._running)
        is_first = self._is_first and not self.hedges
        may = not is_well and bool(holders)
        return may and self._pace.allowance.has_one(now_s, is_first=is_first)

    def _look_again_at(self, now_s: float) -> float:
        """When whoever gives well now may have become slow.

        Sooner where it has begun, and nothing has come: it is early for so long, and slow then.
        """
        slow_s = self._pace.giving_s(self._size, self._patience_s)
        early_until_s = [a.begun_at_s + slow_s for a in self._running if not a.received]
        return min([now_s + self._hedge_s, *(end_s for end_s in early_until_s if end_s > now_s)])

    def _is_well(self, attempt: _Attempt, now_s: float) -> bool:
        """Does it give as fast as is usual, or as fast as we let it?"""
        if attempt.is_held:
            return True
        slow_s = self._pace.giving_s(self._size, self._patience_s)
        is_early = now_s < attempt.begun_at_s + slow_s
        has_begun = attempt.begun_at_s < math.inf
        return has_begun and (is_early or attempt.rest_s(self._size, now_s) < slow_s)

    def _is_worth_waiting(self, attempt: _Attempt, now_s: float) -> bool:
        """Will it give everything before another, that is asked now, would have to?"""
        is_near = attempt.rest_s(self._size, now_s) < self._limit_s
        return is_near or self._is_well(attempt, now_s)

    def _make_room(self, holders: deque[bytes], now_s: float) -> bool:
        """Is there room for one more? If not, the slower one may make some.

        Of two that have not begun the one asked last: the first will have it soon, as a rule.
        """
        if len(self._running) + len(self._leaving) < AT_ONCE:
            return True
        slow = [a for a in reversed(self._running) if not self._is_well(a, now_s)]
        if slow and not self._leaving:
            slowest = max(slow, key=lambda attempt: attempt.rest_s(self._size, now_s))
            holders.append(slowest.holder)
            self._call_off(slowest)
        return False

    def _call_off(self, attempt: _Attempt) -> None:
        self._running.remove(attempt)
        self.verdicts[Verdict.CALLED_OFF] += 1
        self._leaving.add(attempt.task)
        attempt.task.add_done_callback(self._leaving.discard)
        attempt.task.add_done_callback(_ignore)
        attempt.task.cancel()

    async def _collect(self) -> bytes | None:
        """The payload, if one of the requests that have ended has brought it."""
        for attempt in [a for a in self._running if a.task.done()]:
            self._running.remove(attempt)
            raw = None
            try:
                raw = attempt.task.result()
                verdict = Verdict.GIVEN
            except Busy:
                verdict = Verdict.BUSY
            except NotHeld:
                verdict = Verdict.NOT_HELD
            except (Unreachable, asyncio.CancelledError):
                verdict = Verdict.UNREACHABLE
            if raw is not None and await sha256(raw) != self._request.key:
                verdict = Verdict.WRONG
                self.liars.append(attempt.holder)
            self.verdicts[verdict] += 1
            if raw is not None and verdict is Verdict.GIVEN:
                self._note(attempt)
                return raw
        return None

    def _note(self, attempt: _Attempt) -> None:
        now_s = self._clock()
        begun_at_s = min(attempt.begun_at_s, now_s)
        self._pace.note(begun_at_s - attempt.asked_at_s, self._size, now_s - begun_at_s)
        self.giver = attempt.holder

    async def _wait_until(self, moment_s: float) -> None:
        """Return when something has changed, or the moment has come."""
        try:
            async with asyncio.timeout_at(moment_s):
                await self._news.wait()
        except TimeoutError:
            pass


def _ignore(task: asyncio.Task[bytes]) -> None:
    """What came of a request that was called off is of no interest."""
    if not task.cancelled():
        task.exception()
