"""Scores fade, bans end and double, and what an honest peer does holds nobody back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo_node.mesh import conduct
from demo_node.mesh.conduct import (
    ADDRESS_BAN_S,
    BANNED_AT,
    HALF_LIFE_S,
    KEPT_MAX,
    KEY_BAN_S,
    REMEMBERED_S,
    WEIGHTS,
    Ledger,
)
from demo_node.ports import Offence

offences = st.sampled_from([o for o in Offence if o is not Offence.OPERATOR])
histories = st.lists(st.tuples(st.floats(0, 3600), offences), max_size=40)


def test_every_offence_has_a_weight_and_none_but_our_own_word_bans_at_once() -> None:
    assert set(WEIGHTS) == set(Offence)
    at_once = [o for o in Offence if Ledger[str](KEY_BAN_S).note("a", o, 0)]
    assert at_once == [Offence.OPERATOR]


@given(histories, st.floats(0, 1e6))
def test_a_score_only_falls_while_nothing_happens(
    history: list[tuple[float, Offence]], pause_s: float
) -> None:
    ledger, now_s = Ledger[str](KEY_BAN_S), 0.0
    for passed_s, offence in history:
        now_s += passed_s
        ledger.note("a", offence, now_s)
    before = ledger.score("a", now_s)
    assert 0 <= before < BANNED_AT
    assert ledger.score("a", now_s + pause_s) == pytest.approx(
        before * 0.5 ** (pause_s / HALF_LIFE_S), abs=1e-9
    )


@given(histories)
def test_a_ban_comes_exactly_where_the_points_reach_it_and_ends(
    history: list[tuple[float, Offence]],
) -> None:
    ledger, now_s, points, until_s = Ledger[str](KEY_BAN_S), 0.0, 0.0, 0.0
    for passed_s, offence in history:
        now_s += passed_s
        points *= 0.5 ** (passed_s / HALF_LIFE_S)
        was_banned = now_s < until_s
        seconds = ledger.note("a", offence, now_s)
        if was_banned:
            assert not seconds  # under way when it was banned: makes nothing longer
            continue
        points += WEIGHTS[offence]
        if abs(points - BANNED_AT) < 1e-6:
            return  # rounding decides
        assert bool(seconds) == (points >= BANNED_AT)
        if seconds:
            until_s, points = now_s + seconds, 0.0
            assert KEY_BAN_S[0] <= seconds <= KEY_BAN_S[1]
            assert ledger.left_s("a", now_s) == pytest.approx(seconds)
            assert ledger.left_s("a", until_s + 1) == 0
            assert not list(ledger.banned(until_s + 1))


def offend(ledger: Ledger[str], now_s: float) -> float:
    """Until it is banned: for how long."""
    while not (seconds := ledger.note("a", Offence.FLOOD, now_s)):
        pass
    return seconds


@pytest.mark.parametrize("ban_s", [KEY_BAN_S, ADDRESS_BAN_S])
def test_who_goes_on_is_banned_for_twice_as_long_up_to_a_bound(ban_s: tuple[float, float]) -> None:
    ledger, now_s, found = Ledger[str](ban_s), 0.0, []
    for _ in range(10):
        seconds = offend(ledger, now_s)
        found.append(seconds)
        now_s += seconds
    assert found == [min(ban_s[0] * 2**n, ban_s[1]) for n in range(10)]
    now_s += REMEMBERED_S + 1
    assert offend(ledger, now_s) == ban_s[0]


def test_one_wrong_message_in_ten_minutes_for_ever_bans_nobody() -> None:
    ledger = Ledger[str](KEY_BAN_S)
    for n in range(10_000):
        assert not ledger.note("a", Offence.MESSAGE, n * HALF_LIFE_S)


def test_others_are_not_touched_and_who_is_forgiven_is_as_new() -> None:
    ledger = Ledger[str](KEY_BAN_S)
    offend(ledger, 0)
    assert ledger.left_s("b", 0) == ledger.score("b", 0) == 0
    assert [b.name for b in ledger.banned(0)] == ["a"]
    assert ledger.forgive("a")
    assert not ledger.forgive("a")
    assert not list(ledger.banned(0))
    assert offend(ledger, 1) == KEY_BAN_S[0]


def test_of_keys_without_end_the_harmless_are_forgotten_and_no_ban_is() -> None:
    ledger = Ledger[str](KEY_BAN_S)
    offend(ledger, 0)
    for n in range(3 * KEPT_MAX):
        ledger.note(f"key {n}", Offence.STALLED, 1)
        assert len(ledger) <= KEPT_MAX
    assert ledger.left_s("a", 1)


def test_of_bans_without_end_those_that_end_first_are_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(conduct, "KEPT_MAX", 8)
    ledger = Ledger[int](KEY_BAN_S)
    for n in range(50):
        ledger.ban(n, Offence.OPERATOR, 0, 100 + n)
        assert len(ledger) <= 8
    assert next(b.name for b in ledger.banned(0)) == 49
