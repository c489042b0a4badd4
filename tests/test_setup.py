"""`make setup`, with the environment's Python replaced: which torch is asked of pip, and when."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cli.command import ROOT
from tests.test_install_tools import add_program

DEFAULT = "install torch==2.13.0"
GPU = "torch==2.13.0 --index-url https://example.org/gpu"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What setup reads, a large disk, a .venv whose Python writes down what it is told to do."""
    for name in ("deploy/setup.sh", "deploy/constraints.txt", "pyproject.toml", "Makefile"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    add_program(tmp_path / ".venv/bin", "python", 'echo "$@" >>.venv/asked')
    add_program(tmp_path, "df", 'echo; echo "/dev/disk 100000 10000 90000 10% /"')
    return tmp_path


def set_up(clone: Path, **variables: str) -> list[str]:
    """What pip was asked to do with torch."""
    asked = clone / ".venv/asked"
    asked.unlink(missing_ok=True)
    given = [f"{name}={value}" for name, value in variables.items()]
    ours = {"TORCH", "PYTHON3", "MAKEFLAGS", "MAKEOVERRIDES", "MFLAGS"}  # of a make around us
    theirs = {name: value for name, value in os.environ.items() if name not in ours}
    done = subprocess.run(
        ["make", "setup", *given],
        cwd=clone,
        env={**theirs, "PATH": f"{clone}:{os.environ['PATH']}"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = asked.read_text().splitlines() if asked.exists() else []
    return [line.partition("-qq ")[2] for line in lines if " torch" in line]


def test_what_is_set_up_is_not_set_up_again(clone: Path) -> None:
    assert set_up(clone) == [DEFAULT]
    assert set_up(clone) == []


def test_another_build_of_torch_takes_the_place_of_the_first(clone: Path) -> None:
    """To pip 2.13.0+cpu is a torch==2.13.0, and nothing would be to do."""
    set_up(clone)
    assert set_up(clone, TORCH=GPU) == ["uninstall --yes torch", f"install {GPU}"]
    assert set_up(clone, TORCH=GPU) == []


def test_what_was_chosen_stays_chosen(clone: Path) -> None:
    assert set_up(clone, TORCH=GPU) == [f"install {GPU}"]
    assert set_up(clone) == []
    os.utime(clone / ".venv/ready", (0, 0))  # what is needed has changed since
    assert set_up(clone) == [f"install {GPU}"]
