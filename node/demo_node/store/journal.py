"""An append-only file of checksummed entries. What cannot be trusted is cut off when it is opened.

    file  = magic (32) owner (32) check (8) entry*
    entry = length (4, big endian) check (8) payload

A check is the start of a SHA-256 over the entry's position and payload, so neither a flipped bit
nor a block that the disk put in the wrong place passes. Nothing after a bad entry is believed:
its length may be what is wrong.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from threading import Lock
from typing import Final, Self

from demo_node.store.atomic import write_atomic
from demo_node.store.disk import Appender, Disk
from demo_protocol.errors import ConfigError, LocalFault

ENTRY_BYTES_MAX: Final = 8 << 20
"""A record with all its headers is below 1 MiB, so is a corpus block."""

_MAGIC_BYTES: Final = 32
_OWNER_BYTES: Final = 32
_CHECK_BYTES: Final = 8
_LENGTH_BYTES: Final = 4
_FRAME_BYTES: Final = _LENGTH_BYTES + _CHECK_BYTES
_START: Final = _MAGIC_BYTES + _OWNER_BYTES + _CHECK_BYTES
_READ_BYTES: Final = 1 << 20

OnEntry = Callable[[int, bytes], None]
"""(position, payload) of an intact entry, in order."""


class Journal:
    """One log, open for appending. `cut_bytes` were not trusted when it was opened."""

    def __init__(self, disk: Disk, path: Path, header: bytes) -> None:
        self.path = path
        self.cut_bytes = 0
        self._disk = disk
        self._header = header
        self._lock = Lock()  # appends may come from several threads
        self._size = 0
        self._synced = -1
        self._torn = False
        self._file: Appender | None = None

    @classmethod
    def open(cls, disk: Disk, path: Path, purpose: str, owner: bytes, on_entry: OnEntry) -> Self:
        """Read all entries once, cut what is damaged, and be ready to append. May fsync.

        Raises ConfigError when the file is whole but of another owner (32 bytes: run or corpus),
        purpose or version.
        """
        journal = cls(disk, path, _compute_header(purpose, owner))
        journal._recover(on_entry)
        journal._file = disk.append(path)
        return journal

    def append(self, payload: bytes) -> int:
        """Add an entry; returns its position. Not durable before `sync`."""
        if len(payload) > ENTRY_BYTES_MAX:
            raise LocalFault(f"a log entry of {len(payload)} bytes is over {ENTRY_BYTES_MAX}")
        with self._lock:
            file = self._writable()
            position = self._size
            entry = _encode_entry(position, payload)
            self._torn = True  # until all of it was taken
            file.write(entry)
            self._torn = False
            self._size += len(entry)
            return position

    def sync(self) -> None:
        """Return when every entry is on the device (fsync)."""
        with self._lock:
            if self._synced != self._size:
                self._writable().sync()
                self._synced = self._size

    def read(self, position: int) -> bytes | None:
        """The payload at `position`; None when it is damaged by now."""
        frame = self._disk.read(self.path, position, _FRAME_BYTES)
        length = int.from_bytes(frame[:_LENGTH_BYTES], "big")
        if len(frame) < _FRAME_BYTES or length > ENTRY_BYTES_MAX:
            return None
        payload = self._disk.read(self.path, position + _FRAME_BYTES, length)
        return payload if frame == _compute_frame(position, payload) else None

    def rewrite(self, payloads: Iterable[bytes]) -> None:
        """Replace all entries, all or nothing (fsyncs). Positions change."""
        with self._lock:
            self._writable().close()
            self._file = None
            content = _encode_file(self._header, payloads)
            write_atomic(self._disk, self.path, content)
            self._size = self._synced = self._disk.size(self.path)
            self._file = self._disk.append(self.path)

    def close(self) -> None:
        """Give the file back. Nothing can be appended any more."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None

    def _writable(self) -> Appender:
        if self._file is None:
            raise LocalFault(f"{self.path.name} is closed")
        if self._torn:
            # A write failed half-way (full disk): later entries must not follow a torn one.
            self._disk.truncate(self.path, self._size)
            self._torn = False
        return self._file

    def _recover(self, on_entry: OnEntry) -> None:
        try:
            size = self._disk.size(self.path)
        except FileNotFoundError:
            size = 0
        header = self._disk.read(self.path, 0, _START) if size else b""
        if header != self._header:
            if len(header) == _START and header == _seal(header[:-_CHECK_BYTES]):
                raise ConfigError(
                    f"{self.path}: belongs to another run or version; choose another --datadir"
                )
            self.cut_bytes = size
            write_atomic(self._disk, self.path, self._header)
            self._size = _START
            return
        self._size = _START
        for position, payload in self._scan(size):
            on_entry(position, payload)
            self._size = position + _FRAME_BYTES + len(payload)
        self.cut_bytes = size - self._size
        if self.cut_bytes:
            self._disk.truncate(self.path, self._size)

    def _scan(self, size: int) -> Iterator[tuple[int, bytes]]:
        """Intact entries up to the first that is not; a few MiB in memory at most."""
        window = _Window(self._disk, self.path)
        position = _START
        while position + _FRAME_BYTES <= size:
            frame = window.read(position, _FRAME_BYTES)
            length = int.from_bytes(frame[:_LENGTH_BYTES], "big")
            if length > ENTRY_BYTES_MAX:
                return
            payload = window.read(position + _FRAME_BYTES, length)
            if frame != _compute_frame(position, payload):
                return
            yield position, payload
            position += _FRAME_BYTES + length


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


def _compute_header(purpose: str, owner: bytes) -> bytes:
    magic = f"demo-node/{purpose}/1\n".encode().ljust(_MAGIC_BYTES, b"\0")
    if len(magic) != _MAGIC_BYTES or len(owner) != _OWNER_BYTES:
        raise LocalFault("a log's purpose is at most 20 characters, its owner 32 bytes")
    return _seal(magic + owner)


def _seal(start: bytes) -> bytes:
    return start + hashlib.sha256(start).digest()[:_CHECK_BYTES]


def _compute_frame(position: int, payload: bytes) -> bytes:
    check = hashlib.sha256(position.to_bytes(8, "big") + payload).digest()[:_CHECK_BYTES]
    return len(payload).to_bytes(_LENGTH_BYTES, "big") + check


def _encode_entry(position: int, payload: bytes) -> bytes:
    return _compute_frame(position, payload) + payload


def _encode_file(header: bytes, payloads: Iterable[bytes]) -> Iterator[bytes]:
    yield header
    position = len(header)
    for payload in payloads:
        entry = _encode_entry(position, payload)
        yield entry
        position += len(entry)
