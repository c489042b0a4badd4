"""How much room the disk still has, as the metrics show it."""

import asyncio
import contextlib
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from demo_node.store import room
from demo_node.store.room import FreeRoom
from tests.waiting import wait_until


def free_bytes(looks: FreeRoom) -> float:
    (figure,) = looks.figures()
    assert figure.name == "demo_datadir_free_bytes"
    return figure.value


def test_it_is_known_from_the_start(tmp_path: Path) -> None:
    usage = shutil.disk_usage(tmp_path)
    assert 0 < free_bytes(FreeRoom(tmp_path)) <= usage.total


def test_it_follows_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = SimpleNamespace(free=5_000)
    monkeypatch.setattr(room, "LOOK_S", 0.01)
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: disk)

    async def main() -> None:
        looks = FreeRoom(tmp_path)
        assert free_bytes(looks) == 5_000
        disk.free = 70
        task = asyncio.create_task(looks.run())
        await wait_until(lambda: free_bytes(looks) == 70)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_a_folder_that_is_gone_has_no_number(tmp_path: Path) -> None:
    assert math.isnan(free_bytes(FreeRoom(tmp_path / "nowhere")))
