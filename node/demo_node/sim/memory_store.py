"""A store that forgets at the end of the process: what a round writes down, in dictionaries."""

import hashlib

from demo_protocol.errors import LocalFault


class MemoryStore:
    """Implements ports.RoundStore."""

    def __init__(self) -> None:
        self.signed: dict[tuple[str, int], bytes] = {}
        self.records: dict[bytes, tuple[bytes, bytes]] = {}
        self.payloads: dict[bytes, tuple[int, bytes]] = {}

    async def persist_signed(self, kind: str, round_: int, hash_: bytes, raw: bytes) -> None:
        """Rule 10."""
        if self.signed.setdefault((kind, round_), raw) != raw:
            raise LocalFault(f"a second {kind} was signed for round {round_}")

    def newest_signed(self, kind: str) -> int:
        """Newest round something of this kind was signed for; -1 before the first."""
        return max((round_ for k, round_ in self.signed if k == kind), default=-1)

    async def keep_record(self, record: bytes, parent: bytes, round_: int, bundle: bytes) -> None:
        """Keep a record's bundle."""
        self.records[record] = (bundle, parent)

    async def read_record(self, record: bytes) -> tuple[bytes | None, bytes]:
        """A record's bundle and its parent."""
        return self.records.get(record, (None, b""))

    async def keep_payload(self, round_: int, payload_hash: bytes, raw: bytes) -> None:
        """Keep a payload."""
        self.payloads[payload_hash] = (round_, raw)

    async def read_payload(self, payload_hash: bytes) -> bytes | None:
        """A payload whose hash still matches."""
        _round, raw = self.payloads.get(payload_hash, (0, None))
        if raw is None or hashlib.sha256(raw).digest() != payload_hash:
            return None
        return raw

    async def forget_payloads_before(self, round_: int) -> None:
        """Drop the payloads of older rounds."""
        self.payloads = {h: entry for h, entry in self.payloads.items() if entry[0] >= round_}
