"""`demo-node runs`: several data folders on one machine, whatever has become of them."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from demo_node.config import find_registry
from demo_node.control.address import socket_path
from demo_node.store.registry import find_folders, remember_folder
from demo_protocol.manifest import compute_run_id, decode_manifest
from tests.cli.command import ROOT, demo_node
from tests.waiting import wait_until_sync


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of the test's own: nothing is known in it."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path


def make_run(folder: Path, *flags: str) -> Path:
    done = demo_node("init", "--datadir", folder, *flags)
    assert done.returncode == 0, done.stderr
    return folder


def ask() -> list[dict[str, Any]]:
    done = demo_node("runs", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["schema"] == 1
    found: list[dict[str, Any]] = document["runs"]
    return found


def test_without_a_run_it_says_how_to_get_one(home: Path) -> None:
    done = demo_node("runs")
    assert (done.returncode, done.stderr) == (0, "")
    assert "demo-node init" in done.stdout
    assert ask() == []
    assert not list(home.iterdir()), "looking writes nothing"


def test_folders_that_were_used_are_known(home: Path) -> None:
    first = make_run(home / "a", "--name", "first", "--genesis", "+1000")
    second = make_run(home / "b", "--name", "second")
    assert demo_node("init").returncode == 0
    found = ask()
    assert [run["datadir"] for run in found] == [
        str(first),
        str(second),
        str(home / "data" / "demo-node"),
    ]
    assert [run["run_name"] for run in found] == ["first", "second", "demo"]
    assert {run["state"] for run in found} == {"stopped"}
    manifest = decode_manifest((first / "manifest.json").read_bytes())
    assert found[0]["run_id"] == compute_run_id(manifest).hex()
    assert found[0]["round"] < 0 <= found[1]["round"]
    header, *lines = demo_node("runs").stdout.splitlines()
    assert header.split() == ["run", "id", "state", "round", "records", "folder"]
    assert len(lines) == 3


def test_a_running_node_says_itself_how_it_is(home: Path) -> None:
    folder = make_run(home / "a")
    command = [sys.executable, "-m", "tests.control.fake_node", str(folder)]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        wait_until_sync(lambda: socket_path(folder).exists())
        (run,) = ask()
    finally:
        process.kill()
        process.wait()
    assert (run["state"], run["records"]) == ("active", 6)
    (run,) = ask()
    assert (run["state"], run["records"]) == ("stopped", None), "its socket is still there"


def test_what_happened_to_a_folder_breaks_nothing(home: Path) -> None:
    gone, damaged, kept = (make_run(home / name) for name in ("gone", "damaged", "kept"))
    shutil.rmtree(gone)
    (damaged / "manifest.json").write_text("{")
    registry = find_registry({"XDG_STATE_HOME": str(home / "state")})
    (registry / "note.txt").write_text("dear Ada")
    found = ask()
    assert [(run["datadir"], run["state"]) for run in found] == [
        (str(damaged), "unreadable"),
        (str(kept), "stopped"),
    ]
    reason = "the manifest is not JSON; copy the file again from a peer's data folder"
    assert [run["fault"] for run in found] == [reason, ""]
    assert demo_node("runs").stdout.splitlines()[-1] == f"unreadable: {reason}"


def test_a_folder_is_remembered_once_and_never_in_the_way(tmp_path: Path) -> None:
    registry, folder = tmp_path / "runs", tmp_path / "node"
    folder.mkdir()
    (folder / "manifest.json").touch()
    for _ in range(2):
        remember_folder(registry, folder)
    assert find_folders(registry) == find_folders(registry, folder) == [folder]
    assert len(list(registry.iterdir())) == 1
    blocked = tmp_path / "file"
    blocked.touch()
    remember_folder(blocked / "runs", folder)
    assert find_folders(blocked / "runs") == []
