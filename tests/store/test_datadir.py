import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from demo_node.store.datadir import hold_lock, open_datadir
from demo_node.store.disk import FileDisk
from demo_protocol.errors import ConfigError

DISK = FileDisk()

HOLDER = """
import sys, time
from pathlib import Path
from demo_node.store.datadir import hold_lock, open_datadir
from demo_node.store.disk import FileDisk
disk = FileDisk()
with hold_lock(disk, open_datadir(disk, Path(sys.argv[1]))):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_rooms_are_private(tmp_path: Path) -> None:
    datadir = open_datadir(DISK, tmp_path / "a" / "b")
    assert datadir.path.stat().st_mode & 0o777 == 0o700
    assert sorted(os.listdir(datadir.path)) == ["corpus", "payloads", "snapshots"]
    assert datadir.payloads.stat().st_mode & 0o777 == 0o700


def test_opening_again_changes_nothing(tmp_path: Path) -> None:
    open_datadir(DISK, tmp_path / "d").config.write_text("x")
    assert open_datadir(DISK, tmp_path / "d").config.read_text() == "x"


def test_an_empty_folder_is_made_private(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d").chmod(0o775)
    assert open_datadir(DISK, tmp_path / "d").path.stat().st_mode & 0o777 == 0o700


def test_a_folder_others_write_to_is_refused(tmp_path: Path) -> None:
    open_datadir(DISK, tmp_path / "d")
    (tmp_path / "d").chmod(0o770)
    with pytest.raises(ConfigError, match=r"run: chmod go-w '.*d'") as caught:
        open_datadir(DISK, tmp_path / "d")
    assert caught.value.exit_code == 77


def test_a_file_in_the_way_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "d"):
        with pytest.raises(ConfigError, match="choose another --datadir") as caught:
            open_datadir(DISK, path)
        assert caught.value.exit_code == 73


def test_second_daemon_is_told_the_first_ones_pid_until_it_is_killed(tmp_path: Path) -> None:
    datadir = open_datadir(DISK, tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        in_use = f"in use by the demo-node with pid {holder.pid};"
        with pytest.raises(ConfigError, match=in_use) as caught, hold_lock(DISK, datadir):
            pass
        assert caught.value.exit_code == 73
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with hold_lock(DISK, datadir):
            assert datadir.lock.read_text() == f"{os.getpid()}\n"


def test_taking_the_lock_clears_what_a_crash_left(tmp_path: Path) -> None:
    datadir = open_datadir(DISK, tmp_path)
    leftover = datadir.snapshots / ".3-aa.safetensors.0.tmp"
    leftover.touch()
    with hold_lock(DISK, datadir):
        assert not leftover.exists()


def test_a_place_where_the_system_makes_no_folder_is_one_line() -> None:
    with pytest.raises(ConfigError, match="no folder can be made there") as caught:
        open_datadir(DISK, Path("/proc/demo-node"))
    assert caught.value.exit_code == 73


def test_the_lock_names_its_holder_and_is_empty_afterwards(tmp_path: Path) -> None:
    datadir = open_datadir(DISK, tmp_path)
    for _ in range(2):
        with hold_lock(DISK, datadir):
            assert datadir.lock.read_text() == f"{os.getpid()}\n"
            with pytest.raises(ConfigError), hold_lock(DISK, datadir):
                pass
            assert datadir.lock.read_text() == f"{os.getpid()}\n"
        assert datadir.lock.read_bytes() == b""
