"""State 0 of a run that goes on from a snapshot: the file that the manifest names by its hash.

It lies in the data folder as `initial.safetensors`, byte for byte the snapshot it was made from.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from demo_node.store.atomic import AtomicFile
from demo_node.store.disk import Disk
from demo_node.store.snapshots import PIECE_BYTES
from demo_node.store.tensorfile import (
    HEADER_BYTES_MAX,
    NotTensors,
    TensorHeader,
    compute_header_end,
    decode_header,
    decode_shapes,
)
from demo_protocol.errors import ConfigError, Reject
from demo_protocol.limits import BLOB_BYTES_MAX, HASH_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """What a file of parameters says of itself. `run_id` in hex; empty: no snapshot of a run."""

    path: Path
    run_id: str
    shapes: dict[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class InitialState:
    """The file, once it is here and intact."""

    disk: Disk
    path: Path
    sha256: bytes

    def read(self) -> bytes | None:
        """All of it; None once somebody removed it. Blocks."""
        try:
            return self.disk.read(self.path)
        except FileNotFoundError:
            return None


def inspect_parameters(disk: Disk, path: Path) -> Parameters:
    """Read a file's header. Raises ConfigError where it can be no state 0."""
    try:
        size = disk.size(path)
        head = disk.read(path, 0, compute_header_end(disk.read(path, 0, 8)))
        header, shapes = decode_header(head), decode_shapes(head)
        _check_size(header, size)
    except NotTensors as error:
        raise ConfigError(f"{path}: not a snapshot: {error}") from None
    return Parameters(path=path, run_id=header.metadata.get("demo.run_id", ""), shapes=shapes)


def copy_initial(disk: Disk, source: Path, target: Path) -> bytes:
    """Keep `source` as `target`; returns its SHA-256 (fsyncs).

    Raises ConfigError where the checksum file beside `source` is of other bytes.
    """
    hasher = hashlib.sha256()
    with AtomicFile(disk, target) as file:
        for piece in _read_pieces(disk, source):
            hasher.update(piece)
            file.write(piece)
        expected = _read_checksum(disk, source)
        if expected and expected != hasher.hexdigest().encode():
            raise ConfigError(f"{source}: it is damaged (its checksum differs); take another one")
        file.commit()
    return hasher.digest()


def adopt_initial(disk: Disk, path: Path, raw: bytes, sha256: bytes) -> InitialState:
    """Keep what a peer gave (fsyncs). Raises Reject unless it has this hash."""
    if hashlib.sha256(raw).digest() != sha256:
        raise Reject("the initial state does not have the hash that the manifest names")
    with AtomicFile(disk, path) as file:
        file.write(raw)
        file.commit()
    return InitialState(disk, path, sha256)


def load_initial(disk: Disk, path: Path, sha256: bytes) -> InitialState | None:
    """The file, if it is there and intact. Hashes all of it: call it in a thread."""
    hasher = hashlib.sha256()
    try:
        for piece in _read_pieces(disk, path):
            hasher.update(piece)
    except FileNotFoundError:
        return None
    return InitialState(disk, path, sha256) if hasher.digest() == sha256 else None


def compute_bytes_max(parameters: int) -> int:
    """No file of so many fp32 parameters is longer; what peers send is not read beyond it."""
    return min(8 + HEADER_BYTES_MAX + 4 * parameters, BLOB_BYTES_MAX)


def _read_pieces(disk: Disk, path: Path) -> Iterator[bytes]:
    for offset in range(0, disk.size(path), PIECE_BYTES):
        yield disk.read(path, offset, PIECE_BYTES)


def _read_checksum(disk: Disk, source: Path) -> bytes:
    """What the file beside a snapshot says; empty where there is none."""
    try:
        return disk.read(source.with_name(source.name + ".sha256"), 0, 2 * HASH_BYTES)
    except FileNotFoundError:
        return b""


def _check_size(header: TensorHeader, size: int) -> None:
    if size != header.header_bytes + header.tensor_bytes:
        raise NotTensors("its length is not what its header says")
    if size > BLOB_BYTES_MAX:  # nobody could fetch it
        raise NotTensors(f"it has more than {BLOB_BYTES_MAX} bytes")
