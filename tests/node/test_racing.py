"""Never more than two requests for one payload; a slow, lying or silent holder holds up nobody."""

import asyncio
import hashlib
import random
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from demo_node.ports import Blob, BlobRequest, Busy, NotHeld, OnPiece, OnWait, Unreachable
from demo_node.racing import (
    AT_ONCE,
    HEDGE_MIN_S,
    HEDGES_BURST,
    HEDGES_PER_S,
    HEDGES_RESERVED,
    MEASURED_MIN,
    SLOW_PART,
    Pace,
    Race,
    Verdict,
)
from demo_node.sim.whole.virtual_loop import run_virtual

SIZE = 100_000
RAW = random.Random(1).randbytes(SIZE)
REQUEST = BlobRequest(Blob.PAYLOAD, hashlib.sha256(RAW).digest())
PATIENCE_S = 8.0

Give = Callable[[OnPiece], Awaitable[bytes]]


def give(wait_s: float = 0.0, giving_s: float = 0.0, raw: bytes = RAW, pieces: int = 10) -> Give:
    async def answer(on_piece: OnPiece) -> bytes:
        await asyncio.sleep(wait_s)
        on_piece(0)
        for _ in range(pieces):
            await asyncio.sleep(giving_s / pieces)
            on_piece(len(raw) // pieces)
        return raw

    return answer


def refuse(error: Exception, wait_s: float = 0.0) -> Give:
    async def answer(on_piece: OnPiece) -> bytes:
        await asyncio.sleep(wait_s)
        raise error

    return answer


FROZEN = give(wait_s=1e6)


class Holders:
    """A mesh of which only requests are used; counts those under way."""

    def __init__(self, *answers: Give) -> None:
        self.answers = {bytes([number]): answer for number, answer in enumerate(answers)}
        self.asked: list[int] = []
        self.under_way = 0
        self.most = 0
        self.held_s = 0.0
        """So long each request waits for our own cap, before it is made."""

    @property
    def order(self) -> deque[bytes]:
        return deque(self.answers)

    async def request(
        self,
        peer: bytes,
        request: BlobRequest,
        *,
        bytes_max: int,
        timeout_s: float,
        on_piece: OnPiece,
        on_wait: OnWait,
    ) -> bytes:
        assert (request, bytes_max) == (REQUEST, SIZE)
        self.asked.append(peer[0])
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            async with asyncio.timeout(timeout_s + 20 * self.held_s):  # which waits with us
                await self.hold(on_wait, self.held_s)
                return await self.answers[peer](on_piece)
        except TimeoutError:
            raise Unreachable("too slow") from None
        except asyncio.CancelledError:
            await asyncio.sleep(0.01)  # to say goodbye takes a moment, too
            raise
        finally:
            self.under_way -= 1

    async def hold(self, on_wait: OnWait, seconds: float) -> None:
        on_wait(True)
        await asyncio.sleep(seconds)
        on_wait(False)
        self.on_wait = on_wait

    def race(
        self, pace: Pace | None = None, limit_s: float = PATIENCE_S, *, is_first: bool = True
    ) -> Race:
        return Race(
            cast(Any, self),
            REQUEST,
            SIZE,
            pace or Pace(),
            patience_s=PATIENCE_S,
            limit_s=limit_s,
            giving_s=60.0,
            is_first=is_first,
        )


def run(*answers: Give, limit_s: float = PATIENCE_S) -> tuple[bytes | None, Race, Holders, float]:
    async def scenario() -> tuple[bytes | None, Race, Holders, float]:
        holders = Holders(*answers)
        race = holders.race(limit_s=limit_s)
        begin_s = asyncio.get_running_loop().time()
        raw = await race.run(holders.order)
        assert holders.under_way == 0
        return raw, race, holders, asyncio.get_running_loop().time() - begin_s

    return run_virtual(scenario())


def test_who_gives_at_once_is_the_only_one_that_is_asked() -> None:
    raw, race, holders, _ = run(give(0.1, 0.1), give(), give())
    assert raw == RAW
    assert holders.asked == [0]
    assert race.giver == bytes([0])
    assert race.hedges == 0


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (NotHeld(), Verdict.NOT_HELD),
        (Busy(), Verdict.BUSY),
        (Unreachable(), Verdict.UNREACHABLE),
    ],
)
def test_who_refuses_is_followed_by_the_next_at_once(error: Exception, verdict: Verdict) -> None:
    raw, race, _, lasted_s = run(refuse(error, 0.05), refuse(error, 0.05), give(0.05))
    assert raw == RAW
    assert lasted_s == pytest.approx(0.15)
    assert race.hedges == 0
    assert race.verdicts == {verdict: 2, Verdict.GIVEN: 1}


def test_wrong_bytes_are_nobodys() -> None:
    raw, race, _, _ = run(give(raw=bytes(SIZE)), give(raw=RAW[:-1]), give())
    assert raw == RAW
    assert race.verdicts == {Verdict.WRONG: 2, Verdict.GIVEN: 1}
    assert race.liars == [bytes([0]), bytes([1])]


def test_a_second_is_asked_while_the_first_is_silent_and_the_quicker_one_counts() -> None:
    raw, race, holders, lasted_s = run(FROZEN, give(0.1, 0.1), give())
    assert raw == RAW
    assert holders.asked == [0, 1]
    assert race.hedges == 1
    assert lasted_s == pytest.approx(PATIENCE_S / 4 + 0.2, abs=0.05)


def test_one_that_begins_calls_the_other_off() -> None:
    """Else both uplinks would carry all of it."""
    raw, race, holders, _ = run(give(3.0, 1.0), FROZEN)
    assert raw == RAW
    assert holders.asked == [0, 1]
    assert race.verdicts == {Verdict.CALLED_OFF: 1, Verdict.GIVEN: 1}
    assert holders.most == 2


def test_the_first_is_waited_for_while_others_take_turns() -> None:
    """It is asked because it will have it soon; it waits for it, too."""
    raw, race, holders, lasted_s = run(give(7.0), *[FROZEN] * 9)
    assert raw == RAW
    assert race.giver == bytes([0])
    assert holders.asked == [0, 1, 2, 3]
    assert lasted_s == pytest.approx(7.0, abs=0.05)


def test_one_that_begins_and_then_gives_too_slowly_is_overtaken() -> None:
    raw, race, holders, lasted_s = run(give(0.1, 1000.0, pieces=10_000), give(0.1, 0.2))
    assert raw == RAW
    assert race.giver == bytes([1])
    assert holders.asked == [0, 1]
    assert lasted_s < 0.6 * PATIENCE_S


def test_one_that_begins_and_then_gives_nothing_is_as_slow_as_one_that_does_not_begin() -> None:
    raw, race, _, lasted_s = run(give(0.1, 1e6), give(0.1, 0.2))
    assert raw == RAW
    assert race.giver == bytes([1])
    assert lasted_s == pytest.approx(0.1 + PATIENCE_S / 4 + 0.3, abs=0.05)


def test_payloads_that_nobody_has_leave_second_requests_to_others() -> None:
    """They are asked of one holder after the other, for as long as they are wanted."""

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        pace = Pace()
        for _ in range(MEASURED_MIN):
            pace.note(0.1, SIZE, 0.1)
        frozen = Holders(*[FROZEN] * 20)
        stuck = [asyncio.create_task(frozen.race(pace).run(frozen.order)) for _ in range(6)]
        await asyncio.sleep(0.9 * PATIENCE_S)
        assert len(frozen.asked) > 2 * len(stuck)
        for _ in range(3):
            holders = Holders(FROZEN, give(0.1, 0.1))
            begin_s = loop.time()
            assert await holders.race(pace).run(holders.order) == RAW
            assert loop.time() - begin_s == pytest.approx(0.5, abs=0.05)
        await asyncio.gather(*stuck)

    run_virtual(scenario())


def test_a_payload_that_nobody_had_in_a_turn_counts_as_such_in_the_next() -> None:
    async def scenario() -> None:
        pace = Pace()
        frozen = Holders(*[FROZEN] * 3)
        races = [frozen.race(pace, is_first=False) for _ in range(30)]
        running = asyncio.gather(*(race.run(frozen.order) for race in races))
        await asyncio.sleep(1.1 * PATIENCE_S / SLOW_PART)
        assert sum(race.hedges for race in races) == HEDGES_BURST - HEDGES_RESERVED
        await running

    run_virtual(scenario())


def test_one_called_off_for_a_liar_is_the_next_to_be_asked() -> None:
    dripping = give(0.1, 1e6, raw=bytes(SIZE), pieces=SIZE)
    waits = iter([1e6, 0.1])

    async def late(on_piece: OnPiece) -> bytes:
        return await give(next(waits), 0.1)(on_piece)

    raw, _, holders, lasted_s = run(late, dripping, FROZEN, FROZEN)
    assert raw == RAW
    assert holders.asked == [0, 1, 0]
    assert lasted_s < PATIENCE_S


def test_who_gives_steadily_is_let_finish_though_time_is_up() -> None:
    raw, _, _, lasted_s = run(give(1.0, 12.0, pieces=100), limit_s=PATIENCE_S)
    assert raw == RAW
    assert lasted_s == pytest.approx(13.0)


@pytest.mark.parametrize("held_s", [PATIENCE_S / 2, 3 * PATIENCE_S])
def test_waiting_for_our_own_cap_is_nobodys_slowness(held_s: float) -> None:
    """Not before it asks, nor while it reads; and time is not up because of it."""

    async def scenario() -> None:
        loop = asyncio.get_running_loop()

        async def answer(on_piece: OnPiece) -> bytes:
            on_piece(0)
            for _ in range(10):
                await asyncio.sleep(0.01)
                on_piece(SIZE // 10)
                await holders.hold(holders.on_wait, held_s)
            return RAW

        holders = Holders(answer, FROZEN)
        holders.held_s = held_s
        pace = Pace()
        race = holders.race(pace)
        begin_s = loop.time()
        assert await race.run(holders.order) == RAW
        assert loop.time() - begin_s == pytest.approx(11 * held_s + 0.1)
        assert holders.asked == [0]
        for _ in range(MEASURED_MIN - 1):
            pace.note(0.0, SIZE, 0.1)
        assert pace.hedge_s(PATIENCE_S) == HEDGE_MIN_S
        assert pace.giving_s(SIZE, PATIENCE_S) == pytest.approx(0.3)

    run_virtual(scenario())


def test_one_that_is_slow_after_our_cap_has_let_it_go_is_overtaken_as_any_other() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        holders = Holders(FROZEN, give(0.1, 0.1))
        holders.held_s = 20.0
        race = holders.race()
        begin_s = loop.time()
        assert await race.run(holders.order) == RAW
        assert loop.time() - begin_s == pytest.approx(20.0 + PATIENCE_S / 4 + 20.2, abs=0.05)
        assert holders.asked == [0, 1]

    run_virtual(scenario())


def test_time_is_up_where_nobody_gives_anything() -> None:
    raw, race, holders, lasted_s = run(*[FROZEN] * 20)
    assert raw is None
    assert lasted_s == pytest.approx(PATIENCE_S, abs=0.05)
    assert race.silent[0] == bytes([0])
    assert len(holders.asked) >= 4


def test_all_who_refuse_are_asked_once_and_that_is_the_end() -> None:
    raw, race, holders, lasted_s = run(*[refuse(NotHeld(), 0.01)] * 20)
    assert raw is None
    assert holders.asked == list(range(20))
    assert lasted_s < 1
    assert not race.silent


def test_a_second_is_asked_sooner_where_holders_have_been_quick() -> None:
    async def scenario() -> None:
        pace = Pace()
        assert pace.hedge_s(PATIENCE_S) == PATIENCE_S / 4
        for _ in range(MEASURED_MIN):
            pace.note(0.1, SIZE, 0.5)
        assert pace.hedge_s(PATIENCE_S) == pytest.approx(0.3)
        assert pace.giving_s(2 * SIZE, PATIENCE_S) == pytest.approx(3.0)
        holders = Holders(FROZEN, give())
        begin_s = asyncio.get_running_loop().time()
        assert await holders.race(pace).run(holders.order) == RAW
        assert asyncio.get_running_loop().time() - begin_s == pytest.approx(0.3, abs=0.05)
        for _ in range(100):
            pace.note(0.001, SIZE, 0.001)
        assert pace.hedge_s(PATIENCE_S) == HEDGE_MIN_S
        for _ in range(100):
            pace.note(9.0, SIZE, 9.0)
        assert pace.hedge_s(PATIENCE_S) == PATIENCE_S / 4

    run_virtual(scenario())


def make_holder(dice: random.Random) -> Give:
    """One that does anything but give it in time."""
    kind = dice.randrange(7)
    wait_s = dice.choice([0.0, 0.1, 1.0, 3.0])
    if kind == 0:
        return FROZEN
    if kind == 1:
        return give(wait_s, dice.choice([0.0, 1.0]), raw=dice.randbytes(SIZE))
    if kind == 2:
        return give(wait_s, 1e5, pieces=1000)
    if kind == 3:
        return give(wait_s, 1e5, raw=bytes(10), pieces=2)
    return refuse([NotHeld(), Busy(), Unreachable()][kind % 3], wait_s)


@pytest.mark.parametrize("seed", range(60))
def test_whatever_the_holders_do_two_are_asked_at_once_and_one_good_one_is_found(seed: int) -> None:
    async def scenario() -> None:
        dice = random.Random(seed)
        answers = [make_holder(dice) for _ in range(dice.randrange(1, 15))]
        answers.insert(dice.randrange(len(answers) + 1), give(0.1, 0.3))
        holders = Holders(*answers)
        pace = Pace()
        for turn in range(5):
            if (
                raw := await holders.race(pace, PATIENCE_S * 2**turn).run(holders.order)
            ) is not None:
                break
        assert raw == RAW
        assert holders.most <= AT_ONCE
        assert holders.under_way == 0

    run_virtual(scenario())


def test_a_race_that_is_cancelled_leaves_nothing_under_way() -> None:
    async def scenario() -> None:
        holders = Holders(FROZEN, FROZEN)
        race = asyncio.create_task(holders.race().run(holders.order))
        await asyncio.sleep(PATIENCE_S / 2)
        assert holders.under_way == 2
        race.cancel()
        await asyncio.wait([race])
        assert holders.under_way == 0

    run_virtual(scenario())


def test_second_requests_are_few_whatever_the_number_of_pulls() -> None:
    """Where everything is slow, more requests make it slower."""

    async def scenario() -> None:
        pace = Pace()
        holders = Holders(*[FROZEN] * 20)
        races = [holders.race(pace) for _ in range(30)]
        await asyncio.gather(*(race.run(holders.order) for race in races))
        made = sum(race.hedges for race in races)
        assert HEDGES_BURST <= made <= HEDGES_BURST + HEDGES_PER_S * PATIENCE_S

    run_virtual(scenario())
