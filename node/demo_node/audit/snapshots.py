"""Is a snapshot what it says it is? Without torch: its tensors are read in pieces.

Whether its parameters are those of the run is the replay's question; here they must only be the
ones that its own digest names.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Any, Final

import numpy as np

from demo_node.audit.findings import Finding
from demo_node.store.disk import Disk
from demo_node.store.snapshot_info import (
    SnapshotInfo,
    compute_checksum_line,
    compute_checksum_path,
    compute_name,
    decode_info,
)
from demo_node.store.snapshots import PIECE_BYTES
from demo_node.store.tensorfile import (
    METADATA,
    NotTensors,
    compute_header_end,
    decode_header,
)
from demo_protocol.answers import decode_chain_state
from demo_protocol.digest import pack_digest, sum_lanes
from demo_protocol.errors import Reject
from demo_protocol.roster import ChainState
from demo_protocol.schema import Schema

SUFFIX: Final = ".safetensors"

REMEDY: Final = "delete it and its .sha256: the node goes on from another one, or from its peers'"

CHECKSUM_REMEDY: Final = (
    "delete it and its snapshot: the node goes on from another one, or from its peers'"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotHead:
    """The beginning of a snapshot file: all but its tensors' bytes."""

    path: Path
    info: SnapshotInfo
    state: ChainState
    header: bytes
    tensors: dict[str, Any]
    """Name -> dtype, shape and data_offsets, as safetensors has them."""


def list_snapshots(disk: Disk, folder: Path) -> list[Path]:
    """All snapshot files, whatever their state."""
    names = disk.names(folder)
    return [folder / n for n in names if n.endswith(SUFFIX) and not n.startswith(".")]


def read_head(disk: Disk, path: Path) -> SnapshotHead:
    """The head of a snapshot file. Raises NotTensors, FileNotFoundError."""
    start = disk.read(path, 0, 8)
    raw = disk.read(path, 0, compute_header_end(start))
    header = decode_header(raw)
    if disk.size(path) != header.header_bytes + header.tensor_bytes:
        raise NotTensors("its length is not what its header says")
    info = decode_info(header.metadata)
    try:
        state = decode_chain_state(info.chain_state)
    except Reject as error:
        raise NotTensors(f"its chain state is damaged ({error})") from None
    if (state.record, state.round, state.height) != (info.record, info.round, info.height):
        raise NotTensors("its chain state is of another record than its metadata")
    tree = json.loads(raw[8:])
    tree.pop(METADATA)
    return SnapshotHead(path=path, info=info, state=state, header=raw, tensors=tree)


def check_snapshot(disk: Disk, path: Path, run_id: bytes, schema: Schema) -> list[Finding]:
    """What is wrong with one snapshot file and its checksum. Reads all of it, in pieces.

    A file that goes away meanwhile was dropped by a running node: nothing is wrong with that.
    """
    try:
        file, head, problems = f"snapshots/{path.name}", None, []
        sha256 = hash_file(disk, path)
        try:
            head = read_head(disk, path)
            problems = list(_find_problems(disk, head, run_id, schema))
        except NotTensors as error:
            problems = [str(error)]
        checksum = _check_checksum(disk, path, sha256)
    except FileNotFoundError:
        return []
    round_ = head.info.round if head else None
    if checksum is _Checksum.DAMAGED:
        return [
            Finding(
                file=f"{file}.sha256",
                round=round_,
                text="it is damaged",
                remedy=CHECKSUM_REMEDY,
            ),
            *_as_finding(file, round_, problems),
        ]
    if checksum is _Checksum.OTHER:
        problems.append("its checksum differs")
    elif checksum is _Checksum.MISSING:
        problems.append("it has no .sha256 beside it")
    return _as_finding(file, round_, problems)


def _as_finding(file: str, round_: int | None, problems: list[str]) -> list[Finding]:
    if not problems:
        return []
    return [Finding(file=file, round=round_, text=", and ".join(problems), remedy=REMEDY)]


def _find_problems(disk: Disk, head: SnapshotHead, run_id: bytes, schema: Schema) -> Iterator[str]:
    if head.info.run_id != run_id:
        yield "it belongs to another run"
        return
    if head.path.name != compute_name(head.info):
        yield "its name is not that of its record"
    if not _is_of(head, schema):
        yield "its tensors are not those of the run's model"
    elif compute_file_digest(disk, head) != head.info.digest:
        yield "its tensors do not give the digest that it names"


def _is_of(head: SnapshotHead, schema: Schema) -> bool:
    """Are these the model's tensors, in fp32, in order and without gaps, as every node has them?"""
    expected, end = {}, 0
    for spec in sorted(schema.tensors, key=lambda spec: spec.name):
        offsets = [end, end + 4 * spec.size]
        expected[spec.name] = {"dtype": "F32", "shape": [*spec.shape], "data_offsets": offsets}
        end = offsets[1]
    return head.tensors == expected


def compute_file_digest(disk: Disk, head: SnapshotHead) -> bytes:
    """Digest of the tensors in a file (rule E12): they lie in the order in which they count."""
    first = second = position = 0
    for piece in _read_pieces(disk, head.path, len(head.header)):
        words = np.frombuffer(piece, dtype="<u4")
        sums = sum_lanes(words, position)
        first, second = first + sums[0], second + sums[1]
        position += len(words)
    return pack_digest(first, second, position)


class _Checksum(Enum):
    RIGHT = auto()
    MISSING = auto()
    OTHER = auto()  # it stands for other bytes than the file has
    DAMAGED = auto()  # it stands for the file's bytes, but was changed itself


def _check_checksum(disk: Disk, path: Path, sha256: bytes) -> _Checksum:
    expected = compute_checksum_line(path.name, sha256)
    try:
        line = disk.read(compute_checksum_path(path), 0, 2 * len(expected))
    except FileNotFoundError:
        disk.size(path)  # raises where the file has gone as well
        return _Checksum.MISSING
    if line == expected:
        return _Checksum.RIGHT
    # Hashes of two files agree in a 16th of their digits: one that nearly agrees was changed.
    digits = 2 * len(sha256)
    same = sum(a == b for a, b in zip(line[:digits], expected[:digits], strict=False))
    return _Checksum.DAMAGED if 2 * same > digits else _Checksum.OTHER


def hash_file(disk: Disk, path: Path) -> bytes:
    """SHA-256 of a file of any length. Raises FileNotFoundError."""
    hasher = hashlib.sha256()
    for piece in _read_pieces(disk, path, 0):
        hasher.update(piece)
    return hasher.digest()


def _read_pieces(disk: Disk, path: Path, start: int) -> Iterator[bytes]:
    for offset in range(start, disk.size(path), PIECE_BYTES):
        yield disk.read(path, offset, PIECE_BYTES)
