import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from demo_node.store.stdlib import build_stdlib_corpus
from demo_protocol.errors import ConfigError

PRINT_ROOT = """
from demo_node.store.stdlib import build_stdlib_corpus
print(build_stdlib_corpus().data.root)
"""


def library(folder: Path) -> Path:
    """40 modules in two folders; about two of them are held out."""
    for number in range(40):
        path = folder / ("package" if number % 2 else ".") / f"module_{number}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"# \xff module %d\r\n" % number)
    return folder


def test_this_pythons_library_is_big_enough_and_quick_to_read() -> None:
    start_s = time.process_time()
    data = build_stdlib_corpus().data
    assert time.process_time() - start_s < 2
    assert data.train_bytes > 5_000_000
    assert 0.03 < data.heldout_bytes / data.train_bytes < 0.25


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_another_process_with_another_locale_gets_the_same_root(locale: str) -> None:
    result = subprocess.run(
        [sys.executable, "-X", "utf8=0", "-c", PRINT_ROOT],
        env={**os.environ, "LC_ALL": locale, "PYTHONHASHSEED": "5"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == build_stdlib_corpus().data.root


def test_the_root_of_a_fixed_library_is_a_constant(tmp_path: Path) -> None:
    """It names the text of running runs: changing how it is put together breaks them."""
    data = build_stdlib_corpus(library(tmp_path)).data
    assert data.root == "5601f0992ac753cda1b36aee9d8463393d74a4b1eb6b5881122cd3b2cec4df44"


def test_files_are_joined_by_nul_in_path_order(tmp_path: Path) -> None:
    made = build_stdlib_corpus(library(tmp_path))
    files = bytes(made.train).split(b"\0") + bytes(made.heldout).split(b"\0")
    assert sorted(files) == sorted(b"# \xff module %d\r\n" % number for number in range(40))
    train = [int(text.split()[-1]) for text in bytes(made.train).split(b"\0")]
    by_path = {
        number: f"{'package/' if number % 2 else ''}module_{number}.py" for number in range(40)
    }
    assert train == sorted(train, key=lambda number: by_path[number])


def test_one_edited_byte_gives_another_root(tmp_path: Path) -> None:
    before = build_stdlib_corpus(library(tmp_path)).data.root
    (tmp_path / "module_8.py").write_bytes(b"# \xff Module 8\r\n")
    assert build_stdlib_corpus(tmp_path).data.root != before


@pytest.mark.parametrize(
    "path",
    [
        "test/test_os.py",
        "package/tests/x.py",
        "idlelib/idle_test/x.py",
        "site-packages/numpy/x.py",
        "dist-packages/x.py",
        "package/__pycache__/module_1.py",
        "config-3.11-x86_64-linux-gnu/python-config.py",
        "_sysconfigdata__linux_x86_64-linux-gnu.py",
        "sitecustomize.py",
        "notes.txt",
        "module.pyc",
    ],
)
def test_what_differs_between_machines_is_left_out(tmp_path: Path, path: str) -> None:
    before = build_stdlib_corpus(library(tmp_path)).data.root
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_text("# here")
    assert build_stdlib_corpus(tmp_path).data.root == before


def test_links_to_folders_are_not_followed(tmp_path: Path) -> None:
    before = build_stdlib_corpus(library(tmp_path)).data.root
    (tmp_path / "loop").symlink_to(tmp_path)
    assert build_stdlib_corpus(tmp_path).data.root == before


@pytest.mark.parametrize("folder", [".", "missing.zip"])
def test_a_python_without_sources_is_one_line(tmp_path: Path, folder: str) -> None:
    with pytest.raises(ConfigError, match="no source text of Python's standard library"):
        build_stdlib_corpus(tmp_path / folder)
