"""An append-only file of checksummed entries (`store.frames`), made whole again when it is opened.

What is damaged is moved to `<name>.damaged`; intact entries before and behind it are kept.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from threading import Lock
from typing import Final, Self

from demo_node.store.atomic import write_atomic
from demo_node.store.disk import Appender, Disk
from demo_node.store.frames import (
    ENTRY_BYTES_MAX,
    FRAME_BYTES,
    START,
    Damage,
    Entry,
    compute_file_header,
    compute_frame,
    decode_length,
    encode_entry,
    encode_file,
    scan_file,
)
from demo_protocol.errors import LocalFault

DAMAGED: Final = ".damaged"
"""Behind a log's name: the bytes of it that were last set aside."""

_PIECE_BYTES: Final = 1 << 20

_READ_BYTES: Final = 16 << 10
"""Read at once where the length is not known: most entries are shorter."""

OnEntry = Callable[[int, bytes], None]
"""(position, payload) of an intact entry, in order."""


class Journal:
    """One log, open for appending. `cut_bytes` were damaged and set aside when it was opened."""

    def __init__(self, disk: Disk, path: Path, header: bytes) -> None:
        self.path = path
        self.aside = path.with_name(path.name + DAMAGED)
        self.cut_bytes = 0
        self._disk = disk
        self._header = header
        self._lock = Lock()  # appends may come from several threads
        self._size = 0
        self._synced = -1
        self._torn = False
        self._file: Appender | None = None

    @classmethod
    def open(
        cls,
        disk: Disk,
        path: Path,
        purpose: str,
        owner: bytes,
        on_entry: OnEntry,
        after_damage: Sequence[bytes] = (),
    ) -> Self:
        """Read all entries once, set aside what is damaged, be ready to append. May fsync.

        Where something was damaged, the entries `after_damage` are added in the same step. Raises
        ConfigError when the file is whole but of another owner (32 bytes: run or corpus), purpose
        or version.
        """
        journal = cls(disk, path, compute_file_header(purpose, owner))
        journal._recover(on_entry, after_damage)
        journal._file = disk.append(path)
        return journal

    def append(self, payload: bytes) -> int:
        """Add an entry; returns its position. Not durable before `sync`."""
        if len(payload) > ENTRY_BYTES_MAX:
            raise LocalFault(f"a log entry of {len(payload)} bytes is over {ENTRY_BYTES_MAX}")
        with self._lock:
            file = self._writable()
            position = self._size
            entry = encode_entry(position, payload)
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
        raw = self._disk.read(self.path, position, _READ_BYTES)
        frame = raw[:FRAME_BYTES]
        length = decode_length(frame)
        if length is None:
            return None
        payload = raw[FRAME_BYTES : FRAME_BYTES + length]
        if len(payload) < length:
            payload = self._disk.read(self.path, position + FRAME_BYTES, length)
        return payload if frame == compute_frame(position, payload) else None

    def rewrite(self, payloads: Iterable[bytes]) -> None:
        """Replace all entries, all or nothing (fsyncs). Positions change."""
        with self._lock:
            before = self._writable()
            write_atomic(self._disk, self.path, encode_file(self._header, payloads))
            before.close()
            self._file = None
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

    def _recover(self, on_entry: OnEntry, after_damage: Sequence[bytes]) -> None:
        if self.path.name not in self._disk.names(self.path.parent):
            write_atomic(self._disk, self.path, self._header)
        self._size = START
        for found in scan_file(self._disk, self.path, self._header):
            if isinstance(found, Damage):
                # Entries before the damage stay where they are; the others get new positions.
                start = max(found.position, START)
                self._repair(after_damage)
                for entry in scan_file(self._disk, self.path, self._header, start):
                    assert isinstance(entry, Entry)
                    self._restore(entry, on_entry)
                return
            self._restore(found, on_entry)

    def _restore(self, entry: Entry, on_entry: OnEntry) -> None:
        on_entry(entry.position, entry.payload)
        self._size = entry.end

    def _repair(self, after_damage: Sequence[bytes]) -> None:
        """Set what is damaged aside, then take it out of the log (fsyncs)."""
        found = list(self._find_damage())
        self.cut_bytes = sum(damage.length for damage in found)
        write_atomic(self._disk, self.aside, self._read_pieces(found))
        is_tail = found[0].position >= START and self._disk.size(self.path) == found[0].end
        if is_tail and not after_damage:  # an unfinished write: the usual case, and the cheap one
            self._disk.truncate(self.path, found[0].position)
            return
        payloads = itertools.chain(self._read_payloads(), after_damage)
        write_atomic(self._disk, self.path, encode_file(self._header, payloads))

    def _find_damage(self) -> Iterator[Damage]:
        for found in scan_file(self._disk, self.path, self._header):
            if isinstance(found, Damage):
                yield found

    def _read_payloads(self) -> Iterator[bytes]:
        for found in scan_file(self._disk, self.path, self._header):
            if isinstance(found, Entry):
                yield found.payload

    def _read_pieces(self, found: Iterable[Damage]) -> Iterator[bytes]:
        for damage in found:
            for position in range(damage.position, damage.end, _PIECE_BYTES):
                length = min(_PIECE_BYTES, damage.end - position)
                yield self._disk.read(self.path, position, length)
