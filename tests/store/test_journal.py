from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo_node.store.disk import Appender, FileDisk
from demo_node.store.frames import ENTRY_BYTES_MAX
from demo_node.store.journal import DAMAGED, Journal
from demo_node.store.memory import MemoryDisk
from demo_protocol.errors import ConfigError, LocalFault

FOLDER = Path("/d")
PATH = FOLDER / "log"
ASIDE = FOLDER / f"log{DAMAGED}"
OWNER = bytes(range(32))

payload_lists = st.lists(st.binary(max_size=40), max_size=6)


def disk_with(content: bytes | None = None) -> MemoryDisk:
    disk = MemoryDisk()
    disk.make_folder(FOLDER)
    if content is not None:
        disk.create(PATH).write(content)
    return disk


def reopen(disk: MemoryDisk, after_damage: Sequence[bytes] = ()) -> tuple[Journal, list[bytes]]:
    found: list[bytes] = []
    journal = Journal.open(
        disk, PATH, "test", OWNER, lambda _, payload: found.append(payload), after_damage
    )
    return journal, found


def written(payloads: list[bytes]) -> bytes:
    disk = disk_with()
    journal, _ = reopen(disk)
    for payload in payloads:
        journal.append(payload)
    return disk.read(PATH)


@given(payload_lists)
def test_what_was_appended_is_found_again(payloads: list[bytes]) -> None:
    journal, found = reopen(disk_with(written(payloads)))
    assert found == payloads
    assert journal.cut_bytes == 0


def test_a_tail_torn_at_any_byte_is_cut_to_whole_entries() -> None:
    payloads = [b"first", b"", b"third entry"]
    content = written(payloads)
    ends = [len(written(payloads[:count])) for count in range(4)]
    for length in range(len(content) + 1):
        disk = disk_with(content[:length])
        journal, found = reopen(disk)
        whole = sum(end <= length for end in ends[1:])
        assert found == payloads[:whole]
        assert journal.cut_bytes == (length - ends[whole] if length >= ends[0] else length)
        journal.append(b"after")
        assert reopen(disk)[1] == [*payloads[:whole], b"after"]


@given(payload_lists, st.data())
def test_a_bit_flipped_anywhere_costs_one_entry_at_most_and_its_bytes_are_set_aside(
    payloads: list[bytes], data: st.DataObject
) -> None:
    content = bytearray(written(payloads))
    bit = data.draw(st.integers(0, len(content) * 8 - 1))
    content[bit // 8] ^= 1 << bit % 8
    ends = [len(written(payloads[:count])) for count in range(len(payloads) + 1)]
    hit = sum(end <= bit // 8 for end in ends)  # 0: the file's header, n: the n-th entry
    start, end = [0, *ends][hit : hit + 2]
    disk = disk_with(bytes(content))
    journal, found = reopen(disk)
    assert found == (payloads[: hit - 1] + payloads[hit:] if hit else payloads)
    assert journal.cut_bytes == end - start
    assert disk.read(ASIDE) == content[start:end]
    journal.append(b"after")
    again, found_again = reopen(disk)
    assert found_again == [*found, b"after"]
    assert again.cut_bytes == 0


def test_a_damaged_stretch_of_any_length_costs_only_the_entries_it_touches() -> None:
    payloads = [b"%d" % number * 9 for number in range(8)]
    content = written(payloads)
    ends = [len(written(payloads[:count])) for count in range(9)]
    for length in (1, 7, 30, 65):
        for start in range(ends[0], len(content) - length):
            noise = bytes(byte ^ 0x5A for byte in content[start : start + length])
            spoiled = content[:start] + noise + content[start + length :]
            found = reopen(disk_with(spoiled))[1]
            whole = [
                payload
                for payload, first, end in zip(payloads, ends, ends[1:], strict=False)
                if end <= start or first >= start + length
            ]
            assert found == whole


def test_what_is_added_after_damage_is_added_only_then() -> None:
    disk = disk_with(written([b"first", b"second"])[:-1])
    for _ in range(2):
        assert reopen(disk, [b"said"])[1] == [b"first", b"said"]


def test_entries_in_the_wrong_place_are_not_believed() -> None:
    """A disk that writes a good block at a bad address is caught: the position is checked too."""
    one, two = written([b"first"]), written([b"first", b"second"])
    again = two + two[len(one) :]
    moved = two[: len(written([]))] + two[len(one) :]
    assert reopen(disk_with(again))[1] == [b"first", b"second"]
    assert reopen(disk_with(moved))[1] == []


def test_a_flip_after_opening_is_noticed_when_read() -> None:
    disk = disk_with(written([]))
    journal, _ = reopen(disk)
    position = journal.append(b"payload")
    content = disk.read(PATH)
    for at in range(position, len(content)):
        disk.create(PATH).write(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
        assert journal.read(position) is None
    disk.create(PATH).write(content)
    assert journal.read(position) == b"payload"


def test_another_owners_log_is_refused_and_left_alone() -> None:
    disk = disk_with(written([b"x"]))
    before = disk.read(PATH)
    for purpose, owner in (("test", bytes(32)), ("other", OWNER)):
        with pytest.raises(ConfigError, match="belongs to another run"):
            Journal.open(disk, PATH, purpose, owner, lambda *_: None)
    assert disk.read(PATH) == before


def test_rewrite_replaces_everything_and_goes_on() -> None:
    disk = disk_with()
    journal, _ = reopen(disk)
    for payload in (b"a", b"b", b"c"):
        journal.append(payload)
    journal.rewrite(iter([b"b"]))
    position = journal.append(b"d")
    assert journal.read(position) == b"d"
    assert reopen(disk)[1] == [b"b", b"d"]


def test_an_entry_over_the_limit_is_our_bug() -> None:
    journal, _ = reopen(disk_with())
    with pytest.raises(LocalFault):
        journal.append(bytes(ENTRY_BYTES_MAX + 1))
    journal.close()
    with pytest.raises(LocalFault, match="log is closed"):
        journal.append(b"x")


class FillingDisk(MemoryDisk):
    """Takes half of the next write, then says that it is full."""

    full = False

    def append(self, path: Path, mode: int = 0o600) -> Appender:
        file = super().append(path, mode)
        return Half(file, self)


class Half:
    def __init__(self, file: Appender, disk: FillingDisk) -> None:
        self._file, self._disk = file, disk
        self.sync, self.close = file.sync, file.close

    def write(self, piece: bytes | memoryview) -> None:
        if not self._disk.full:
            return self._file.write(piece)
        self._file.write(piece[: len(piece) // 2])
        raise ConfigError("the disk is full")


def test_an_entry_that_did_not_fit_does_not_spoil_later_ones() -> None:
    disk = FillingDisk()
    disk.make_folder(FOLDER)
    journal, _ = reopen(disk)
    journal.append(b"before")
    disk.full = True
    with pytest.raises(ConfigError):
        journal.append(b"does not fit")
    disk.full = False
    journal.append(b"after")
    again, found = reopen(disk)
    assert found == [b"before", b"after"]
    assert again.cut_bytes == 0


@contextmanager
def on_real_disk(path: Path, found: list[bytes]) -> Iterator[Journal]:
    opened = Journal.open(FileDisk(), path, "test", OWNER, lambda _, p: found.append(p))
    with closing(opened) as journal:
        yield journal


def test_entries_larger_than_the_read_window_survive(tmp_path: Path) -> None:
    payloads = [bytes([n]) * (700_000 * n) for n in range(5)]
    with on_real_disk(tmp_path / "log", []) as journal:
        for payload in payloads:
            journal.append(payload)
        journal.sync()
    found: list[bytes] = []
    with on_real_disk(tmp_path / "log", found) as journal:
        assert journal.cut_bytes == 0
    assert found == payloads
