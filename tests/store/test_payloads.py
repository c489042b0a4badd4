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
