"""What a killed node leaves in the temporary folder is gone once another starts."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from demo_node.scratch import sweep_scratch

USE = "from demo_node.scratch import make_scratch; import tempfile; print(tempfile.mkdtemp());"
USE += "make_scratch(); print(tempfile.mkdtemp(), flush=True);"
USE += "from multiprocessing.util import get_temp_dir; get_temp_dir();"


def run(folder: Path, then: str) -> list[Path]:
    """Folders that a process made before and after it had its scratch folder."""
    done = subprocess.run(
        [sys.executable, "-c", USE + then],
        env={"TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    return [Path(line) for line in done.stdout.splitlines()]


def test_a_process_keeps_its_temporary_files_in_a_folder_that_goes_with_it(tmp_path: Path) -> None:
    before, after = run(tmp_path, "")
    assert before.parent == tmp_path
    assert after.parent.parent == tmp_path
    assert after.parent.name.startswith("demo-")
    assert not after.parent.exists()


def test_what_a_killed_process_left_is_swept_by_the_next(tmp_path: Path) -> None:
    *_, left = run(tmp_path, "import os; os.kill(os.getpid(), 9)")
    assert left.exists()
    run(tmp_path, "")
    assert not left.parent.exists()


def test_what_belongs_to_others_stays(tmp_path: Path) -> None:
    names = ("demo-1-x", "demo-", "demo-0", "demo-swarm-x", "demo-12345678901-x")
    kept = [tmp_path / name for name in names]
    for path in kept:
        path.mkdir()
    sweep_scratch(tmp_path)
    assert all(path.exists() for path in kept)


def test_two_that_start_at_once_sweep_the_same_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    *_, left = run(tmp_path, "import os; os.kill(os.getpid(), 9)")
    look = Path.lstat

    def be_late(path: Path) -> os.stat_result:
        if path == left.parent:
            shutil.rmtree(path)  # the other one was faster
        return look(path)

    monkeypatch.setattr(Path, "lstat", be_late)
    sweep_scratch(tmp_path)
    assert not left.parent.exists()
