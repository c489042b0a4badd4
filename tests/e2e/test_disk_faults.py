"""What disks do to a node: full, read-only, truncated files, flipped bits.

One node on a small disk of its own, in memory. What would need root is skipped without it.
"""

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from demo_node.store.datadir import DataDir
from demo_node.store.key import SEED_BYTES
from demo_node.views import StatusView
from tests.e2e.nodes import RunningNode, make_run, started
from tests.e2e.test_refusals import start

pytestmark = [pytest.mark.swarm, pytest.mark.slow, pytest.mark.timeout(300)]

DISK_MB = 64
"""Room for the corpus (12 MB), snapshots and payloads of a tiny model."""


@dataclass(frozen=True, slots=True)
class Filled:
    """How a node ended whose disk had become full."""

    before: StatusView
    exit_code: int
    line: str
    log: str


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data folder that is a file system of its own; what the node prints lies beside it."""
    folder = tmp_path_factory.mktemp("small-disk") / "node"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="module")
def filled(small_disk: Path) -> Filled:
    """A node that trained for some rounds until its disk took no more; there is room again."""
    make_run(small_disk, "--preset", "tiny")
    filler = small_disk / "filler"
    with started(small_disk) as node:
        node.wait_for_status(lambda status: status.height >= 2)
        node.ask(lambda client: client.save_snapshot())
        before = node.wait_for_status(lambda status: status.height >= 4)
        node.ask(lambda client: client.save_snapshot())
        fill(filler)
        exit_code = node.wait()
        *log, line = node.stderr.splitlines()
    filler.unlink()
    return Filled(before, exit_code, line, "\n".join(log))


def fill(path: Path) -> None:
    """Take all the room that is left."""
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


def hash_files(folder: Path) -> dict[str, str]:
    """Every file of a data folder; the lock is no data."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "lock"
    }


def flip(path: Path, position: int) -> None:
    """One bit of a file."""
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def test_a_node_whose_disk_is_full_stops_with_one_line(filled: Filled) -> None:
    assert filled.exit_code == 73
    assert "the disk is full; free some space and start again" in filled.line
    assert filled.line.startswith("demo-node: ")
    assert "Traceback" not in filled.log


@pytest.mark.parametrize(
    ("damage", "exit_code", "says"),
    [
        (lambda d: flip(d.key, 4 + SEED_BYTES), 78, "node.key: not an Ed25519 key; restore it"),
        (lambda d: flip(d.manifest, 1), 78, "manifest.json: "),
        (lambda d: d.key.chmod(0o644), 77, "other users can read the key; run: chmod 600"),
        (lambda d: d.path.chmod(0o777), 77, "other users can write to it; run: chmod go-w"),
    ],
    ids=["key", "manifest", "key readable", "folder writable"],
)
def test_a_start_that_is_refused_leaves_the_folder_as_it_was(
    filled: Filled,
    small_disk: Path,
    tmp_path: Path,
    damage: Callable[[DataDir], None],
    exit_code: int,
    says: str,
) -> None:
    datadir = DataDir(shutil.copytree(small_disk, tmp_path / "node"))
    damage(datadir)
    before = hash_files(datadir.path)
    refusal = start(datadir.path)
    assert (refusal.exit_code, says in refusal.line) == (exit_code, True), refusal.line
    assert hash_files(datadir.path) == before


def test_a_read_only_disk_is_one_line(filled: Filled, small_disk: Path) -> None:
    before = hash_files(small_disk)
    remount(small_disk, "ro")
    try:
        refusal = start(small_disk)
    finally:
        remount(small_disk, "rw")
    assert refusal.exit_code == 73
    assert "ead-only" in refusal.line
    assert "--datadir" in refusal.line
    assert hash_files(small_disk) == before


def remount(folder: Path, mode: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{mode}", str(folder)], check=True)


def test_what_is_damaged_is_set_aside_and_the_node_goes_on_where_it_was(
    filled: Filled, small_disk: Path, tmp_path: Path
) -> None:
    datadir = DataDir(shutil.copytree(small_disk, tmp_path / "node"))
    older, newest = sorted(
        datadir.snapshots.glob("*.safetensors"), key=lambda path: int(path.name.partition("-")[0])
    )[-2:]
    newest.write_bytes(newest.read_bytes()[:-1000])
    flip(datadir.chain_log, 100)  # in the first record
    datadir.peers.write_bytes(b"\0garbage")
    oldest = min(datadir.payloads.iterdir(), key=lambda path: int(path.name))
    flip(next(oldest.iterdir()), 10)  # nobody else has it: one that is still needed would be lost
    with started(datadir.path) as node:
        node.wait_for_status(lambda status: status.height > filled.before.height + 1)
        events = read_log(node)
    (loaded,) = find(events, "state.loaded")
    assert loaded["path"] == str(older)
    assert any(newest.name in line["reason"] for line in find(events, "snapshot.skipped"))
    aside = datadir.chain_log.with_name("chain.log.damaged")
    # The other log may have been torn by the full disk before.
    (repaired,) = [line for line in find(events, "log.repaired") if line["path"] == str(aside)]
    assert aside.stat().st_size == repaired["bytes"] > 100
    # Records that it does again at once are told as one: the newest, made before the disk was full.
    before, again = find_digests(read_lines(filled.log)), find_digests(events)
    assert before[filled.before.head.hex()] == filled.before.digest.hex()
    both = before.keys() & again.keys()
    assert both
    assert {head: again[head] for head in both} == {head: before[head] for head in both}


def read_log(node: RunningNode) -> list[dict[str, Any]]:
    return read_lines(node.stderr)


def read_lines(log: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.splitlines() if line.startswith("{")]


def find(events: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [line for line in events if line["event"] == name]


def find_digests(events: list[dict[str, Any]]) -> dict[str, str]:
    """Of parameters, by the record that they are after."""
    return {line["head"]: line["digest"] for line in find(events, "head.changed")}
