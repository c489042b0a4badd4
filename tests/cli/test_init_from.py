"""`demo-node init --from`: a new run goes on where an old one was."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from math import prod
from pathlib import Path

import pytest

from demo_node.store.datadir import DataDir
from demo_node.store.disk import FileDisk
from demo_node.store.initial import adopt_initial, load_initial
from demo_node.store.snapshot_info import SnapshotInfo
from demo_node.store.snapshots import SnapshotStore
from demo_protocol.errors import Reject
from demo_protocol.manifest import PROTOCOL_VERSION, Manifest, compute_run_id, decode_manifest
from demo_protocol.presets import PRESETS
from demo_protocol.schema import compute_schema
from tests.cli.command import demo_node

DISK = FileDisk()


def encode_tensors(shapes: Mapping[str, tuple[int, ...]], dtype: str = "F32") -> bytes:
    """A safetensors file of zeros."""
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 4 * prod(shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(end)


def read_manifest(folder: Path) -> Manifest:
    return decode_manifest(DataDir(folder).manifest.read_bytes())


def save_snapshot(folder: Path) -> Path:
    """A snapshot of zeros, as the node of that folder would have written it."""
    manifest = read_manifest(folder)
    store = SnapshotStore(DISK, DataDir(folder).snapshots, compute_run_id(manifest))
    raw = encode_tensors(compute_schema(manifest.model).shapes)
    info = SnapshotInfo(
        run_id=compute_run_id(manifest),
        record=b"\x05" * 32,
        round=5,
        height=5,
        digest=bytes(8),
        chain_state=b"",
    )

    async def pieces() -> AsyncIterator[bytes]:
        yield raw

    return asyncio.run(store.save(info, pieces())).path


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of a run that has a snapshot."""
    folder = tmp_path_factory.mktemp("old")
    flags = ("--name", "old", "--round-seconds", 3, "--rounds", 9, "--preset", "small")
    assert demo_node("init", "--datadir", folder, *flags).returncode == 0
    save_snapshot(folder)
    return folder


@pytest.fixture(scope="module")
def snapshot(old: Path) -> Path:
    (path,) = DataDir(old).snapshots.glob("*.safetensors")
    return path


def go_on(folder: Path, snapshot: Path, *flags: object) -> Manifest:
    done = demo_node("init", "--datadir", folder, "--from", snapshot, *flags)
    assert done.returncode == 0, done.stderr
    assert f"from     {snapshot}" in done.stdout
    return read_manifest(folder)


def test_all_that_is_not_chosen_stays_as_it_was(tmp_path: Path, old: Path, snapshot: Path) -> None:
    before, manifest = read_manifest(old), go_on(tmp_path / "new", snapshot)
    kept = (tmp_path / "new" / "initial.safetensors").read_bytes()
    assert manifest.initial == hashlib.sha256(kept).hexdigest()
    assert kept == snapshot.read_bytes()
    assert (manifest.name, manifest.model, manifest.data) == ("old", before.model, before.data)
    assert manifest.schedule.round_ms == 3_000
    assert manifest.rounds_total == 0
    assert manifest.learning == replace(before.learning, lr_decay_rounds=0)
    assert compute_run_id(manifest) != compute_run_id(before)


def test_what_is_chosen_is_changed(tmp_path: Path, snapshot: Path) -> None:
    flags = ("--learning-rate", 0.0125, "--rounds", 70, "--round-seconds", 4, "--name", "calmer")
    manifest = go_on(tmp_path, snapshot, *flags)
    assert manifest.learning.lr_ppb == 12_500_000
    assert (manifest.rounds_total, manifest.learning.lr_decay_rounds) == (70, 70)
    assert (manifest.schedule.round_ms, manifest.name) == (4_000, "calmer")


def test_the_same_choices_work_for_a_run_from_the_seed(tmp_path: Path) -> None:
    flags = ("--learning-rate", 0.0125, "--rounds", 70, "--seed", 3)
    assert demo_node("init", "--datadir", tmp_path, *flags).returncode == 0
    manifest = read_manifest(tmp_path)
    assert (manifest.initial, manifest.rounds_total, manifest.seed) == ("", 70, 3)
    assert (manifest.learning.lr_ppb, manifest.learning.lr_decay_rounds) == (12_500_000, 70)


def test_a_file_without_its_run_is_known_by_its_shape(tmp_path: Path, snapshot: Path) -> None:
    alone = tmp_path / "alone.safetensors"
    alone.write_bytes(snapshot.read_bytes())
    manifest = go_on(tmp_path / "new", alone)
    assert manifest.model == PRESETS["small"].model
    assert manifest.learning == PRESETS["small"].learning


def test_a_manifest_of_another_run_nearby_says_nothing(tmp_path: Path, snapshot: Path) -> None:
    assert demo_node("init", "--datadir", tmp_path / "other").returncode == 0
    strange = tmp_path / "other" / "snapshots" / "x.safetensors"
    strange.write_bytes(snapshot.read_bytes())
    assert go_on(tmp_path / "new", strange).name == "demo"


def test_settings_that_cannot_be_read_are_not_dropped_in_silence(tmp_path: Path) -> None:
    """A run of protocol 1, say: its parameters can still be had, and the line says how."""
    folder, new = tmp_path / "old", tmp_path / "new"
    assert demo_node("init", "--datadir", folder).returncode == 0
    snapshot = save_snapshot(folder)
    path = DataDir(folder).manifest
    version = f'"version":{PROTOCOL_VERSION}'.encode()
    path.write_bytes(path.read_bytes().replace(version, b'"version":1'))
    done = demo_node("init", "--datadir", new, "--from", snapshot)
    assert (done.returncode, done.stdout) == (76, "")
    assert done.stderr == (
        f"demo-node: {path}: the manifest is of protocol version 1, this node speaks"
        f" {PROTOCOL_VERSION}; install the demo-node release that made it, or copy"
        f" {snapshot.name} into a folder of its own: its parameters alone are enough to go on"
        " from\n"
    )
    assert not new.exists(), "nothing is left behind"
    (alone := tmp_path / "alone" / snapshot.name).parent.mkdir()
    alone.write_bytes(snapshot.read_bytes())
    assert go_on(new, alone).model == PRESETS["tiny"].model


def refuse(folder: Path, source: Path, *flags: object) -> str:
    done = demo_node("init", "--datadir", folder, "--from", source, *flags)
    assert done.returncode == 78
    assert done.stderr.startswith(f"demo-node: {source}: ")
    assert done.stderr.count("\n") == 1
    assert not DataDir(folder).manifest.exists()
    assert not DataDir(folder).initial.exists()
    return done.stderr


def test_another_shape_is_refused(tmp_path: Path, snapshot: Path) -> None:
    line = refuse(tmp_path / "new", snapshot, "--preset", "tiny")
    assert "do not have the names and shapes of that of --preset tiny" in line
    odd = tmp_path / "odd.safetensors"
    odd.write_bytes(encode_tensors({"embed.weight": (3, 3)}))
    assert "shapes of any preset's" in refuse(tmp_path / "new", odd)
    assert not (tmp_path / "new").exists(), "nothing is left behind"


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"dear Ada", "not a snapshot: it does not begin like a safetensors file"),
        (b"", "not a snapshot: it does not begin like a safetensors file"),
        (encode_tensors({"a": (2,)})[:-1], "its length is not what its header says"),
        (encode_tensors({"a": (2,)}, "F16"), "its tensors are not all fp32"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, raw: bytes, words: str) -> None:
    source = tmp_path / "x.safetensors"
    source.write_bytes(raw)
    assert words in refuse(tmp_path / "new", source)
    assert not (tmp_path / "new").exists(), "nothing is left behind"


def test_a_damaged_snapshot_is_refused(tmp_path: Path, snapshot: Path) -> None:
    damaged = tmp_path / snapshot.name
    raw = bytearray(snapshot.read_bytes())
    raw[-1] ^= 1
    damaged.write_bytes(raw)
    checksum = snapshot.with_name(snapshot.name + ".sha256")
    damaged.with_name(checksum.name).write_bytes(checksum.read_bytes())
    assert "it is damaged (its checksum differs)" in refuse(tmp_path / "new", damaged)


def test_a_folder_that_has_a_run_is_left_as_it_is(old: Path, snapshot: Path) -> None:
    before = DataDir(old).manifest.read_bytes()
    done = demo_node("init", "--datadir", old, "--from", snapshot)
    assert done.returncode == 78
    assert "choose another --datadir" in done.stderr
    assert DataDir(old).manifest.read_bytes() == before
    assert not DataDir(old).initial.exists()


def test_what_a_peer_gives_must_have_the_hash(tmp_path: Path) -> None:
    path, raw = DataDir(tmp_path).initial, b"parameters"
    sha256 = hashlib.sha256(raw).digest()
    assert load_initial(DISK, path, sha256) is None
    with pytest.raises(Reject, match="does not have the hash"):
        adopt_initial(DISK, path, raw + b"!", sha256)
    assert not path.exists()
    assert adopt_initial(DISK, path, raw, sha256).read() == raw
    assert load_initial(DISK, path, sha256) is not None
    path.write_bytes(raw + b"!")
    assert load_initial(DISK, path, sha256) is None


def test_a_run_that_would_be_over_already_is_refused(tmp_path: Path) -> None:
    when = ("--genesis", "2020-01-01T00:00:00+00:00")
    done = demo_node("init", "--datadir", tmp_path / "node", "--rounds", 6, *when)
    assert done.returncode == 2
    assert "over already" in done.stderr
    assert not (tmp_path / "node" / "manifest.json").exists()
