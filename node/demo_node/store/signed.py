"""What this node has signed, on disk before it is sent (rule 10).

After a restart a node says the same bytes again for a round, or nothing: without this file a crash
between two messages would make it an equivocator.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Lock
from typing import Final

from demo_node.store.disk import Disk
from demo_node.store.frames import Damage, compute_file_header, scan_file
from demo_node.store.journal import Journal
from demo_protocol.errors import LocalFault

KEPT_ROUNDS: Final = 64
"""No peer takes a message that old: late_rounds is at most 64."""

_STALE_MAX: Final = 256
"""Old entries in the file before it is rewritten without them."""

_PURPOSE: Final = "signed"
_ROUND_BYTES: Final = 8

_FLOOR: Final = ""
"""Kind of the entry that says up to which round messages were forgotten."""


class SignedLog:
    """Remembers what was signed, by kind and round.

    `cut_bytes` of the file were damaged and set `aside` in another when it was opened.
    """

    def __init__(self, disk: Disk, path: Path, run_id: bytes, round_: int) -> None:
        """Read the log. May fsync. Raises ConfigError for another run's.

        `round_` is the last that something may have been signed for: the present one. A damaged
        log may have forgotten; then nothing more is signed up to that round, by this process or
        the next.
        """
        self.floor = -1
        self._held: dict[tuple[str, int], bytes] = {}
        self._newest = -1
        self._stale = 0
        self._lock = Lock()
        forgotten = _encode(_FLOOR, round_, b"")
        self._journal = Journal.open(
            disk, path, _PURPOSE, run_id, self._restore, after_damage=[forgotten]
        )
        self.cut_bytes, self.aside = self._journal.cut_bytes, self._journal.aside

    def get(self, kind: str, round_: int) -> bytes | None:
        """What was signed, exactly as it was sent; None when nothing was. No I/O."""
        return self._held.get((kind, round_))

    def list_kind(self, kind: str) -> tuple[int, list[bytes]]:
        """What was signed after a round, by rounds, and that round: `floor`. No I/O."""
        with self._lock:
            rounds = sorted(round_ for held, round_ in self._held if held == kind)
            since = [self._held[kind, round_] for round_ in rounds if round_ > self.floor]
            return self.floor, since

    def newest(self, kind: str) -> int:
        """The last round for which `kind` was signed, or may have been; -1 for none."""
        return max([self.floor, *(round_ for held, round_ in self._held if held == kind)])

    def forget_until(self, round_: int) -> None:
        """Sign nothing for rounds up to `round_`: something may have been (fsync)."""
        with self._lock:
            self._journal.append(_encode(_FLOOR, round_, b""))
            self._journal.sync()
            self.floor = max(self.floor, round_)

    @property
    def is_empty(self) -> bool:
        """Was nothing ever signed, as far as this file knows?"""
        return self.floor < 0 and not self._held

    def put(self, kind: str, round_: int, raw: bytes) -> None:
        """Return when `raw` is on the device (fsync): only then send it. Call it in a thread.

        Raises LocalFault when something else was signed for this kind and round, or may have been:
        rounds up to `floor` were forgotten.
        """
        with self._lock:
            known = self._held.get((kind, round_))
            if known == raw:
                self._journal.sync()  # a killed process may have left it with the system only
                return
            if known is not None or round_ <= self.floor:
                raise LocalFault(f"a second {kind} for round {round_} was about to be signed")
            self._journal.append(_encode(kind, round_, raw))
            self._journal.sync()
            self._remember(kind, round_, raw)
            if self._stale >= _STALE_MAX:
                self._compact()

    def close(self) -> None:
        """Give the file back."""
        self._journal.close()

    def _restore(self, position: int, payload: bytes) -> None:
        kind, round_, raw = _decode(payload)
        if kind == _FLOOR:
            self.floor = max(self.floor, round_)
        else:
            # Two for one round: the first could not be synced, so it was never sent.
            self._remember(kind, round_, raw)

    def _remember(self, kind: str, round_: int, raw: bytes) -> None:
        self._held[kind, round_] = raw
        self._newest = max(self._newest, round_)
        self._stale = sum(r <= self._newest - KEPT_ROUNDS for _, r in self._held)

    def _compact(self) -> None:
        oldest = self._newest - KEPT_ROUNDS + 1
        self.floor = max([self.floor, *(r for _, r in self._held if r < oldest)])
        self._held = {key: raw for key, raw in self._held.items() if key[1] >= oldest}
        self._stale = 0
        self._journal.rewrite(self._entries())

    def _entries(self) -> Iterator[bytes]:
        yield _encode(_FLOOR, self.floor, b"")
        for (kind, round_), raw in self._held.items():
            yield _encode(kind, round_, raw)


def scan_signed_log(
    disk: Disk, path: Path, run_id: bytes, on_damage: Callable[[Damage], None]
) -> Iterator[tuple[str, int, bytes]]:
    """(kind, round, message) of every intact entry in the file, oldest first. Changes nothing.

    See `chainlog.scan_chain_log`.
    """
    for found in scan_file(disk, path, compute_file_header(_PURPOSE, run_id)):
        if isinstance(found, Damage):
            on_damage(found)
            continue
        kind, round_, raw = _decode(found.payload)
        if kind != _FLOOR:
            yield kind, round_, raw


def _encode(kind: str, round_: int, raw: bytes) -> bytes:
    name = kind.encode()
    return bytes([len(name)]) + name + round_.to_bytes(_ROUND_BYTES, "big", signed=True) + raw


def _decode(payload: bytes) -> tuple[str, int, bytes]:
    start = 1 + payload[0]
    round_ = int.from_bytes(payload[start : start + _ROUND_BYTES], "big", signed=True)
    return payload[1:start].decode(), round_, payload[start + _ROUND_BYTES :]
