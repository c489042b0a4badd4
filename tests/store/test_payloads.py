import hashlib
import os
from pathlib import Path

import pytest

from demo_node.store.disk import FileDisk
from demo_node.store.payloads import PayloadStore


@pytest.fixture
def store(tmp_path: Path) -> PayloadStore:
    return PayloadStore(FileDisk(), tmp_path)


def reopened(tmp_path: Path) -> PayloadStore:
    return PayloadStore(FileDisk(), tmp_path)


def test_a_payload_is_found_by_its_hash_now_and_after_a_restart(
    store: PayloadStore, tmp_path: Path
) -> None:
    key = store.put(3, b"payload")
    assert key == hashlib.sha256(b"payload").digest()
    for opened in (store, reopened(tmp_path)):
        assert key in opened
        assert opened.get(key) == b"payload"
    assert store.get(bytes(32)) is None


def test_a_changed_payload_is_dropped_and_can_be_stored_again(
    store: PayloadStore, tmp_path: Path
) -> None:
    key = store.put(3, b"payload")
    path = tmp_path / "3" / key.hex()
    for damaged in (b"payloae", b"payloa", b""):
        path.write_bytes(damaged)
        opened = reopened(tmp_path)
        assert opened.get(key) is None
        assert key not in opened
        assert not path.exists()
        opened.put(3, b"payload")
        assert reopened(tmp_path).get(key) == b"payload"


def test_a_payload_that_someone_deleted_is_only_missing(
    store: PayloadStore, tmp_path: Path
) -> None:
    key = store.put(3, b"payload")
    (tmp_path / "3" / key.hex()).unlink()
    assert store.get(key) == b"payload"  # still in memory
    opened = PayloadStore(FileDisk(), tmp_path)
    assert opened.get(key) is None


def test_rounds_before_the_window_are_gone_from_disk_and_memory(
    store: PayloadStore, tmp_path: Path
) -> None:
    keys = [store.put(round_, b"payload %d" % round_) for round_ in (8, 9, 10, 11)]
    (tmp_path / "8" / f".{keys[0].hex()}.7.tmp").touch()  # left by a crash
    store.drop_before(10)
    assert [store.get(key) for key in keys] == [None, None, b"payload 10", b"payload 11"]
    assert sorted(os.listdir(tmp_path)) == ["10", "11"]


def test_equal_payloads_of_two_rounds_live_as_long_as_the_later(store: PayloadStore) -> None:
    key = store.put(5, b"same")
    assert store.put(9, b"same") == key == store.put(7, b"same")
    store.drop_before(9)
    assert store.get(key) == b"same"


def test_memory_is_bounded_and_keeps_what_was_used_last(tmp_path: Path) -> None:
    store = PayloadStore(FileDisk(), tmp_path, memory_bytes=250)
    first, second = store.put(1, b"a" * 100), store.put(1, b"b" * 100)
    store.get(first)
    third = store.put(1, b"c" * 100)
    for key in (first, second, third):
        (tmp_path / "1" / key.hex()).unlink()
    assert store.get(second) is None
    assert store.get(first) == b"a" * 100
    assert store.get(third) == b"c" * 100


def test_foreign_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "README").touch()
    store = PayloadStore(FileDisk(), tmp_path)
    assert store.get(bytes(32)) is None
    store.drop_before(7)
    assert (tmp_path / "notes").exists()


def test_over_budget_the_oldest_rounds_go_first_and_what_is_needed_stays(tmp_path: Path) -> None:
    store = PayloadStore(FileDisk(), tmp_path, budget_bytes=300)
    keys = [store.put(round_, bytes([round_]) * 100) for round_ in range(6)]
    assert store.held_bytes == 600
    assert store.drop_before(1, needed_from=2) == 2  # 300 over budget, but round 2 is needed
    assert [store.get(key) is not None for key in keys] == [False] * 2 + [True] * 4
    assert store.held_bytes == 400
    assert store.drop_before(1, needed_from=5) == 3
    assert store.held_bytes == 300 == PayloadStore(FileDisk(), tmp_path).held_bytes
    assert sorted(os.listdir(tmp_path)) == ["3", "4", "5"]
    assert store.drop_before(1, needed_from=5) == 1  # within the budget: as asked


def test_without_a_budget_the_window_is_what_was_asked_for(store: PayloadStore) -> None:
    for round_ in range(6):
        store.put(round_, bytes([round_]) * 100)
    assert store.drop_before(2, needed_from=5) == 2
    assert store.held_bytes == 400


def test_what_is_held_is_counted_through_damage(store: PayloadStore, tmp_path: Path) -> None:
    key = store.put(3, b"payload")
    (tmp_path / "3" / key.hex()).write_bytes(b"short")
    opened = reopened(tmp_path)
    assert opened.held_bytes == 5
    assert opened.get(key) is None
    assert opened.held_bytes == 0
    opened.put(3, b"payload")
    opened.put(4, b"payload")  # two rounds, two files
    assert opened.held_bytes == 14
    opened.drop_before(4)
    assert opened.held_bytes == 7
