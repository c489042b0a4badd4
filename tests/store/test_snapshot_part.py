"""A state travels in chunks, each checked by its leaf, and is the same file again (rule 21)."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from demo_node.store.disk import FileDisk
from demo_node.store.snapshot_info import SnapshotInfo
from demo_node.store.snapshot_part import SnapshotPart
from demo_node.store.snapshots import Snapshot, SnapshotStore
from demo_protocol.errors import Reject
from demo_protocol.limits import STATE_CHUNK_BYTES
from demo_protocol.merkle import compute_leaves, compute_root
from tests.store.builders import RUN, pieces, snapshot_info

DISK = FileDisk()
SHAPES = {"embed.weight": (300, 256), "final": (7,), "block.weight": (128, 3, 2)}


def parameters(fill: int = 0) -> dict[str, np.ndarray]:
    """Tensors of these shapes, no two chunks of them equal."""
    return {
        name: np.random.default_rng(fill).standard_normal(shape).astype(np.float32)
        for name, shape in SHAPES.items()
    }


def canonical(fill: int = 0) -> bytes:
    return b"".join(tensor.tobytes() for _, tensor in sorted(parameters(fill).items()))


def save(store: SnapshotStore, info: SnapshotInfo, fill: int = 0) -> Snapshot:
    raw = safetensors.numpy.save(parameters(fill))
    return asyncio.run(store.save(info, pieces(raw, 100_000)))


def make_folder(path: Path) -> Path:
    path.mkdir()
    return path


def test_the_root_is_over_what_the_chain_says_and_the_parameters_in_canonical_order(
    tmp_path: Path,
) -> None:
    saved = save(SnapshotStore(DISK, tmp_path, RUN), snapshot_info(9))
    said = compute_leaves(snapshot_info(9).chain_state, 1 << 20)
    assert saved.leaves == said + compute_leaves(canonical(), STATE_CHUNK_BYTES)
    assert len(saved.leaves) == 1 + 2
    assert saved.root == compute_root(saved.leaves)
    found, _ = SnapshotStore(DISK, tmp_path, RUN).newest()
    assert found == saved
    assert found.leaves == saved.leaves


def test_a_state_fetched_chunk_by_chunk_is_the_very_same_file(tmp_path: Path) -> None:
    source = SnapshotStore(DISK, make_folder(tmp_path / "source"), RUN)
    given = save(source, snapshot_info(9))
    own = SnapshotStore(DISK, make_folder(tmp_path / "own"), RUN)
    part = own.open_part(given.root, SHAPES)
    part.add_leaves(b"".join(given.leaves))
    for leaf in reversed(part.missing()):
        chunk = source.read_chunk(leaf)
        assert chunk is not None
        part.add_block(chunk)
    assert part.held_bytes == part.tensor_bytes == len(canonical())
    assert part.read_chain_state() == snapshot_info(9).chain_state
    loaded = safetensors.numpy.load(part.read_file())
    assert all((loaded[name] == tensor).all() for name, tensor in parameters().items())
    adopted = own.adopt(snapshot_info(9), part)
    assert adopted.path.read_bytes() == given.path.read_bytes()
    assert adopted.root == given.root
    assert sorted(p.name for p in (tmp_path / "own").iterdir()) == [
        adopted.path.name,
        adopted.path.name + ".sha256",
    ]


def test_what_came_before_a_restart_is_not_fetched_again(tmp_path: Path) -> None:
    source = SnapshotStore(DISK, make_folder(tmp_path / "source"), RUN)
    given = save(source, snapshot_info(9))
    own = SnapshotStore(DISK, make_folder(tmp_path / "own"), RUN)
    first = own.open_part(given.root, SHAPES)
    first.add_leaves(b"".join(given.leaves))
    chunk = source.read_chunk(given.leaves[1])
    assert chunk is not None
    first.add_block(chunk)
    first.close()
    again = SnapshotStore(DISK, tmp_path / "own", RUN).open_part(given.root, SHAPES)
    assert again.missing() == [given.leaves[0], given.leaves[2]]
    again.close()


def test_only_the_state_that_is_fetched_keeps_its_chunks(tmp_path: Path) -> None:
    own = SnapshotStore(DISK, tmp_path, RUN)
    own.open_part(bytes(32), SHAPES).close()
    own.open_part(b"\1" * 32, SHAPES).close()
    assert [path.name for path in tmp_path.iterdir()] == [f"{(bytes([1] * 16)).hex()}.part"]


def test_a_state_of_another_model_is_refused(tmp_path: Path) -> None:
    given = save(SnapshotStore(DISK, make_folder(tmp_path / "source"), RUN), snapshot_info(9))
    source = SnapshotStore(DISK, tmp_path / "source", RUN)
    source.newest()
    larger = {**SHAPES, "final": (8,)}  # as many leaves, one word more
    part = SnapshotPart(DISK, tmp_path / "x.part", given.root, larger)
    part.add_leaves(b"".join(given.leaves))
    for leaf in part.missing():
        chunk = source.read_chunk(leaf)
        assert chunk is not None
        part.add_block(chunk)
    with pytest.raises(Reject, match="another model"):
        part.read_file()
    part.close()
    tiny = SnapshotPart(DISK, tmp_path / "y.part", given.root, {"final": (7,)})
    with pytest.raises(Reject, match="list of blocks"):
        tiny.add_leaves(b"".join(given.leaves))
    tiny.close()


def test_chunks_that_the_disk_changed_are_not_given(tmp_path: Path) -> None:
    store = SnapshotStore(DISK, tmp_path, RUN)
    saved = save(store, snapshot_info(9))
    raw = bytearray(saved.path.read_bytes())
    raw[-1] ^= 1
    saved.path.write_bytes(raw)
    assert store.read_chunk(saved.leaves[1]) == canonical()[:STATE_CHUNK_BYTES]
    assert store.read_chunk(saved.leaves[2]) is None
    assert store.read_chunk(bytes(32)) is None


def test_what_somebody_is_fetching_is_kept_until_nobody_asks(tmp_path: Path) -> None:
    store = SnapshotStore(DISK, tmp_path, RUN)
    first = save(store, snapshot_info(0), 0)
    for round_ in range(1, 5):
        assert store.read_chunk(first.leaves[2]) is not None
        save(store, snapshot_info(round_), round_)
    assert store.find(first.root) == first
    save(store, snapshot_info(5), 5)  # nobody has asked since the last one
    assert store.find(first.root) is None
    assert store.read_chunk(first.leaves[2]) is None
    assert len(list(tmp_path.glob("*.safetensors"))) == 2


def test_only_so_many_are_kept_for_those_who_fetch(tmp_path: Path) -> None:
    store = SnapshotStore(DISK, tmp_path, RUN)
    saved = [save(store, snapshot_info(round_), round_) for round_ in range(2)]
    for round_ in range(2, 9):
        for snapshot in saved:
            store.read_chunk(snapshot.leaves[1])
        saved.append(save(store, snapshot_info(round_), round_))
    assert len(list(tmp_path.glob("*.safetensors"))) == 2 + 2
