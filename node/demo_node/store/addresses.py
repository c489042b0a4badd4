"""Where peers were last reached, so that a restarted node needs no bootstrap peer."""

import json
from pathlib import Path
from typing import Final

from demo_node.store.atomic import write_atomic
from demo_node.store.disk import Disk
from demo_protocol.limits import ADDRESS_BYTES_MAX

KNOWN_MAX: Final = 256
"""Far more than a node dials; the longest unseen go first."""


class AddressBook:
    """Known peers' multiaddrs with the time each was last seen, in milliseconds since 1970.

    The file is a convenience: one that cannot be read counts as empty.
    """

    def __init__(self, disk: Disk, path: Path) -> None:
        """Read what was saved."""
        self._disk = disk
        self._path = path
        self._seen_ms = _decode(disk.read(path)) if path.name in disk.names(path.parent) else {}
        self._saved = dict(self._seen_ms)

    def add(self, address: str, seen_ms: int) -> None:
        """Remember that a peer was reached there. An address of absurd length is ignored."""
        if 0 < len(address.encode()) <= ADDRESS_BYTES_MAX and address.isprintable():
            self._seen_ms[address] = max(seen_ms, self._seen_ms.get(address, 0))
            for oldest in self.newest()[KNOWN_MAX:]:
                del self._seen_ms[oldest]

    def remove(self, address: str) -> None:
        """Forget an address; an unknown one is fine."""
        self._seen_ms.pop(address, None)

    def newest(self) -> list[str]:
        """All addresses, the most recently seen first."""
        return sorted(self._seen_ms, key=lambda address: (-self._seen_ms[address], address))

    def save(self) -> None:
        """Write the file if anything changed (fsyncs)."""
        current = dict(self._seen_ms)
        if current != self._saved:
            write_atomic(self._disk, self._path, _encode(current))
            self._saved = current


def _encode(seen_ms: dict[str, int]) -> bytes:
    peers = [{"address": address, "seen_ms": seen_ms[address]} for address in sorted(seen_ms)]
    return json.dumps({"schema": 1, "peers": peers}, indent=1).encode() + b"\n"


def _decode(raw: bytes) -> dict[str, int]:
    try:
        tree = json.loads(raw)
    except (ValueError, RecursionError):
        return {}
    peers = tree.get("peers") if isinstance(tree, dict) else None
    found: dict[str, int] = {}
    for entry in (peers if isinstance(peers, list) else [])[:KNOWN_MAX]:
        match entry:
            case {"address": str() as address, "seen_ms": int() as seen_ms}:
                found[address] = seen_ms
            case _:
                pass
    return found
