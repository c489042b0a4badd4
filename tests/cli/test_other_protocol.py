"""A data folder of an older release's protocol: every command says the same, in one line."""

import json
from pathlib import Path

import pytest

from demo_protocol.manifest import PROTOCOL_VERSION
from tests.cli.command import demo_node


@pytest.fixture(scope="module")
def old_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of protocol 1, whose manifest had other keys."""
    folder = tmp_path_factory.mktemp("old")
    done = demo_node("init", "--datadir", folder)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["version"] = 1
    del manifest["agreement"]["contributors"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def tell(folder: Path) -> str:
    return (
        f"demo-node: {folder / 'manifest.json'}: the manifest is of protocol version 1, this node"
        f" speaks {PROTOCOL_VERSION}; install the demo-node release that made it\n"
    )


@pytest.mark.parametrize(
    "command", [("verify",), ("replay",), ("status",), ("top", "--once"), ("pause",), ("init",)]
)
def test_every_command_says_which_version_it_is(command: tuple[str, ...], old_folder: Path) -> None:
    done = demo_node(*command, "--datadir", old_folder)
    assert (done.returncode, done.stdout, done.stderr) == (76, "", tell(old_folder))


def test_runs_says_it_below_its_table(old_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(old_folder / "no-state"))
    monkeypatch.setenv("XDG_DATA_HOME", str(old_folder.parent / "data"))
    (old_folder.parent / "data").mkdir()
    (old_folder.parent / "data" / "demo-node").symlink_to(old_folder)
    _, row, line = demo_node("runs").stdout.splitlines()
    assert row.split()[2] == "unreadable"
    assert line == f"unreadable: {tell(old_folder).split('manifest.json: ')[1].strip()}"


def test_a_damaged_manifest_is_found_by_start(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{")
    done = demo_node("status", "--datadir", tmp_path)
    assert done.returncode == 69
    assert "start one with: demo-node start" in done.stderr
