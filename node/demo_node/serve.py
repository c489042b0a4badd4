"""Answers to what peers pull from this node (the blob protocol)."""

import asyncio
from collections.abc import Awaitable, Callable, Set
from dataclasses import replace

from demo_node.arrivals import Arrivals
from demo_node.copies import Copies
from demo_node.giving import Giving, OnGiven
from demo_node.ports import Archive, Blob, BlobRequest, RoundStore
from demo_node.sparing import Sparing
from demo_node.tensors import TensorDigests
from demo_protocol.answers import (
    HeadAnswer,
    encode_bundle,
    encode_chain_state,
    encode_head,
    encode_peers,
    encode_records,
    encode_time,
)
from demo_protocol.chain import make_bundle
from demo_protocol.errors import Reject
from demo_protocol.joining import choose_offer
from demo_protocol.limits import (
    RECORDS_PER_REPLY_MAX,
    RECORDS_REPLY_BYTES_MAX,
)
from demo_protocol.manifest import Manifest, compute_run_id, encode_manifest
from demo_protocol.networks import is_for
from demo_protocol.reconcile import compare
from demo_protocol.roster import ChainState
from demo_protocol.round import Round
from demo_protocol.sets import (
    decode_header_names,
    decode_summary,
    encode_difference,
    encode_headers,
)
from demo_protocol.view import View

DialBackAnswer = Callable[[bytes, bytes], Awaitable[bytes | None]]
"""(asking peer, key of its request) -> the reply to REACH."""


class Server:
    """Gives what this node holds. It hardly computes: an answer costs a look-up and a read.

    Before `open` it has no chain yet, but can point a joiner on: manifest, corpus, addresses.
    """

    def __init__(
        self,
        manifest: Manifest,
        archive: Archive,
        raw_now_ms: Callable[[], int],
        find_address: Callable[[bytes], str],
        dial_back: DialBackAnswer | None = None,
    ) -> None:
        """`raw_now_ms`: the machine's clock, uncorrected (rule 3).

        `find_address`: where a peer is seen; empty for one that is not connected any more.
        `dial_back`: what answers REACH; without it that is not held.
        """
        self._manifest = manifest
        self._archive = archive
        self._raw_now_ms = raw_now_ms
        self._find_address = find_address
        self._dial_back = dial_back
        self.sparing: Sparing | None = None
        """What a metered node leaves to others; None: nothing."""
        self._machine: Round | None = None
        self._store: RoundStore | None = None
        self._tensors: TensorDigests | None = None
        self._oldest: tuple[bytes, asyncio.Future[bytes]] | None = None
        self._unwritten: Set[bytes] = frozenset()
        self._giving: Giving | None = None

    def open(
        self,
        machine: Round,
        store: RoundStore,
        tensors: TensorDigests,
        unwritten: Set[bytes],
        arrivals: Arrivals,
        copies: Copies,
        on_given: OnGiven,
    ) -> None:
        """From now on there is a chain to answer from. `on_given` hears of every payload given.

        Messages named in `unwritten` are ours and not on the disk yet: nobody is given one, or
        told of it (rule 10). What the set holds may change.
        """
        self._machine, self._store, self._tensors = machine, store, tensors
        self._unwritten = unwritten
        self._giving = Giving(store.read_payload, arrivals, copies, on_given)

    def close(self) -> None:
        """The chain is not ours to answer from any more."""
        self._machine = self._store = self._tensors = self._oldest = self._giving = None

    async def answer(self, asking: bytes, request: BlobRequest) -> bytes | None:
        """The bytes asked for, or None where they are not held here, or left to others.

        Raises Busy where others should be asked first.
        """
        if self.sparing is not None and self.sparing.refuses(asking, request):
            return None
        match request.kind:
            case Blob.MANIFEST:
                return encode_manifest(self._manifest)
            case Blob.PAYLOAD:
                return await self._giving.answer(asking, request) if self._giving else None
            case Blob.HEADERS:
                return self._headers(request.key)
            case Blob.PROPOSAL:
                return self._proposal(request.key)
            case Blob.RECORDS:
                return await self._records(request)
            case Blob.HEAD:
                return encode_head(self._head(asking))
            case Blob.INITIAL:
                return await self._archive.read_initial(request.key)
            case Blob.STATE_LEAVES:
                return await self._archive.read_state_leaves(request.key)
            case Blob.STATE_CHUNK:
                return await self._archive.read_state_chunk(request.key)
            case Blob.CORPUS_BLOCK:
                return await self._archive.read_corpus(request.key)
            case Blob.PEERS:
                seen_at = self._find_address(asking)
                return encode_peers([a for a in self._archive.addresses() if is_for(a, seen_at)])
            case Blob.TIME:
                return encode_time(self._raw_now_ms())
            case Blob.SETS:
                return self._difference(request.key)
            case Blob.TENSORS:
                return await self._tensor_digests(request.key)
            case Blob.CHAIN_STATE:
                return await self._oldest_state(request.key)
            case Blob.REACH:
                return await self._dial_back(asking, request.key) if self._dial_back else None

    def on_answered(self, asking: bytes, request: BlobRequest, size: int) -> None:
        """So many bytes of an answer begin to leave; 0: whoever asked has called it off."""
        if request.kind is Blob.PAYLOAD and self._giving is not None:
            self._giving.on_answered(asking, request, size)

    def _headers(self, key: bytes) -> bytes | None:
        """Those held of the headers that are asked for."""
        if self._machine is None:
            return None
        headers = self._machine.view.pool.headers
        try:
            names = [name for name in decode_header_names(key) if name not in self._unwritten]
        except Reject:
            return None
        raws = [headers[name].raw for name in names if name in headers]
        return encode_headers(raws) if raws else None

    def _proposal(self, name: bytes) -> bytes | None:
        if self._machine is None or name in self._unwritten:
            return None
        return self._machine.view.find_proposal(name)

    async def _tensor_digests(self, record: bytes) -> bytes | None:
        """Of a state that is held now (rule 20); the trainer looks at each once."""
        if self._machine is None or self._tensors is None:
            return None
        is_held = record in self._machine.replica.states
        return await self._tensors.get(record) if is_held else None

    async def _oldest_state(self, record: bytes) -> bytes | None:
        """What the chain says where forks may still matter, to whose chain begins at `record`.

        Megabytes where many peers are known: encoded once, off the loop, until it begins elsewhere.
        """
        view = self._machine.view if self._machine else None
        if view is None or record not in view.chain:
            return None
        root = view.chain.root
        if self._oldest is None or self._oldest[0] != root.record:
            encoding = asyncio.to_thread(encode_chain_state, root)
            self._oldest = root.record, asyncio.ensure_future(encoding)
        return await asyncio.shield(self._oldest[1])  # others wait for the same

    def _difference(self, key: bytes) -> bytes | None:
        """Rule 23: what we know and whoever asks may not."""
        if self._machine is None:
            return None
        try:
            found = compare(self._machine.view, decode_summary(key))
        except Reject:
            return None
        stand, unwritten = self._stand(self._machine.view), self._unwritten
        return encode_difference(
            replace(
                found,
                head=stand.record,
                round=max(stand.round, 0),
                headers=tuple(name for name in found.headers if name not in unwritten),
                records=tuple(name for name in found.records if name not in unwritten),
            )
        )

    def _stand(self, view: View) -> ChainState:
        """Our head, or what is below it that may be given."""
        steps = view.chain.ancestors(view.head)
        return next((s.state for s in steps if s.hash not in self._unwritten), view.chain.root)

    def _head(self, asking: bytes) -> HeadAnswer:
        """Where we stand; before there is a chain, at the genesis."""
        view = self._machine.view if self._machine else None
        is_spared = self.sparing is not None and self.sparing.hides_snapshot(asking)
        offered = choose_offer(view, self._archive.snapshots()) if view and not is_spared else None
        snapshot_record, snapshot_root = offered or (b"", b"")
        state = self._stand(view) if view else None
        first = self._store.payloads_from if self._store else None
        return HeadAnswer(
            head=state.record if state else compute_run_id(self._manifest),
            round=state.round if state else 0,
            snapshot_record=snapshot_record,
            height=state.height if state else 0,
            syncing=self._machine is None or self._machine.syncing,
            snapshot_root=snapshot_root,
            final=view.final.record if view and view.final else b"",
            payloads_from=0 if state is None else state.round + 1 if first is None else first,
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
        await asyncio.sleep(0)  # both halves take milliseconds where members are many
        return encode_records(reversed(found)) if found else None

    async def _record(self, name: bytes) -> tuple[bytes | None, bytes]:
        """A record's bundle and its parent, from memory or from the log.

        A header of ours that is not written yet can only be in a record of ours that is not
        either: nobody else has it, and the proposal is written after it.
        """
        if self._machine is None or self._store is None or name in self._unwritten:
            return None, b""
        chain = self._machine.view.chain
        if name in chain:
            record = chain[name]
            if record.proposal is not None:
                return encode_bundle(make_bundle(record)), record.parent
        return await self._store.read_record(name)
