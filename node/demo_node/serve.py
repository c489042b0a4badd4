"""Answers to what peers pull from this node (the blob protocol)."""

from collections.abc import Callable

from demo_node.ports import Archive, Blob, BlobRequest, RoundStore
from demo_protocol.answers import (
    HeadAnswer,
    encode_bundle,
    encode_head,
    encode_peers,
    encode_records,
    encode_time,
)
from demo_protocol.limits import (
    RECORDS_PER_REPLY_MAX,
    RECORDS_REPLY_BYTES_MAX,
)
from demo_protocol.manifest import encode_manifest
from demo_protocol.round import Round, make_bundle


class Server:
    """Gives what this node holds. It never computes: an answer costs a look-up and a read."""

    def __init__(
        self,
        machine: Round,
        store: RoundStore,
        archive: Archive,
        raw_now_ms: Callable[[], int],
    ) -> None:
        """`raw_now_ms`: the machine's clock, uncorrected (rule 3)."""
        self._machine = machine
        self._raw_now_ms = raw_now_ms
        self._view = view = machine.view
        self._store = store
        self._archive = archive
        self._manifest = encode_manifest(view.manifest)

    async def answer(self, asking: bytes, request: BlobRequest) -> bytes | None:
        """The bytes asked for, or None where they are not held here."""
        match request.kind:
            case Blob.MANIFEST:
                return self._manifest
            case Blob.PAYLOAD:
                return await self._store.read_payload(request.key)
            case Blob.HEADER:
                header = self._view.pool.headers.get(request.key)
                return header.raw if header else None
            case Blob.RECORDS:
                return await self._records(request)
            case Blob.HEAD:
                return self._head()
            case Blob.SNAPSHOT:
                return await self._archive.read_snapshot(request.key)
            case Blob.CORPUS_BLOCK:
                return await self._archive.read_corpus(request.key)
            case Blob.PEERS:
                return encode_peers(self._archive.addresses())
            case Blob.TIME:
                return encode_time(self._raw_now_ms())

    def _head(self) -> bytes:
        snapshot = self._archive.newest_snapshot()
        return encode_head(
            HeadAnswer(
                head=self._view.head,
                round=self._view.head_state.round,
                snapshot_record=snapshot.record if snapshot else b"",
                snapshot_hash=snapshot.hash if snapshot else b"",
                snapshot_bytes=snapshot.size if snapshot else 0,
                height=self._view.head_state.height,
                syncing=self._machine.syncing,
            )
        )

    async def _records(self, request: BlobRequest) -> bytes | None:
        """The record named and its ancestors, oldest first, as many as an answer may hold."""
        limit = min(max(request.limit, 1), RECORDS_PER_REPLY_MAX)
        found: list[bytes] = []
        size, name = 0, request.key
        while len(found) < limit:
            raw, parent = await self._record(name)
            if raw is None or size + len(raw) > RECORDS_REPLY_BYTES_MAX:
                break
            found.append(raw)
            size += len(raw) + 8
            name = parent
        return encode_records(reversed(found)) if found else None

    async def _record(self, name: bytes) -> tuple[bytes | None, bytes]:
        """A record's bundle and its parent, from memory or from the log."""
        if name in self._view.chain:
            record = self._view.chain[name]
            if record.proposal is not None:
                return encode_bundle(make_bundle(record)), record.parent
        return await self._store.read_record(name)
