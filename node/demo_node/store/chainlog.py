"""Records with their headers, in the order in which this node learned of them.

The records stay on disk; in memory are one position and one round for each.
"""

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Final

from demo_node.store.disk import Disk
from demo_node.store.frames import Damage, compute_file_header, scan_file
from demo_node.store.journal import Journal
from demo_protocol.limits import HASH_BYTES

_PURPOSE: Final = "chain"
_ROUND_BYTES: Final = 8
_ROUND_AT: Final = 2 * HASH_BYTES


@dataclass(frozen=True, slots=True)
class ChainEntry:
    """One record: its hash, its parent's, its round, and a RecordBundle of wire.proto."""

    record: bytes
    parent: bytes
    round: int
    raw: bytes


class ChainLog:
    """All records this node keeps, forks included.

    `cut_bytes` of the file were damaged and set `aside` in another: those records are to be
    fetched again.
    """

    def __init__(self, disk: Disk, path: Path, run_id: bytes) -> None:
        """Read the whole log once, setting aside what is damaged. Call it in a thread.

        Raises ConfigError when the file belongs to another run.
        """
        self._positions: dict[bytes, int] = {}
        self._rounds = array("q")  # in the order of `_positions`
        self._lock = Lock()
        self._journal = Journal.open(disk, path, _PURPOSE, run_id, self._restore)
        self.cut_bytes, self.aside = self._journal.cut_bytes, self._journal.aside

    def __len__(self) -> int:
        return len(self._positions)

    def __contains__(self, record: object) -> bool:
        return record in self._positions

    def append(self, entry: ChainEntry) -> None:
        """Keep a record; one that is there already is not written twice. Durable after `sync`."""
        with self._lock:
            if entry.record not in self._positions:
                self._positions[entry.record] = self._journal.append(_encode(entry))
                self._rounds.append(entry.round)

    def sync(self) -> None:
        """Return when every record is on the device (fsync). Call it in a thread."""
        self._journal.sync()

    def get(self, record: bytes) -> ChainEntry | None:
        """The entry of `record`; None when it is not held, or damaged by now. Reads disk."""
        position = self._positions.get(record)
        payload = None if position is None else self._journal.read(position)
        return None if payload is None else decode_entry(payload)

    def entries(self, after_round: int | None = None) -> Iterator[ChainEntry]:
        """Records of rounds after `after_round`, by default all, oldest first. Reads disk.

        One is in memory at a time, and none that is not asked for is read.
        """
        with self._lock:
            held = list(zip(self._positions.values(), self._rounds, strict=True))
        for position, round_ in held:
            if after_round is None or round_ > after_round:
                payload = self._journal.read(position)
                if payload is not None:
                    yield decode_entry(payload)

    def close(self) -> None:
        """Give the file back."""
        self._journal.close()

    def _restore(self, position: int, payload: bytes) -> None:
        record = payload[:HASH_BYTES]
        if record not in self._positions:
            self._positions[record] = position
            self._rounds.append(_decode_round(payload))


def scan_chain_log(
    disk: Disk, path: Path, run_id: bytes, on_damage: Callable[[Damage], None]
) -> Iterator[tuple[int, ChainEntry]]:
    """(position, entry) of every intact record in the file, oldest first. Changes nothing.

    For tools that look at a folder whose node may be running: its unfinished write is damage at
    the very end. Raises FileNotFoundError; ConfigError when the file belongs to another run.
    """
    for found in scan_file(disk, path, compute_file_header(_PURPOSE, run_id)):
        if isinstance(found, Damage):
            on_damage(found)
        else:
            yield found.position, decode_entry(found.payload)


def _encode(entry: ChainEntry) -> bytes:
    round_ = entry.round.to_bytes(_ROUND_BYTES, "big", signed=True)
    return entry.record + entry.parent + round_ + entry.raw


def decode_entry(payload: bytes) -> ChainEntry:
    """What an entry of the file says, believed as it stands."""
    return ChainEntry(
        record=payload[:HASH_BYTES],
        parent=payload[HASH_BYTES:_ROUND_AT],
        round=_decode_round(payload),
        raw=payload[_ROUND_AT + _ROUND_BYTES :],
    )


def _decode_round(payload: bytes) -> int:
    return int.from_bytes(payload[_ROUND_AT : _ROUND_AT + _ROUND_BYTES], "big", signed=True)
