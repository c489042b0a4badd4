"""`demo-node key`: the identity is shown, copied and moved, and nothing is ever overwritten."""

import json
import stat
from pathlib import Path

import pytest

from demo_node.store.datadir import DataDir, hold_lock, open_datadir
from demo_node.store.disk import FileDisk
from demo_node.store.key import NodeKey, create_key, encode_key, load_key
from demo_node.store.swarm_key import load_swarm_key
from tests.cli.command import demo_node

DISK = FileDisk()
KEY = NodeKey(b"\x07" * 32)
PEER_ID = "12D3KooWRawPbxPtP1eZaJpumGnyWX2DcUyd3RQnydr3eAto4Az7"
"""Of KEY, as libp2p 0.8.1 computes it."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder with a key."""
    create_key(DISK, open_datadir(DISK, tmp_path / "node").key, KEY)
    return tmp_path / "node"


def refuse(*arguments: object) -> tuple[int, str]:
    done = demo_node("key", *arguments)
    assert not done.stdout
    assert done.stderr.startswith("demo-node: "), done.stderr
    assert done.stderr.count("\n") == 1
    return done.returncode, done.stderr


def test_what_is_shown_is_not_the_secret(folder: Path) -> None:
    text = demo_node("key", "show", "--datadir", folder)
    document = json.loads(demo_node("key", "show", "--datadir", folder, "--json").stdout)
    assert document == {
        "schema": 1,
        "peer_id": PEER_ID,
        "public_key": KEY.public.hex(),
        "path": str(folder / "node.key"),
    }
    assert PEER_ID in text.stdout
    assert KEY.public.hex() in text.stdout
    assert KEY.seed.hex() not in text.stdout + text.stderr + json.dumps(document)


def test_a_new_key_is_made_once(tmp_path: Path) -> None:
    made = demo_node("key", "new", "--datadir", tmp_path / "node")
    assert made.returncode == 0, made.stderr
    shown = demo_node("key", "show", "--datadir", tmp_path / "node", "--json")
    assert json.loads(shown.stdout)["peer_id"] in made.stdout
    code, line = refuse("new", "--datadir", tmp_path / "node")
    assert code == 78
    assert "nothing is overwritten" in line


def test_a_key_moves_to_another_folder(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "stick" / "key"
    copy.parent.mkdir()
    exported = demo_node("key", "export", "--datadir", folder, copy)
    assert exported.returncode == 0, exported.stderr
    assert "show it to nobody" in exported.stdout
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert copy.read_bytes() == encode_key(KEY), "libp2p's own encoding"
    imported = demo_node("key", "import", "--datadir", tmp_path / "other", copy)
    assert imported.returncode == 0, imported.stderr
    assert PEER_ID in imported.stdout
    assert load_key(DISK, tmp_path / "other" / "node.key").seed == KEY.seed
    assert stat.S_IMODE((tmp_path / "other" / "node.key").stat().st_mode) == 0o600


def test_an_export_overwrites_nothing(folder: Path, tmp_path: Path) -> None:
    precious = tmp_path / "letter.txt"
    precious.write_text("dear Ada")
    code, line = refuse("export", "--datadir", folder, precious)
    assert code == 78
    assert f"{precious}: there already; nothing is overwritten" in line
    assert precious.read_text() == "dear Ada"


def test_an_export_needs_a_folder_that_is_there(folder: Path, tmp_path: Path) -> None:
    code, line = refuse("export", "--datadir", folder, tmp_path / "missing" / "key")
    assert code == 73
    assert "there is no such folder" in line


def test_an_import_overwrites_nothing(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.key"
    create_key(DISK, other, NodeKey(bytes(32)))
    code, line = refuse("import", "--datadir", folder, other)
    assert code == 78
    assert "move it away first" in line
    assert load_key(DISK, folder / "node.key").seed == KEY.seed


def test_an_import_waits_for_the_node_to_end(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.key"
    create_key(DISK, other, NodeKey(bytes(32)))
    (folder / "node.key").unlink()
    with hold_lock(DISK, DataDir(folder)):
        code, line = refuse("import", "--datadir", folder, other)
    assert code == 73
    assert "in use by the demo-node with pid" in line
    assert not (folder / "node.key").exists()


def test_an_import_of_a_key_others_can_read_is_refused(tmp_path: Path) -> None:
    leaked = tmp_path / "leaked.key"
    create_key(DISK, leaked, KEY)
    leaked.chmod(0o644)
    code, line = refuse("import", "--datadir", tmp_path / "node", leaked)
    assert code == 77
    assert f"run: chmod 600 '{leaked}'" in line
    assert not (tmp_path / "node").exists(), "nothing is left behind"


def test_an_import_of_something_else_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "letter.txt"
    other.write_text("dear Ada")
    other.chmod(0o600)
    code, line = refuse("import", "--datadir", tmp_path / "node", other)
    assert code == 78
    assert "not an Ed25519 key" in line
    assert not (tmp_path / "node").exists()


def test_without_a_key_there_is_one_line_and_no_folder(tmp_path: Path) -> None:
    code, line = refuse("show", "--datadir", tmp_path / "node")
    assert code == 78
    assert "there is no key; run: demo-node key new" in line
    assert not (tmp_path / "node").exists()


def test_a_swarm_key_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "swarm.key"
    made = demo_node("key", "psk", path)
    assert made.returncode == 0, made.stderr
    secret = load_swarm_key(DISK, path)
    assert secret.hex() not in made.stdout
    assert demo_node("key", "psk", tmp_path / "other.key").returncode == 0
    assert load_swarm_key(DISK, tmp_path / "other.key") != secret
    assert refuse("psk", path)[0] == 78
    assert refuse("psk", tmp_path / "nowhere" / "swarm.key")[0] == 73
    assert load_swarm_key(DISK, path) == secret
