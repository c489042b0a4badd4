import asyncio
import gc
import weakref
from collections.abc import Iterator

import pytest

from demo_node import garbage
from demo_node.garbage import collect_often, short_pauses
from demo_node.sim.whole.virtual_loop import run_virtual


class Thing:
    """May refer to itself."""

    me: "Thing | None" = None


@pytest.fixture(autouse=True)
def nothing_set_aside() -> Iterator[None]:
    """Also by whoever ran before."""
    gc.unfreeze()
    yield
    assert gc.get_freeze_count() == 0


def test_what_is_there_is_not_looked_at_again() -> None:
    before = len(gc.get_objects())
    with short_pauses():
        assert gc.get_freeze_count() > before / 2
        assert len(gc.get_objects()) < before / 10


def test_what_comes_to_stay_is_set_aside_once_it_takes_long_to_look_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with short_pauses():
        things = [Thing() for _ in range(1_000)]
        set_aside = gc.get_freeze_count()
        monkeypatch.setattr(garbage, "PAUSE_S", 3600.0)
        gc.collect()
        assert gc.get_freeze_count() <= set_aside
        monkeypatch.setattr(garbage, "PAUSE_S", 0.0)
        gc.collect()
        assert gc.get_freeze_count() >= set_aside + len(things)


def test_young_collections_set_nothing_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    """They do not know what is garbage among the older."""
    monkeypatch.setattr(garbage, "PAUSE_S", 0.0)
    with short_pauses():
        set_aside = gc.get_freeze_count()
        kept = [Thing() for _ in range(100)]
        gc.collect(1)
        assert gc.get_freeze_count() <= set_aside
        assert kept


def test_circles_are_still_found_and_what_was_set_aside_goes_with_its_last_reference(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(garbage, "PAUSE_S", 0.0)
    with short_pauses():
        plain, circle = Thing(), Thing()
        circle.me = circle
        seen = [weakref.ref(plain), weakref.ref(circle)]
        del circle
        gc.collect()
        assert seen[1]() is None
        assert seen[0]() is plain
        del plain
        assert seen[0]() is None


async def collect_for(seconds: float) -> None:
    task = asyncio.create_task(collect_often())
    await asyncio.sleep(seconds)
    task.cancel()


def test_what_comes_to_stay_is_set_aside_before_it_is_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage, "PAUSE_S", 0.0)
    with short_pauses():
        set_aside = gc.get_freeze_count()
        things = [Thing() for _ in range(1_000)]
        run_virtual(collect_for(0.5 * garbage.EVERY_S))
        assert gc.get_freeze_count() <= set_aside
        run_virtual(collect_for(1.5 * garbage.EVERY_S))
        assert gc.get_freeze_count() >= set_aside + len(things)


def make_circle() -> "weakref.ref[Thing]":
    """In use when it is set aside, and not afterwards."""
    circle = Thing()
    circle.me = circle
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(garbage, "PAUSE_S", 0.0)
        gc.collect()
    return weakref.ref(circle)


def test_a_circle_that_was_set_aside_is_found_when_everything_is_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(garbage, "ALL_EVERY_S", 2.5 * garbage.EVERY_S)
    monkeypatch.setattr(garbage, "GROWTH_MAX", 1e9)
    monkeypatch.setattr(garbage, "PAUSE_S", 3600.0)

    async def run() -> None:
        collecting = asyncio.create_task(collect_for(7.5 * garbage.EVERY_S))
        await asyncio.sleep(1.5 * garbage.EVERY_S)
        first = make_circle()
        await asyncio.sleep(garbage.EVERY_S)
        assert first() is not None  # not so soon
        await asyncio.sleep(garbage.EVERY_S)
        assert first() is None
        again = make_circle()
        await asyncio.sleep(2 * garbage.EVERY_S)
        assert again() is not None
        await collecting
        assert again() is None

    with short_pauses():
        run_virtual(run())


def test_everything_is_looked_at_sooner_where_far_more_was_set_aside(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Or memory would grow for hours with whoever connects and goes."""
    monkeypatch.setattr(garbage, "PAUSE_S", 3600.0)

    async def run() -> None:
        collecting = asyncio.create_task(collect_for(3.5 * garbage.EVERY_S))
        await asyncio.sleep(0.5 * garbage.EVERY_S)
        monkeypatch.setattr(garbage, "GROWTH_MAX", 1e9)
        circle = make_circle()
        await asyncio.sleep(garbage.EVERY_S)
        assert circle() is not None
        monkeypatch.setattr(garbage, "GROWTH_MAX", 0.0)
        await asyncio.sleep(garbage.EVERY_S)
        assert circle() is None
        await collecting

    with short_pauses():
        run_virtual(run())
