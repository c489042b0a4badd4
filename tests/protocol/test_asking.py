"""Who asks to be let in where many do (rule 6): what was said counts, and is not said again."""

import random

import pytest

from demo_protocol.effects import Announce, Effect
from demo_protocol.identity import Kind, compute_waiting_hash
from demo_protocol.limits import JOINS_MAX
from demo_protocol.messages import Membership, decode_membership, seal_membership
from demo_protocol.pool import Pool
from tests.builders import MANIFEST, RUN_ID
from tests.protocol.stage import SETTLE, Stage, grown_tree, only

JOINER, FIRST = 9, 20
PLACES = JOINS_MAX // 2
LATE = MANIFEST.agreement.late_rounds


def said(effects: list[Effect]) -> list[Membership]:
    found = [e for e in only(Announce, effects) if e.kind is Kind.MEMBERSHIP]
    return [decode_membership(e.raw, RUN_ID).body for e in found]


def play(stage: Stage, round_: int, joins: int) -> list[Membership]:
    """What is asked in a round after a record that lists so many others' joins."""
    first = FIRST + round_ * PLACES
    record = stage.tree.grow(stage.head, round_ - 1, range(4), joins=range(first, first + joins))
    stage.give(record, round_=round_ - 1, ms=SETTLE)
    assert stage.head == record
    return said(stage.tick(round_))


@pytest.fixture
def stage() -> Stage:
    """A joiner in round 4, after round 3. It has asked."""
    tree, records = grown_tree()
    stage = Stage(tree, records[-1], JOINER)
    assert [wish.round for wish in said(stage.tick(4))] == [4]
    return stage


def test_while_records_have_no_place_left_a_join_is_said_again_once_it_has_lapsed(
    stage: Stage,
) -> None:
    asked = [wish.round for r in range(5, 4 + 2 * LATE + 4) for wish in play(stage, r, PLACES)]
    assert asked == [4 + LATE + 1, 4 + 2 * (LATE + 1)]


def test_a_record_with_a_place_left_is_asked_again_at_once(stage: Stage) -> None:
    assert not play(stage, 5, PLACES)
    assert [wish.round for wish in play(stage, 6, PLACES - 1)] == [6]
    assert [wish.round for wish in play(stage, 7, 0)] == [7]


def test_who_leaves_or_cannot_be_drawn_any_more_says_so_though_there_is_a_crowd(
    stage: Stage,
) -> None:
    asking = stage.machine.asking
    assert not play(stage, 5, PLACES)
    assert not asking.ask(5, leaving=False, never_drawn=False)
    (other,) = said(asking.ask(5, leaving=False, never_drawn=True))
    assert other.never_drawn
    record = stage.tree.grow(stage.head, 5, range(4), joins=[JOINER])
    stage.give(record, round_=6)
    (leave,) = said(asking.ask(6, leaving=True, never_drawn=False))
    assert not leave.joins
    assert [wish.joins for wish in said(asking.ask(7, leaving=True, never_drawn=False))] == [False]


# --- what patience costs among dishonest joins ----------------------------------------------------

CROWD, TRIALS, ROUNDS = 65, 40, 60


def rounds_until_listed(seed: int, every: int) -> int:
    """How long one who asks `every` so many rounds waits, where others' new keys ask in each."""
    rng = random.Random(seed)
    pool, listed, me, asked = Pool(rng.randbytes(32)), set[bytes](), rng.randbytes(32), -every
    for round_ in range(ROUNDS):
        pool.forget_before(round_ - LATE, round_)
        peers = [rng.randbytes(32) for _ in range(CROWD)]
        if round_ - asked >= every:
            peers.insert(rng.randrange(CROWD), me)
            asked = round_
        for peer in peers:
            wish = Membership(joins=True, peer=peer, round=round_)
            pool.add_wish(seal_membership(wish, RUN_ID, lambda message: b"signed"))
        parent = rng.randbytes(32)
        usable = sorted(pool.wishes.keys() - listed, key=lambda p: compute_waiting_hash(parent, p))
        listed.update(usable[:PLACES])
        if me in listed:
            return round_ + 1
    return ROUNDS


def test_among_sixty_five_dishonest_joins_a_round_the_patient_wait_no_half_as_long_again() -> None:
    eager, patient = (
        sum(rounds_until_listed(seed, every) for seed in range(TRIALS)) / TRIALS
        for every in (1, LATE + 1)
    )
    assert 1 < eager < ROUNDS / 4
    assert patient < 1.5 * eager
