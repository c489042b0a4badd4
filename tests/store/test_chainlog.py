from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo_node.store.chainlog import ChainEntry, ChainLog, scan_chain_log
from demo_node.store.frames import Damage
from demo_node.store.memory import MemoryDisk
from demo_protocol.errors import ConfigError
from tests.store.builders import RUN, chain_entry, name

PATH = Path("/d/chain.log")
ENTRIES = [chain_entry(number) for number in range(-1, 4)]


def disk_with(content: bytes | None = None) -> MemoryDisk:
    disk = MemoryDisk()
    disk.make_folder(PATH.parent)
    if content is not None:
        disk.create(PATH).write(content)
    return disk


def written(entries: list[ChainEntry]) -> bytes:
    disk = disk_with()
    log = ChainLog(disk, PATH, RUN)
    for entry in entries:
        log.append(entry)
    return disk.read(PATH)


def test_records_come_back_in_order_with_their_parents() -> None:
    log = ChainLog(disk_with(written(ENTRIES)), PATH, RUN)
    assert list(log.entries()) == ENTRIES
    assert len(log) == 5
    assert name(2) in log
    assert log.get(name(2)) == chain_entry(2)
    assert log.get(name(99)) is None
    assert log.cut_bytes == 0


def test_a_record_is_written_once() -> None:
    assert written([*ENTRIES, *ENTRIES]) == written(ENTRIES)


def test_a_tail_torn_at_any_byte_loses_only_the_last_records() -> None:
    content = written(ENTRIES)
    for length in range(len(content)):
        log = ChainLog(disk_with(content[:length]), PATH, RUN)
        found = list(log.entries())
        assert found == ENTRIES[: len(found)]
        for entry in ENTRIES:
            log.append(entry)
        assert list(log.entries()) == ENTRIES


@given(st.integers(0, 100_000))
def test_a_flipped_bit_loses_one_record_at_most_and_gives_no_wrong_one(bit: int) -> None:
    content = bytearray(written(ENTRIES))
    bit %= len(content) * 8
    content[bit // 8] ^= 1 << bit % 8
    log = ChainLog(disk_with(bytes(content)), PATH, RUN)
    found = list(log.entries())
    assert found == [entry for entry in ENTRIES if entry in found]
    assert len(found) >= len(ENTRIES) - 1
    assert log.cut_bytes > 0


def test_a_record_damaged_while_the_node_runs_is_missing_not_wrong() -> None:
    disk = disk_with(written(ENTRIES))
    log = ChainLog(disk, PATH, RUN)
    content = disk.read(PATH)
    disk.create(PATH).write(content.replace(b"bundle 1", b"bundle 7"))
    assert log.get(name(1)) is None
    assert [entry.round for entry in log.entries()] == [-1, 0, 2, 3]


@pytest.mark.parametrize("after", range(-2, 5))
def test_entries_after_a_round_are_given_before_and_after_a_restart(after: int) -> None:
    disk = disk_with()
    log = ChainLog(disk, PATH, RUN)
    for number in (-1, 2, 0, 1, 3):  # forks and late records come out of order
        log.append(chain_entry(number))
    for opened in (log, ChainLog(disk, PATH, RUN)):
        found = [entry.round for entry in opened.entries(after)]
        assert found == [number for number in (-1, 2, 0, 1, 3) if number > after]


def test_a_scan_gives_all_intact_records_names_the_damage_and_changes_nothing() -> None:
    content = bytearray(written(ENTRIES))
    second = len(written(ENTRIES[:1]))
    third = len(written(ENTRIES[:2]))
    content[second + 20] ^= 1
    torn = bytes(content) + content[-10:]
    disk = disk_with(torn)
    damage: list[Damage] = []
    found = [entry for _, entry in scan_chain_log(disk, PATH, RUN, damage.append)]
    assert found == [ENTRIES[0], *ENTRIES[2:]]
    assert damage == [Damage(second, third - second), Damage(len(content), 10)]
    assert disk.read(PATH) == torn
    assert disk.names(PATH.parent) == [PATH.name]


def test_a_scan_of_another_runs_log_is_refused() -> None:
    with pytest.raises(ConfigError, match="belongs to another run"):
        list(scan_chain_log(disk_with(written(ENTRIES)), PATH, bytes(32), lambda damage: None))
