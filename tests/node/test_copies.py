"""An author gives its payload to the first few; others come back, or find it elsewhere."""

from demo_node.copies import COPIES_MAX, REMEMBERED_MAX, SENT_ON_MAX, Copies

NAME = b"payload"


def number(of: int) -> bytes:
    return of.to_bytes(32)


def test_the_first_get_it_and_who_comes_back() -> None:
    copies = Copies()
    copies.add_own(NAME)
    assert [copies.may_give(NAME, number(n)) for n in range(COPIES_MAX + 2)] == (
        [True] * COPIES_MAX + [False] * 2
    )
    assert [copies.may_give(NAME, number(COPIES_MAX)) for _ in range(SENT_ON_MAX)] == [False, True]
    assert not copies.may_give(NAME, number(COPIES_MAX + 5))
    assert copies.may_give(b"another's", number(1))


def test_a_copy_that_was_called_off_is_anothers_and_none_was_given() -> None:
    copies = Copies()
    copies.add_own(NAME)
    assert all(copies.may_give(NAME, number(n)) for n in range(COPIES_MAX))
    copies.answered(NAME, number(0), is_given=False)
    assert copies.may_give(NAME, number(8))
    assert not copies.may_give(NAME, number(9))
    for _ in range(COPIES_MAX):
        copies.answered(NAME, number(0), is_given=True)
    assert not copies.may_give(NAME, number(10))
    copies.answered(b"another's", number(0), is_given=True)
    copies.answered(b"another's", number(0), is_given=False)
    found = {f.labels: f.value for f in copies.figures()}
    assert found == {("own",): COPIES_MAX, ("other",): 1}


def test_strangers_are_sent_on_and_take_nothing_from_members() -> None:
    copies = Copies(lambda peer: peer < number(10))
    copies.add_own(NAME)
    strangers = [number(n) for n in range(10, 30)]
    assert not any(copies.may_give(NAME, who) for _ in range(SENT_ON_MAX) for who in strangers)
    assert all(copies.may_give(NAME, who) for who in strangers)  # they have found nobody else
    assert [copies.may_give(NAME, number(n)) for n in range(COPIES_MAX + 1)] == (
        [True] * COPIES_MAX + [False]
    )
    for who in strangers:
        copies.answered(NAME, who, is_given=False)  # calls it off: no copy comes back by that
    assert not copies.may_give(NAME, number(COPIES_MAX + 1))


def test_what_is_old_is_given_to_whoever_asks_and_forgotten() -> None:
    copies = Copies()
    copies.add_own(NAME)
    for n in range(COPIES_MAX + 1):
        copies.may_give(NAME, number(n))
    for n in range(REMEMBERED_MAX):
        copies.add_own(number(n))
    assert all(copies.may_give(NAME, number(n)) for n in range(50))
    assert len(copies._own) == REMEMBERED_MAX
    assert not copies._sent_on
