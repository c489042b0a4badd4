"""What a round writes down and looks up: `ports.RoundStore` over the files of a data folder."""

import asyncio

from demo_node.store.chainlog import ChainEntry, ChainLog
from demo_node.store.payloads import PayloadStore
from demo_node.store.signed import SignedLog


class FileRoundStore:
    """Implements `ports.RoundStore`; everything that touches the disk runs in a thread."""

    def __init__(
        self, signed: SignedLog, chain: ChainLog, payloads: PayloadStore, *, keeps_all: bool = False
    ) -> None:
        """One that `keeps_all` drops payloads for want of room only, never for their age."""
        self._keeps_all = keeps_all
        self._signed = signed
        self._chain = chain
        self._payloads = payloads

    async def persist_signed(self, kind: str, round_: int, hash_: bytes, raw: bytes) -> None:
        """Durable when it returns (rule 10). Raises LocalFault where other bytes are there.

        The bytes themselves are kept, so the hash says nothing more.
        """
        await asyncio.to_thread(self._signed.put, kind, round_, raw)

    def list_signed(self, kind: str) -> tuple[int, list[bytes]]:
        """See `ports.RoundStore`."""
        return self._signed.list_kind(kind)

    async def keep_record(self, record: bytes, parent: bytes, round_: int, bundle: bytes) -> None:
        """Durable when it returns."""
        entry = ChainEntry(record, parent, round_, bundle)
        await asyncio.to_thread(self._chain.append, entry)
        await asyncio.to_thread(self._chain.sync)

    async def read_record(self, record: bytes) -> tuple[bytes | None, bytes]:
        """(RecordBundle, parent), or (None, b"") where the log lacks it."""
        entry = await asyncio.to_thread(self._chain.get, record)
        return (entry.raw, entry.parent) if entry else (None, b"")

    async def keep_payload(self, round_: int, payload_hash: bytes, raw: bytes) -> None:
        """Keep a payload under its own hash, whatever the caller says it is."""
        await asyncio.to_thread(self._payloads.put, round_, raw)

    async def read_payload(self, payload_hash: bytes) -> bytes | None:
        """The payload, or None when it is not held or changed on disk."""
        return await asyncio.to_thread(self._payloads.get, payload_hash)

    async def forget_payloads_before(self, round_: int, needed_from: int) -> int:
        """Drop older rounds, and where the disk budget asks for it those before `needed_from`."""
        oldest = 0 if self._keeps_all else round_
        return await asyncio.to_thread(self._payloads.drop_before, oldest, needed_from)

    @property
    def payloads_from(self) -> int | None:
        """First round of which there are payloads; None where there are none at all."""
        return self._payloads.first_round

    @property
    def payload_bytes(self) -> int:
        """Bytes of all payloads on disk."""
        return self._payloads.held_bytes

    def close(self) -> None:
        """Give the files back."""
        self._signed.close()
        self._chain.close()
