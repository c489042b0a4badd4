import errno
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from demo_node.store.atomic import AtomicFile, sweep_temporaries, write_atomic
from demo_node.store.disk import FileDisk
from demo_protocol.errors import ConfigError

DISK = FileDisk()


def test_pieces_end_up_in_one_private_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(DISK, path, iter([b"one", b"two"]))
    assert path.read_bytes() == b"onetwo"
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["file"]


def test_old_content_stays_when_a_piece_fails(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(DISK, path, b"old")

    def pieces() -> Iterator[bytes]:
        yield b"new"
        raise ValueError("the source broke")

    with pytest.raises(ValueError, match="broke"):
        write_atomic(DISK, path, pieces())
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_two_writers_of_one_path_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with AtomicFile(DISK, path) as first, AtomicFile(DISK, path) as second:
        first.write(b"1")
        second.write(b"2")
        first.commit()
        assert path.read_bytes() == b"1"
        second.commit()
    assert path.read_bytes() == b"2"


def test_sweep_removes_leftovers_only(tmp_path: Path) -> None:
    for name in (".file.0.tmp", ".hidden", "file"):
        (tmp_path / name).touch()
    sweep_temporaries(DISK, tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".hidden", "file"]


def test_full_disk_is_one_line_with_a_remedy() -> None:
    line = "/dev/full: the disk is full; free some space"
    with (
        closing(DISK.append(Path("/dev/full"))) as file,
        pytest.raises(ConfigError, match=line) as caught,
    ):
        file.write(b"x")
    assert caught.value.exit_code == 73


@pytest.mark.parametrize(
    ("code", "words", "exit_code"),
    [
        (errno.EROFS, "read-only; choose another folder", 73),
        (errno.EDQUOT, "quota is used up", 73),
        (errno.EACCES, "permission denied", 77),
        (errno.EIO, "reports an error", 73),
    ],
)
def test_what_an_operator_can_fix_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, words: str, exit_code: int
) -> None:
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(ConfigError, match=words) as caught:
        write_atomic(DISK, tmp_path / "file", b"x")
    assert caught.value.exit_code == exit_code
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="a file is where a folder should be"):
        DISK.names(tmp_path / "file")


def test_other_system_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        DISK.read(tmp_path / "missing")
    with pytest.raises(IsADirectoryError):
        DISK.read(tmp_path)
