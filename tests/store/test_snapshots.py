import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from demo_node.store.disk import FileDisk
from demo_node.store.snapshot_info import SnapshotInfo
from demo_node.store.snapshots import Snapshot, SnapshotStore
from demo_protocol.errors import LocalFault
from tests.store.builders import RUN, name, pieces, snapshot_info, tensors

DISK = FileDisk()


def store(folder: Path, window: int = 0, budget_bytes: int = 0) -> SnapshotStore:
    return SnapshotStore(DISK, folder, RUN, window=window, budget_bytes=budget_bytes)


def list_rounds(folder: Path) -> list[int]:
    return sorted(int(path.name.partition("-")[0]) for path in folder.glob("*.safetensors"))


def save(to: SnapshotStore, info: SnapshotInfo, raw: bytes | None = None) -> Snapshot:
    return asyncio.run(to.save(info, pieces(tensors() if raw is None else raw)))


def test_a_saved_snapshot_is_found_by_another_process(tmp_path: Path) -> None:
    saved = save(store(tmp_path), snapshot_info(12))
    found, reasons = store(tmp_path).newest()
    assert found == saved
    assert reasons == ()
    assert found.info == snapshot_info(12)
    assert saved.sha256 == hashlib.sha256(saved.path.read_bytes()).digest()
    assert saved.file_bytes == saved.path.stat().st_size
    assert saved.path.stat().st_mode & 0o777 == 0o600


def test_equal_states_give_equal_files(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    first, second = (save(store(tmp_path / folder), snapshot_info(3)) for folder in ("a", "b"))
    assert first.sha256 == second.sha256


def test_the_checksum_file_is_what_sha256sum_checks(tmp_path: Path) -> None:
    saved = save(store(tmp_path), snapshot_info(3))
    line = saved.path.with_name(saved.path.name + ".sha256").read_text()
    assert line == f"{saved.sha256.hex()}  {saved.path.name}\n"


def test_only_the_last_ones_are_kept(tmp_path: Path) -> None:
    keeper = store(tmp_path)
    for round_ in (8, 9, 10, 11):  # 9 comes before 10 as a number, not as text
        save(keeper, snapshot_info(round_))
    kept = [path.name for path in sorted(tmp_path.iterdir())]
    assert kept == [
        f"{n}-{name(n).hex()[:16]}.safetensors{e}" for n in (10, 11) for e in ("", ".sha256")
    ]
    assert [snapshot.info.round for snapshot in keeper.held()] == [11, 10]


def test_after_a_rollback_the_older_snapshot_just_saved_is_kept(tmp_path: Path) -> None:
    keeper = store(tmp_path)
    for round_ in (10, 20, 15):
        save(keeper, snapshot_info(round_))
    assert keeper.held()[0].info.round == 15
    found, _ = store(tmp_path).newest(lambda info: info.round < 20)
    assert found is not None
    assert found.info.round == 15


def test_older_ones_are_kept_spaced_over_the_window(tmp_path: Path) -> None:
    keeper = store(tmp_path, window=200)
    sizes = set()
    for round_ in range(10, 501, 10):
        sizes.add(save(keeper, snapshot_info(round_)).file_bytes)
        rounds = list_rounds(tmp_path)
        assert rounds[-2:] == [round_ - 10, round_][-len(rounds) :]
        assert len(rounds) <= 7
        # Wherever in three quarters of the window the chain forks, one lies below, not far.
        for fork in range(max(round_ - 150, 10), round_):
            assert any(fork - 60 <= held <= fork for held in rounds)
    assert rounds == [300, 350, 400, 450, 490, 500]
    assert keeper.spare_bytes == 4 * max(sizes)
    assert store(tmp_path, window=200).newest(lambda info: info.round < 350)[0] is not None


def test_older_ones_are_spaced_wider_where_the_disk_budget_is_small(tmp_path: Path) -> None:
    keeper = store(tmp_path, window=200)
    for round_ in range(10, 501, 10):
        one = save(keeper, snapshot_info(round_)).file_bytes
    for budget, expected in ((4, 4), (3, 2), (2, 2), (1, 1)):
        smaller = store(tmp_path, 200, budget * (one + 100))
        save(smaller, snapshot_info(500))
        assert len(list_rounds(tmp_path)) == 2 + expected
    save(store(tmp_path, 200, one - 100), snapshot_info(500))
    assert list_rounds(tmp_path) == [490, 500]


def test_only_a_snapshot_that_may_serve_is_read_whole(tmp_path: Path) -> None:
    keeper = store(tmp_path)
    for round_ in (1, 2):
        path = save(keeper, snapshot_info(round_)).path
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    found, reasons = store(tmp_path).newest(lambda info: info.round < 2)
    assert found is not None
    assert found.info.round == 1
    assert reasons == ()


def test_damage_anywhere_is_found_and_the_older_snapshot_used(tmp_path: Path) -> None:
    keeper = store(tmp_path)
    save(keeper, snapshot_info(1))
    path = save(keeper, snapshot_info(2)).path
    whole = path.read_bytes()
    damaged = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(len(whole))]
    for raw in [*damaged, whole[:-1], b"", whole + b"x"]:
        path.write_bytes(raw)
        found, (reason,) = store(tmp_path).newest()
        assert found is not None
        assert found.info.round == 1
        assert path.name in reason
        assert "skipped" in reason
    path.write_bytes(whole)
    found, _ = store(tmp_path).newest()
    assert found is not None
    assert found.info.round == 2


def test_a_snapshot_without_checksum_does_not_count(tmp_path: Path) -> None:
    path = save(store(tmp_path), snapshot_info(1)).path
    path.with_name(path.name + ".sha256").unlink()
    found, (reason,) = store(tmp_path).newest()
    assert found is None
    assert "checksum file is missing" in reason


def test_another_runs_snapshot_is_not_used(tmp_path: Path) -> None:
    other = SnapshotStore(DISK, tmp_path, bytes(32))
    save(other, snapshot_info(1, run_id=bytes(32)))
    found, (reason,) = store(tmp_path).newest()
    assert found is None
    assert "another run" in reason


async def broken_off(raw: bytes) -> AsyncIterator[bytes]:
    yield raw
    raise ConnectionError("the trainer died")


def test_nothing_stays_of_a_snapshot_whose_trainer_died(tmp_path: Path) -> None:
    with pytest.raises(ConnectionError):
        asyncio.run(store(tmp_path).save(snapshot_info(), broken_off(tensors()[:100])))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("raw", [b"", tensors()[:-4], tensors() + b"more", b"garbage" * 9])
def test_a_stream_that_is_not_one_whole_file_is_our_bug(tmp_path: Path, raw: bytes) -> None:
    with pytest.raises(LocalFault, match="the trainer's snapshot cannot be kept"):
        save(store(tmp_path), snapshot_info(), raw)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        (b'"demo.round":"5"', b'"demo.round":"x"'),
        (b'"demo.height":"5"', b'"demo.height":""'),
        (b'"demo.digest":"05', b'"demo.digest":"zz'),
        (b'"demo.chain_state":"', b'"demo.chain_state":"?'),
        (b"snapshot/1", b"snapshot/2"),
    ],
)
def test_every_field_of_the_metadata_is_checked(tmp_path: Path, good: bytes, bad: bytes) -> None:
    path = save(store(tmp_path), snapshot_info(5)).path
    raw = path.read_bytes()
    assert good in raw
    end = 8 + int.from_bytes(raw[:8], "little")
    header = raw[8:end].replace(good, bad)
    forged = len(header).to_bytes(8, "little") + header + raw[end:]
    path.write_bytes(forged)
    line = f"{hashlib.sha256(forged).hexdigest()}  {path.name}\n"
    path.with_name(path.name + ".sha256").write_text(line)
    found, (reason,) = store(tmp_path).newest()
    assert found is None
    assert "damaged" in reason or "newer version" in reason


def test_a_dropped_snapshot_reads_as_none(tmp_path: Path) -> None:
    keeper = store(tmp_path)
    first = save(keeper, snapshot_info(1))
    save(keeper, snapshot_info(2))
    save(keeper, snapshot_info(3))
    assert keeper.read(first) is None
    assert keeper.find(first.root) is None
