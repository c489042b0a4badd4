"""Records with their headers, in the order in which this node learned of them.

The records stay on disk; in memory is one position for each.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Final

from demo_node.store.disk import Disk
from demo_node.store.journal import Journal
from demo_protocol.limits import HASH_BYTES

_ROUND_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class ChainEntry:
    """One record: its hash, its parent's, its round, and a RecordBundle of wire.proto."""

    record: bytes
    parent: bytes
    round: int
    raw: bytes


class ChainLog:
    """All records this node keeps, forks included.

    `cut_bytes` at the file's end were damaged and are gone: those records are to be fetched again.
    """

    def __init__(self, disk: Disk, path: Path, run_id: bytes) -> None:
        """Read the whole log once, cutting what is damaged and all after it. Call it in a thread.

        Raises ConfigError when the file belongs to another run.
        """
        self._positions: dict[bytes, int] = {}
        self._lock = Lock()
        self._journal = Journal.open(disk, path, "chain", run_id, self._restore)
        self.cut_bytes = self._journal.cut_bytes

    def __len__(self) -> int:
        return len(self._positions)

    def __contains__(self, record: object) -> bool:
        return record in self._positions

    def append(self, entry: ChainEntry) -> None:
        """Keep a record; one that is there already is not written twice. Durable after `sync`."""
        with self._lock:
            if entry.record not in self._positions:
                self._positions[entry.record] = self._journal.append(_encode(entry))

    def sync(self) -> None:
        """Return when every record is on the device (fsync). Call it in a thread."""
        self._journal.sync()

    def get(self, record: bytes) -> ChainEntry | None:
        """The entry of `record`; None when it is not held, or damaged by now. Reads disk."""
        position = self._positions.get(record)
        payload = None if position is None else self._journal.read(position)
        return None if payload is None else _decode(payload)

    def entries(self) -> Iterator[ChainEntry]:
        """Every record, oldest first, one in memory at a time. Reads disk."""
        for record in list(self._positions):
            entry = self.get(record)
            if entry is not None:
                yield entry

    def close(self) -> None:
        """Give the file back."""
        self._journal.close()

    def _restore(self, position: int, payload: bytes) -> None:
        self._positions.setdefault(payload[:HASH_BYTES], position)


def _encode(entry: ChainEntry) -> bytes:
    round_ = entry.round.to_bytes(_ROUND_BYTES, "big", signed=True)
    return entry.record + entry.parent + round_ + entry.raw


def _decode(payload: bytes) -> ChainEntry:
    record, rest = payload[:HASH_BYTES], payload[HASH_BYTES:]
    parent, rest = rest[:HASH_BYTES], rest[HASH_BYTES:]
    round_ = int.from_bytes(rest[:_ROUND_BYTES], "big", signed=True)
    return ChainEntry(record, parent, round_, rest[_ROUND_BYTES:])
