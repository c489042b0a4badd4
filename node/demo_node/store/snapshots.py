"""Parameters at a record, in files anyone can open with safetensors.

`snapshots/<round>-<record>.safetensors` holds the tensors; its metadata says which record they
follow and carries the chain's state there, so one rename makes all of it appear at once. Beside
it lies `<name>.sha256` in `sha256sum -c` format, written first: tensors without it do not count.
The file holds nothing that differs between nodes, so equal states give equal files.
"""

import asyncio
import base64
import binascii
import hashlib
import re
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from demo_node.store.atomic import AtomicFile, write_atomic
from demo_node.store.disk import Disk
from demo_node.store.tensorfile import (
    HeaderRewriter,
    NotTensors,
    TensorHeader,
    compute_header_end,
    decode_header,
)
from demo_protocol.errors import LocalFault, Reject
from demo_protocol.limits import DIGEST_BYTES, HASH_BYTES

PIECE_BYTES: Final = 4 << 20
"""Read and hashed at once."""

FORMAT: Final = "demo-node/snapshot/1"

_NAME: Final = re.compile(r"(-?\d{1,18})-[0-9a-f]{16}\.safetensors")
_ROUND: Final = re.compile(r"-?\d{1,18}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotInfo:
    """What a snapshot says of itself. `chain_state` is a ChainState of wire.proto, encoded."""

    run_id: bytes
    record: bytes
    round: int
    height: int
    digest: bytes
    chain_state: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A verified file: its SHA-256 and length in bytes cover all of it."""

    info: SnapshotInfo
    path: Path
    sha256: bytes
    file_bytes: int


class SnapshotStore:
    """The last `keep` snapshots of one run."""

    def __init__(self, disk: Disk, folder: Path, run_id: bytes, *, keep: int = 2) -> None:
        self._disk = disk
        self._folder = folder
        self._run_id = run_id
        self._keep = keep
        self._verified: dict[bytes, Snapshot] = {}

    @property
    def latest(self) -> Snapshot | None:
        """What this process saved, adopted or found intact last. No I/O.

        Not the highest round: after a rollback that may be off our chain.
        """
        return next(reversed(self._verified.values()), None)

    def find(self, sha256: bytes) -> Snapshot | None:
        """A snapshot that is kept, by the hash of its file. No I/O."""
        return self._verified.get(sha256)

    async def save(self, info: SnapshotInfo, tensors: AsyncIterator[bytes]) -> Snapshot:
        """Write a snapshot as its pieces come, then drop older ones. Writes in threads; fsyncs.

        Raises LocalFault when `tensors` is not one whole safetensors file, ConfigError when the
        disk is full. Nothing is left behind then.
        """
        path = self._compute_path(info)
        rewriter = HeaderRewriter(_encode_info(info))
        try:
            with await asyncio.to_thread(_HashedFile, self._disk, path) as file:
                async for piece in tensors:
                    await asyncio.to_thread(file.write, rewriter.feed(piece))
                rewriter.finish()
                return await asyncio.to_thread(self._commit, file, info)
        except NotTensors as error:
            raise LocalFault(f"the trainer's snapshot cannot be kept: {error}") from error

    def adopt(self, raw: bytes, sha256: bytes) -> Snapshot:
        """Keep a snapshot file that came from a peer, as it is. Hashes all of it; fsyncs.

        Raises Reject unless it has this hash and is a whole snapshot of this run. Whether its
        record and digest are to be believed is for the caller to check.
        """
        if hashlib.sha256(raw).digest() != sha256:
            raise Reject("the snapshot does not have the hash that was announced")
        try:
            header = decode_header(raw)
            info = self._check(header, len(raw))
        except NotTensors as error:
            raise Reject(f"the snapshot cannot be used: {error}") from error
        with _HashedFile(self._disk, self._compute_path(info)) as file:
            file.write(raw)
            return self._commit(file, info)

    def newest(
        self, accept: Callable[[SnapshotInfo], bool] = lambda info: True
    ) -> tuple[Snapshot | None, tuple[str, ...]]:
        """The newest intact snapshot that `accept` takes, and why newer ones were passed over.

        Reads and hashes whole files: call it in a thread.
        """
        reasons = []
        for name in self._names():
            try:
                snapshot = self._load(self._folder / name)
            except NotTensors as error:
                reasons.append(f"snapshot {name} was skipped: {error}")
                continue
            if accept(snapshot.info):
                self._verified[snapshot.sha256] = snapshot
                return snapshot, tuple(reasons)
        return None, tuple(reasons)

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
        snapshot = Snapshot(info=info, path=path, sha256=sha256, file_bytes=file.size)
        self._verified[sha256] = snapshot
        self._prune(saved=path.name)
        return snapshot

    def _prune(self, *, saved: str) -> None:
        """Keep the newest, and what was just saved: after a rollback others may be newer."""
        others = [name for name in self._names() if name != saved]
        for name in others[self._keep - 1 :]:
            self._disk.unlink(self._folder / name)
        kept = {saved, *others[: self._keep - 1]}
        self._verified = {h: s for h, s in self._verified.items() if s.path.name in kept}
        for name in self._disk.names(self._folder):
            if name.endswith(".sha256") and name.removesuffix(".sha256") not in kept:
                self._disk.unlink(self._folder / name)

    def _load(self, path: Path) -> Snapshot:
        try:
            size = self._disk.size(path)
            hasher = hashlib.sha256()
            for offset in range(0, size, PIECE_BYTES):
                hasher.update(self._disk.read(path, offset, PIECE_BYTES))
            expected = self._disk.read(compute_checksum_path(path), 0, 2 * HASH_BYTES)
            start = self._disk.read(path, 0, 8)
            header = decode_header(self._disk.read(path, 0, compute_header_end(start)))
        except FileNotFoundError:
            raise NotTensors("its checksum file is missing") from None
        if hasher.hexdigest().encode() != expected:
            raise NotTensors("it is damaged (its checksum differs)")
        info = self._check(header, size)
        return Snapshot(info=info, path=path, sha256=hasher.digest(), file_bytes=size)

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


def compute_name(info: SnapshotInfo) -> str:
    """Name of a snapshot's file."""
    return f"{info.round}-{info.record.hex()[:16]}.safetensors"


def compute_checksum_line(name: str, sha256: bytes) -> bytes:
    """What stands in the checksum file of the snapshot file `name`."""
    return f"{sha256.hex()}  {name}\n".encode()


class _HashedFile(AtomicFile):
    """An atomic file that knows the SHA-256 and length of what was written."""

    def __init__(self, disk: Disk, path: Path) -> None:
        super().__init__(disk, path)
        self.path = path
        self.size = 0
        self._hasher = hashlib.sha256()

    def write(self, piece: bytes | memoryview) -> None:
        super().write(piece)
        self._hasher.update(piece)
        self.size += len(piece)

    def compute_sha256(self) -> bytes:
        return self._hasher.digest()


def compute_checksum_path(path: Path) -> Path:
    """Where the SHA-256 of a snapshot file stands."""
    return path.with_name(path.name + ".sha256")


def _encode_info(info: SnapshotInfo) -> dict[str, str]:
    return {
        "demo.format": FORMAT,
        "demo.run_id": info.run_id.hex(),
        "demo.record": info.record.hex(),
        "demo.round": str(info.round),
        "demo.height": str(info.height),
        "demo.digest": info.digest.hex(),
        "demo.chain_state": base64.b64encode(info.chain_state).decode(),
    }


def decode_info(metadata: Mapping[str, str]) -> SnapshotInfo:
    """What a snapshot's metadata says of it. Raises NotTensors where it is none."""
    if metadata.get("demo.format") != FORMAT:
        raise NotTensors("it is not a snapshot of a run, or of a newer version")
    try:
        state = base64.b64decode(metadata.get("demo.chain_state", ""), validate=True)
    except (binascii.Error, ValueError):
        raise NotTensors("its chain state is damaged") from None
    return SnapshotInfo(
        run_id=_decode_hex(metadata, "demo.run_id", HASH_BYTES),
        record=_decode_hex(metadata, "demo.record", HASH_BYTES),
        round=_decode_integer(metadata, "demo.round"),
        height=_decode_integer(metadata, "demo.height"),
        digest=_decode_hex(metadata, "demo.digest", DIGEST_BYTES),
        chain_state=state,
    )


def _decode_hex(metadata: Mapping[str, str], key: str, length: int) -> bytes:
    try:
        value = bytes.fromhex(metadata.get(key, ""))
    except ValueError:
        value = b""
    if len(value) != length:
        raise NotTensors(f"its {key} is damaged")
    return value


def _decode_integer(metadata: Mapping[str, str], key: str) -> int:
    text = metadata.get(key, "")
    if not _ROUND.fullmatch(text):
        raise NotTensors(f"its {key} is damaged")
    return int(text)
