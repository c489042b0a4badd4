"""Where peers were last reached, so that a restarted node needs no bootstrap peer."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Final

from demo_node.store.atomic import write_atomic
from demo_node.store.disk import Disk
from demo_protocol.errors import ConfigError
from demo_protocol.limits import ADDRESS_BYTES_MAX

KNOWN_MAX: Final = 256
"""Far more than a node dials; the longest unseen go first."""

PER_PEER_MAX: Final = 4
"""A peer whose port changes at each start leaves dead addresses behind."""

LISTENING_MAX: Final = 8
"""Addresses of our own; an operator has one or two."""

PORT_MAX: Final = 65_535

_Content = tuple[dict[str, int], tuple[str, ...], int]


class AddressBook:
    """Known peers' multiaddrs with the time each was last seen, in milliseconds since 1970.

    `listening` is where this node itself was reached last, with a port that it chose itself: others
    have it in their books and in the line they paste, so it is the one to take again. So is
    `metrics_port`, which a Prometheus knows; 0 where none was chosen. The file is a convenience:
    one that cannot be read counts as empty.
    """

    def __init__(self, disk: Disk, path: Path) -> None:
        """Read what was saved."""
        self._disk = disk
        self._path = path
        raw = disk.read(path) if path.name in disk.names(path.parent) else b""
        self._seen_ms, self.listening, self.metrics_port = _decode(raw)
        self._saved = self._copy()

    def __contains__(self, address: object) -> bool:
        return address in self._seen_ms

    @property
    def has_new(self) -> bool:
        """Is there an address that the file lacks? Times alone are less urgent."""
        seen_ms, *ports = self._saved
        is_new = not self._seen_ms.keys() <= seen_ms.keys()
        return is_new or ports != [self.listening, self.metrics_port]

    def add(self, address: str, seen_ms: int) -> None:
        """Remember that a peer was reached there. An address of absurd length is ignored."""
        if 0 < len(address.encode()) <= ADDRESS_BYTES_MAX and address.isprintable():
            self._seen_ms[address] = max(seen_ms, self._seen_ms.get(address, 0))
            peer = _peer_of(address)
            others = [a for a in self.newest() if _peer_of(a) == peer]
            for oldest in {*others[PER_PEER_MAX:], *self.newest()[KNOWN_MAX:]}:
                del self._seen_ms[oldest]

    def remove(self, address: str) -> None:
        """Forget an address; an unknown one is fine."""
        self._seen_ms.pop(address, None)

    def newest(self) -> list[str]:
        """All addresses, the most recently seen first."""
        return sorted(self._seen_ms, key=lambda address: (-self._seen_ms[address], address))

    def save(self) -> None:
        """Write the file if anything changed (fsyncs); where the disk takes it not, next time."""
        current = self._copy()
        if current != self._saved:
            with suppress(ConfigError):
                write_atomic(self._disk, self._path, _encode(*current))
                self._saved = current

    def _copy(self) -> _Content:
        return dict(self._seen_ms), self.listening, self.metrics_port


def _peer_of(address: str) -> str:
    return address.rpartition("/")[2]


def _encode(seen_ms: dict[str, int], listening: tuple[str, ...], metrics_port: int) -> bytes:
    peers = [{"address": address, "seen_ms": seen_ms[address]} for address in sorted(seen_ms)]
    ports = {"listening": list(listening), "metrics_port": metrics_port}
    return json.dumps({"schema": 1, **ports, "peers": peers}, indent=1).encode() + b"\n"


def _decode(raw: bytes) -> _Content:
    try:
        tree = json.loads(raw)
    except (ValueError, RecursionError):
        return {}, (), 0
    if not isinstance(tree, dict):
        return {}, (), 0
    listening = _decode_listening(tree.get("listening"))
    return _decode_peers(tree.get("peers")), listening, _decode_port(tree.get("metrics_port"))


def _decode_port(port: object) -> int:
    return port if type(port) is int and 0 < port <= PORT_MAX else 0


def _decode_listening(texts: object) -> tuple[str, ...]:
    items = texts if isinstance(texts, list) else []
    return tuple(text for text in items if isinstance(text, str))[:LISTENING_MAX]


def _decode_peers(peers: object) -> dict[str, int]:
    found: dict[str, int] = {}
    for entry in (peers if isinstance(peers, list) else [])[:KNOWN_MAX]:
        match entry:
            case {"address": str() as address, "seen_ms": int() as seen_ms}:
                found[address] = seen_ms
            case _:
                pass
    return found
