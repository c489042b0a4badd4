"""Payload bytes by hash, one file each, for as many rounds as the payload window has.

`payloads/<round>/<sha256>`. Writes are not synced: a payload lost in a power cut can be pulled
again, and one that changed on disk is dropped when it is next read.
"""

import hashlib
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Final

from demo_node.store.atomic import write_atomic
from demo_node.store.disk import Disk

MEMORY_BYTES: Final = 64 << 20
"""Recent payloads held in memory: most are read by several peers within one round."""

_NAME: Final = re.compile(r"[0-9a-f]{64}")
_ROUND: Final = re.compile(r"\d{1,18}")


class PayloadStore:
    """Payloads of the last rounds. Every method may be called from any thread.

    `budget_bytes` (0: none), less what is reserved for others, may be exceeded by what is still
    needed, and by one round's payloads.
    """

    def __init__(
        self,
        disk: Disk,
        folder: Path,
        *,
        memory_bytes: int = MEMORY_BYTES,
        budget_bytes: int = 0,
        reserved_bytes: Callable[[], int] = lambda: 0,
    ) -> None:
        """List what is held; reads no payload."""
        self._budget_bytes = budget_bytes
        self._reserved_bytes = reserved_bytes
        self._disk = disk
        self._folder = folder
        self._memory_bytes = memory_bytes
        self._lock = Lock()  # of the tables below
        self._writing = Lock()  # a folder must not go while a payload is written into it
        self._rounds: dict[bytes, int] = {}
        self._recent: OrderedDict[bytes, bytes] = OrderedDict()
        self._recent_bytes = 0
        self._sizes: dict[int, int] = {}  # bytes on disk by round
        for round_ in self._list_rounds():
            names = list(filter(_NAME.fullmatch, disk.names(folder / str(round_))))
            self._rounds.update((bytes.fromhex(name), round_) for name in names)
            self._sizes[round_] = sum(disk.size(folder / str(round_) / name) for name in names)

    def __contains__(self, payload_hash: object) -> bool:
        """Whether the payload was stored; `get` may still find it damaged. No I/O."""
        return payload_hash in self._rounds

    @property
    def held_bytes(self) -> int:
        """Bytes of all payloads on disk. No I/O."""
        with self._lock:
            return sum(self._sizes.values())

    @property
    def first_round(self) -> int | None:
        """The oldest round of which payloads are held; None where none are. No I/O."""
        with self._lock:
            return min((round_ for round_, size in self._sizes.items() if size), default=None)

    def put(self, round_: int, raw: bytes) -> bytes:
        """Keep a payload of `round_`; returns its SHA-256. Hashes and writes; does not sync.

        Raises ConfigError where the disk takes it not; in memory it is held all the same.
        """
        payload_hash = hashlib.sha256(raw).digest()
        try:
            with self._writing:
                if self._rounds.get(payload_hash, -1) < round_:
                    path = self._compute_path(round_, payload_hash)
                    self._disk.make_folder(path.parent)
                    write_atomic(self._disk, path, raw, durable=False)
                    with self._lock:
                        self._rounds[payload_hash] = round_
                        self._sizes[round_] = self._sizes.get(round_, 0) + len(raw)
        finally:
            self._keep_recent(payload_hash, raw)
        return payload_hash

    def get(self, payload_hash: bytes) -> bytes | None:
        """The payload with this hash, and no other bytes; None when lost, damaged or dropped."""
        with self._lock:
            raw = self._recent.get(payload_hash)
            if raw is not None:
                self._recent.move_to_end(payload_hash)
                return raw
            round_ = self._rounds.get(payload_hash)
        if round_ is None:
            return None
        path = self._compute_path(round_, payload_hash)
        try:
            raw = self._disk.read(path)
        except FileNotFoundError:
            raw = b""
        if hashlib.sha256(raw).digest() != payload_hash:
            self._disk.unlink(path)
            with self._lock:
                if self._rounds.pop(payload_hash, None) is not None:
                    self._sizes[round_] -= len(raw)
            return None
        self._keep_recent(payload_hash, raw)
        return raw

    def drop_before(self, round_: int, needed_from: int | None = None) -> int:
        """Forget the payloads of rounds before `round_`; returns the first round that is kept.

        That is a later round than `round_` where the budget asks for it, but never later than
        `needed_from`: what is still to be applied or sent is not dropped.
        """
        first = round_
        if self._budget_bytes and needed_from is not None:
            first = max(round_, self._find_first_affordable(round_, needed_from))
        with self._lock:
            gone = [h for h, held in self._rounds.items() if held < first]
            for payload_hash in gone:
                del self._rounds[payload_hash]
                self._recent_bytes -= len(self._recent.pop(payload_hash, b""))
        with self._writing:
            for old in self._list_rounds():
                if old < first:
                    folder = self._folder / str(old)
                    for name in self._disk.names(folder):
                        self._disk.unlink(folder / name)
                    self._disk.remove_folder(folder)
                    with self._lock:
                        self._sizes.pop(old, None)
        return first

    def _find_first_affordable(self, round_: int, needed_from: int) -> int:
        """The first round from which on all that is held is within the budget."""
        with self._lock:
            sizes = sorted(self._sizes.items())
        over = sum(size for _, size in sizes) - self._budget_bytes
        over += self._reserved_bytes()
        first = round_
        for held, size in sizes:
            if over <= 0 or held >= needed_from:
                break
            over -= size
            first = held + 1
        return first

    def _keep_recent(self, payload_hash: bytes, raw: bytes) -> None:
        with self._lock:
            if payload_hash in self._recent:
                return
            self._recent[payload_hash] = raw
            self._recent_bytes += len(raw)
            while self._recent_bytes > self._memory_bytes:
                _, oldest = self._recent.popitem(last=False)
                self._recent_bytes -= len(oldest)

    def _list_rounds(self) -> list[int]:
        return sorted(
            int(name) for name in self._disk.names(self._folder) if _ROUND.fullmatch(name)
        )

    def _compute_path(self, round_: int, payload_hash: bytes) -> Path:
        return self._folder / str(round_) / payload_hash.hex()
