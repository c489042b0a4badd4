"""The momentum file on the disk: the newest whole one, whatever goes wrong meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from demo_node.store.atomic import AtomicFile
from demo_node.store.disk import FileDisk
from demo_node.store.memory import MemoryDisk
from demo_node.store.momentum import BATCH_BYTES, MomentumFile
from demo_protocol.errors import ConfigError
from tests.store.builders import pieces

FOLDER = Path("/d")
PATH = FOLDER / "momentum.safetensors"


def content(round_: int) -> bytes:
    tensors = {"residual": np.full(8, round_, np.float32)}
    return safetensors.numpy.save(tensors, {"demo.round": str(round_)})


def disk() -> MemoryDisk:
    made = MemoryDisk()
    made.make_folder(FOLDER)
    return made


def test_it_is_replaced_and_says_of_which_round_it_is(tmp_path: Path) -> None:
    path = tmp_path / "momentum.safetensors"
    file = MomentumFile(FileDisk(), path)
    assert file.file_bytes == 0
    for round_ in (7, 12):
        assert asyncio.run(file.save(pieces(content(round_), 80))) == len(content(round_))
        assert path.read_bytes() == content(round_)
        assert file.read_round() == round_
        again = MomentumFile(FileDisk(), path)
        assert file.file_bytes == again.file_bytes == len(content(round_))
    assert path.stat().st_mode & 0o777 == 0o600
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


async def nothing() -> AsyncIterator[bytes]:
    no_pieces: tuple[bytes, ...] = ()
    for piece in no_pieces:
        yield piece


def test_where_there_is_nothing_to_save_the_old_one_stays() -> None:
    kept = disk()
    file = MomentumFile(kept, PATH)
    asyncio.run(file.save(pieces(content(1))))
    assert asyncio.run(file.save(nothing())) == 0
    assert kept.names(FOLDER) == [PATH.name]
    assert file.read_round() == 1


@pytest.mark.parametrize(
    "raw", [b"", b"\0" * 400, content(3)[:60], safetensors.numpy.save({}), b"{" * 99]
)
def test_of_a_damaged_one_no_round_is_known(raw: bytes) -> None:
    kept = disk()
    kept.create(PATH).write(raw)
    assert MomentumFile(kept, PATH).read_round() is None


def test_on_a_full_disk_the_older_one_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = disk()
    file = MomentumFile(kept, PATH)
    asyncio.run(file.save(pieces(content(1))))

    def refuse(*_: object) -> None:
        raise ConfigError("the disk is full")

    monkeypatch.setattr(AtomicFile, "sync", refuse)
    with pytest.raises(ConfigError):
        asyncio.run(file.save(pieces(content(2))))
    assert kept.names(FOLDER) == [PATH.name]
    assert file.read_round() == 1


def test_no_signature_waits_for_more_than_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that is asked to sync one file writes out all that is waiting, first."""
    waiting: list[int] = []
    unsynced = 0

    def write(file: AtomicFile, piece: bytes) -> None:
        nonlocal unsynced
        unsynced += len(piece)
        waiting.append(unsynced)

    def sync(file: AtomicFile) -> None:
        nonlocal unsynced
        unsynced = 0

    monkeypatch.setattr(AtomicFile, "write", write)
    monkeypatch.setattr(AtomicFile, "sync", sync)
    piece = 128 << 10
    asyncio.run(MomentumFile(disk(), PATH).save(pieces(bytes(20 << 20), piece)))
    assert max(waiting) == BATCH_BYTES
    assert unsynced == 0


class Stopped(Exception):
    """What comes out of a trainer that dies."""


async def broken_off() -> AsyncIterator[bytes]:
    yield content(2)[:100]
    raise Stopped


def test_a_trainer_that_dies_over_it_leaves_the_older_one() -> None:
    kept = disk()
    file = MomentumFile(kept, PATH)
    asyncio.run(file.save(pieces(content(1))))
    with pytest.raises(Stopped):
        asyncio.run(file.save(broken_off()))
    assert kept.names(FOLDER) == [PATH.name]
    assert file.read_round() == 1
    assert file.file_bytes == len(content(1))
