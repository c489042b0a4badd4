"""Checksummed entries in a file: how they are written, and how they are found again after damage.

    file  = magic (32) owner (32) check (8) entry*
    entry = length (4, big endian) check (8) payload

A check is the start of a SHA-256 over the entry's position and payload, so neither a flipped bit
nor a block that the disk put in the wrong place passes. It also marks where entries begin: behind
damage, the next one is the next position whose check holds.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from demo_node.store.disk import Disk
from demo_protocol.errors import ConfigError, LocalFault

ENTRY_BYTES_MAX: Final = 8 << 20
"""A record with all its headers is below 1 MiB, so is a corpus block."""

SEARCHED_BYTES_MAX: Final = 8 << 20
"""So far behind damage the next entry is looked for: seconds. What comes later is given up."""

_SEARCHED_LENGTH_MAX: Final = 1 << 20
"""Entries longer than that are not found behind damage: each guess at one is a hash over it."""

_MAGIC_BYTES: Final = 32
_OWNER_BYTES: Final = 32
_CHECK_BYTES: Final = 8
_LENGTH_BYTES: Final = 4
FRAME_BYTES: Final = _LENGTH_BYTES + _CHECK_BYTES
START: Final = _MAGIC_BYTES + _OWNER_BYTES + _CHECK_BYTES
_READ_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    """An intact payload, and where its entry begins in the file."""

    position: int
    payload: bytes

    @property
    def end(self) -> int:
        """Where the next entry begins."""
        return self.position + FRAME_BYTES + len(self.payload)


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes that are no entry: flipped, misplaced, or torn off at the file's end."""

    position: int
    length: int

    @property
    def end(self) -> int:
        """Where the next entry begins, or the file ends."""
        return self.position + self.length


def compute_file_header(purpose: str, owner: bytes) -> bytes:
    """The first START bytes of a log of `owner` (32 bytes: run or corpus)."""
    magic = f"demo-node/{purpose}/1\n".encode().ljust(_MAGIC_BYTES, b"\0")
    if len(magic) != _MAGIC_BYTES or len(owner) != _OWNER_BYTES:
        raise LocalFault("a log's purpose is at most 20 characters, its owner 32 bytes")
    return _seal(magic + owner)


def encode_entry(position: int, payload: bytes) -> bytes:
    """The bytes of an entry that begins at `position` and nowhere else."""
    return compute_frame(position, payload) + payload


def encode_file(header: bytes, payloads: Iterable[bytes]) -> Iterator[bytes]:
    """A whole log, in pieces."""
    yield header
    position = len(header)
    for payload in payloads:
        entry = encode_entry(position, payload)
        yield entry
        position += len(entry)


def compute_frame(position: int, payload: bytes) -> bytes:
    """What stands before a payload: its length, and a check over position and payload."""
    check = hashlib.sha256(position.to_bytes(8, "big") + payload).digest()[:_CHECK_BYTES]
    return len(payload).to_bytes(_LENGTH_BYTES, "big") + check


def decode_length(frame: bytes) -> int | None:
    """The length that a frame claims; None for what is no frame."""
    length = int.from_bytes(frame[:_LENGTH_BYTES], "big")
    return length if len(frame) == FRAME_BYTES and length <= ENTRY_BYTES_MAX else None


def scan_file(disk: Disk, path: Path, header: bytes, start: int = 0) -> Iterator[Entry | Damage]:
    """Every intact entry from `start` on and the damage between, in order. Changes nothing.

    A node may be appending meanwhile: its unfinished entry is damage at the very end. A few MiB in
    memory at most. Raises FileNotFoundError, and ConfigError when the file is whole but of
    another owner, purpose or version.
    """
    size = disk.size(path)
    window = _Window(disk, path)
    position = start
    if position < START:
        found = window.read(0, min(START, size))
        if found != header:
            if len(found) == START and found == _seal(found[:-_CHECK_BYTES]):
                raise ConfigError(
                    f"{path}: belongs to another run than manifest.json beside it; restore that"
                    " file from a peer's data folder, or choose another --datadir"
                )
            yield Damage(0, len(found))
        position = START
    while position < size:
        payload = _read_payload(window, position, size, ENTRY_BYTES_MAX)
        if payload is None:
            end = _find_entry(window, position + 1, size)
            yield Damage(position, end - position)
            position = end
        else:
            yield Entry(position, payload)
            position += FRAME_BYTES + len(payload)


def _find_entry(window: "_Window", start: int, size: int) -> int:
    """The next position from `start` on at which an entry begins, else `size`.

    A damaged length may be any length, so every position is tried.
    """
    for position in range(start, min(size - FRAME_BYTES, start + SEARCHED_BYTES_MAX) + 1):
        if _read_payload(window, position, size, _SEARCHED_LENGTH_MAX) is not None:
            return position
    return size


def _read_payload(window: "_Window", position: int, size: int, most: int) -> bytes | None:
    frame = window.read(position, FRAME_BYTES)
    length = int.from_bytes(frame[:_LENGTH_BYTES], "big")
    if length > most or position + FRAME_BYTES + length > size:
        return None
    payload = window.read(position + FRAME_BYTES, length)
    return payload if frame == compute_frame(position, payload) else None


class _Window:
    """Reads ahead, so that a log of small entries is not a system call each."""

    def __init__(self, disk: Disk, path: Path) -> None:
        self._disk = disk
        self._path = path
        self._start = 0
        self._held = b""

    def read(self, position: int, length: int) -> bytes:
        at = position - self._start
        if at < 0 or at + length > len(self._held):
            self._held = self._disk.read(self._path, position, max(length, _READ_BYTES))
            self._start, at = position, 0
        return self._held[at : at + length]


def _seal(start: bytes) -> bytes:
    return start + hashlib.sha256(start).digest()[:_CHECK_BYTES]
