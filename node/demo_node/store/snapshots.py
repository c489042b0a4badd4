"""Parameters at a record, in files anyone can open with safetensors.

`snapshots/<round>-<record>.safetensors` holds the tensors; its metadata says which record they
follow and carries the chain's state there, so one rename makes all of it appear at once. Beside
it lies `<name>.sha256` in `sha256sum -c` format, written first: tensors without it do not count.
The file holds nothing that differs between nodes, so equal states give equal files.

Peers are given the chunks of a state's Merkle tree (rule 21), which are the chain's state and
stretches of this file: its tensors lie in canonical order.
"""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from demo_node.store.atomic import AtomicFile, write_atomic
from demo_node.store.disk import Disk
from demo_node.store.retention import NEWEST, Kept, choose_spare
from demo_node.store.snapshot_info import (
    SnapshotInfo,
    compute_checksum_line,
    compute_checksum_path,
    compute_name,
    decode_info,
    encode_info,
)
from demo_node.store.snapshot_part import PART, SnapshotPart, compute_part_name
from demo_node.store.tensorfile import (
    HeaderRewriter,
    NotTensors,
    TensorHeader,
    compute_header_end,
    decode_header,
    encode_header,
)
from demo_protocol.errors import LocalFault
from demo_protocol.limits import HASH_BYTES, STATE_CHUNK_BYTES
from demo_protocol.merkle import LeafHasher, compute_leaf, compute_root

PIECE_BYTES: Final = 4 << 20
"""Read and hashed at once."""

ASKED_MAX: Final = 2
"""Snapshots that are kept because somebody is fetching them, beside those kept anyway: a slow
link may need longer than until the next few are taken."""

_NAME: Final = re.compile(r"(-?\d{1,18})-[0-9a-f]{16}\.safetensors")


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A verified file: its SHA-256 and length in bytes cover all of it.

    `leaves` are those of the state (rule 21), `root` is over them; `tensors_at` says where in the
    file the second leaf's chunk begins.
    """

    info: SnapshotInfo
    path: Path
    sha256: bytes
    file_bytes: int
    tensors_at: int
    root: bytes
    leaves: tuple[bytes, ...] = field(repr=False)


class SnapshotStore:
    """The newest snapshots of one run, and older ones spaced over the last `window` rounds.

    With a `window` of None all older ones, as an archive keeps them. All but the newest two
    together take at most `budget_bytes` (0: no limit).
    """

    def __init__(
        self,
        disk: Disk,
        folder: Path,
        run_id: bytes,
        *,
        window: int | None = 0,
        budget_bytes: int = 0,
    ) -> None:
        self.spare_bytes = 0
        self._disk = disk
        self._folder = folder
        self._run_id = run_id
        self._window = window
        self._budget_bytes = budget_bytes
        self._verified: dict[bytes, Snapshot] = {}  # by root
        self._chunks: dict[bytes, tuple[Snapshot, int]] = {}  # by leaf hash: where it stands
        self._asked: set[bytes] = set()

    def held(self) -> list[Snapshot]:
        """What this process saved, adopted or found intact, the last first. No I/O."""
        return list(reversed(self._verified.values()))

    def find(self, root: bytes) -> Snapshot | None:
        """A snapshot that is kept, by the root of its state. No I/O."""
        return self._verified.get(root)

    def read_chunk(self, leaf: bytes) -> bytes | None:
        """A chunk of a snapshot that is kept, by its leaf hash; None where it is not here. Blocks.

        What the disk gives back is checked: nobody shall take us for a liar.
        """
        snapshot, index = self._chunks.get(leaf, (None, 0))
        if snapshot is None:
            return None
        self._asked.add(snapshot.root)
        if index == 0:
            return snapshot.info.chain_state
        start = snapshot.tensors_at + (index - 1) * STATE_CHUNK_BYTES
        chunk = self.read(snapshot, start, STATE_CHUNK_BYTES)
        return chunk if chunk is not None and compute_leaf(chunk) == leaf else None

    def list_parts(self) -> set[str]:
        """Names (`compute_part_name`) of the states that were begun to be fetched, and not ended.

        Reads the folder.
        """
        return {name for name in self._disk.names(self._folder) if name.endswith(PART)}

    def open_part(self, root: bytes, shapes: Mapping[str, Sequence[int]]) -> SnapshotPart:
        """What was fetched so far of the state with this root; of others it is dropped. Blocks."""
        mine = compute_part_name(root)
        for name in self._disk.names(self._folder):
            if name.partition(".")[2].startswith("part") and not name.startswith(mine):
                self._disk.unlink(self._folder / name)
        return SnapshotPart(self._disk, self._folder / mine, root, shapes)

    async def save(self, info: SnapshotInfo, tensors: AsyncIterator[bytes]) -> Snapshot:
        """Write a snapshot as its pieces come, then drop older ones. Writes in threads; fsyncs.

        Raises LocalFault when `tensors` is not one whole safetensors file, ConfigError when the
        disk is full. Nothing is left behind then.
        """
        path = self._compute_path(info)
        rewriter = HeaderRewriter(encode_info(info))
        try:
            with await asyncio.to_thread(_HashedFile, self._disk, path) as file:
                async for piece in tensors:
                    is_known = rewriter.header_bytes
                    written = rewriter.feed(piece)
                    header_bytes = 0 if is_known else rewriter.header_bytes
                    await asyncio.to_thread(file.write, written, header_bytes)
                rewriter.finish()
                return await asyncio.to_thread(self._commit, file, info)
        except NotTensors as error:
            raise LocalFault(f"the trainer's snapshot cannot be kept: {error}") from error

    def adopt(self, info: SnapshotInfo, part: SnapshotPart) -> Snapshot:
        """Keep a state that came from peers, complete, under what `info` says of it; fsyncs.

        Whether that is to be believed is for the caller to find out before: what is kept here is
        what a restart begins from.
        """
        with _HashedFile(self._disk, self._compute_path(info)) as file:
            header = encode_header(part.shapes, encode_info(info))
            file.write(header, len(header))
            for chunk in part.read_tensors():
                file.write(chunk)
            snapshot = self._commit(file, info)
        part.remove()
        return snapshot

    def newest(
        self, accept: Callable[[SnapshotInfo], bool] = lambda info: True
    ) -> tuple[Snapshot | None, tuple[str, ...]]:
        """The newest intact snapshot that `accept` takes, and why newer ones were passed over.

        Reads and hashes the whole file of each that `accept` takes: call it in a thread.
        """
        reasons: list[str] = []
        for name in self._names():
            try:
                if accept(self._read_info(self._folder / name)):
                    snapshot = self._load(self._folder / name)
                    self._remember(snapshot)
                    return snapshot, tuple(reasons)
            except NotTensors as error:
                reasons.append(f"snapshot {name} was skipped: {error}")
        return None, tuple(reasons)

    def discard(self, is_wrong: Callable[[SnapshotInfo], bool]) -> None:
        """Drop those of states that turned out to be wrong (rule 20): no restart begins there."""
        for name in self._names():
            path = self._folder / name
            with suppress(NotTensors):
                if is_wrong(self._read_info(path)):
                    self._disk.unlink(path)
                    self._disk.unlink(compute_checksum_path(path))
        names = set(self._names())
        self._verified = {h: s for h, s in self._verified.items() if s.path.name in names}
        self._chunks = {leaf: at for leaf, at in self._chunks.items() if at[0].path.name in names}

    def read(self, snapshot: Snapshot, offset: int = 0, length: int | None = None) -> bytes | None:
        """Bytes of the file, all of it by default; None once it was dropped. Blocks."""
        try:
            return self._disk.read(snapshot.path, offset, length)
        except FileNotFoundError:
            return None

    def _commit(self, file: "_HashedFile", info: SnapshotInfo) -> Snapshot:
        path = file.path
        sha256 = file.compute_sha256()
        line = compute_checksum_line(path.name, sha256)
        write_atomic(self._disk, compute_checksum_path(path), line)
        file.commit()
        leaves = (compute_leaf(info.chain_state), *file.leaves.finish())
        snapshot = Snapshot(
            info=info,
            path=path,
            sha256=sha256,
            file_bytes=file.size,
            tensors_at=file.header_bytes,
            root=compute_root(leaves),
            leaves=leaves,
        )
        self._remember(snapshot)
        self._prune(saved=path.name)
        return snapshot

    def _remember(self, snapshot: Snapshot) -> None:
        self._verified.pop(snapshot.root, None)  # it is the last one now
        self._verified[snapshot.root] = snapshot
        for index, leaf in enumerate(snapshot.leaves):
            self._chunks[leaf] = (snapshot, index)

    def _prune(self, *, saved: str) -> None:
        """Keep the newest, and what was just saved: after a rollback others may be newer."""
        held = [self._measure(name) for name in self._names() if name != saved]
        newest, older = held[: NEWEST - 1], held[NEWEST - 1 :]
        spare = choose_spare(older, _read_round(saved), self._window, self._budget_bytes)
        spare |= self._find_asked({kept.name for kept in older} - spare)
        self.spare_bytes = sum(kept.size for kept in older if kept.name in spare)
        names = {saved, *(kept.name for kept in newest), *spare}
        for kept in older:
            if kept.name not in names:
                self._disk.unlink(self._folder / kept.name)
        self._verified = {h: s for h, s in self._verified.items() if s.path.name in names}
        self._chunks = {
            leaf: (s, index) for s in self._verified.values() for index, leaf in enumerate(s.leaves)
        }
        for name in self._disk.names(self._folder):
            if name.endswith(".sha256") and name.removesuffix(".sha256") not in names:
                self._disk.unlink(self._folder / name)

    def _find_asked(self, names: set[str]) -> set[str]:
        """Of these, what peers are fetching: asked for since the last snapshot was kept."""
        asked = [s.path.name for s in self.held() if s.root in self._asked]
        self._asked.clear()
        return set([name for name in asked if name in names][:ASKED_MAX])

    def _measure(self, name: str) -> Kept:
        return Kept(name, _read_round(name), self._disk.size(self._folder / name))

    def _load(self, path: Path) -> Snapshot:
        """Raises NotTensors when the file is not, to the last bit, what was written."""
        try:
            size = self._disk.size(path)
            tensors_at = compute_header_end(self._disk.read(path, 0, 8))
            hasher, leaves = hashlib.sha256(), LeafHasher(STATE_CHUNK_BYTES)
            for offset in range(0, size, PIECE_BYTES):
                piece = self._disk.read(path, offset, PIECE_BYTES)
                hasher.update(piece)
                leaves.update(memoryview(piece)[max(tensors_at - offset, 0) :])
            expected = self._disk.read(compute_checksum_path(path), 0, 2 * HASH_BYTES)
        except FileNotFoundError:
            raise NotTensors("its checksum file is missing") from None
        if hasher.hexdigest().encode() != expected:
            raise NotTensors("it is damaged (its checksum differs)")
        info = self._read_info(path)
        found = (compute_leaf(info.chain_state), *leaves.finish())
        return Snapshot(
            info=info,
            path=path,
            sha256=hasher.digest(),
            file_bytes=size,
            tensors_at=tensors_at,
            root=compute_root(found),
            leaves=found,
        )

    def _read_info(self, path: Path) -> SnapshotInfo:
        """What the file says of itself, which only `_load` makes true. Raises NotTensors."""
        try:
            end = compute_header_end(self._disk.read(path, 0, 8))
            return self._check(decode_header(self._disk.read(path, 0, end)), self._disk.size(path))
        except FileNotFoundError:
            raise NotTensors("it is gone") from None

    def _check(self, header: TensorHeader, size: int) -> SnapshotInfo:
        if size != header.header_bytes + header.tensor_bytes:
            raise NotTensors("its length is not what its header says")
        info = decode_info(header.metadata)
        if info.run_id != self._run_id:
            raise NotTensors("it belongs to another run")
        return info

    def _names(self) -> list[str]:
        found = [
            match for name in self._disk.names(self._folder) if (match := _NAME.fullmatch(name))
        ]
        return [m.string for m in sorted(found, key=lambda m: (int(m[1]), m.string), reverse=True)]

    def _compute_path(self, info: SnapshotInfo) -> Path:
        return self._folder / compute_name(info)


def _read_round(name: str) -> int:
    return int(name.rpartition("-")[0])


class _HashedFile(AtomicFile):
    """An atomic file that knows the SHA-256, the length and the leaves of what was written."""

    def __init__(self, disk: Disk, path: Path) -> None:
        super().__init__(disk, path)
        self.path = path
        self.size = 0
        self.header_bytes = 0
        self.leaves = LeafHasher(STATE_CHUNK_BYTES)
        self._hasher = hashlib.sha256()

    def write(self, piece: bytes | memoryview, header_bytes: int = 0) -> None:
        """Append a piece, of which so many bytes, once, are the header and no tensor's."""
        super().write(piece)
        self._hasher.update(piece)
        self.size += len(piece)
        self.header_bytes += header_bytes
        self.leaves.update(memoryview(piece)[header_bytes:])

    def compute_sha256(self) -> bytes:
        return self._hasher.digest()
