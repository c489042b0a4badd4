"""What came before our first record, learned from a peer (rules 18 and 25).

A chain that begins at a snapshot cannot tell how records are related to it that part from it below
its beginning. So a joiner asks for the chain's state at an older record, and for all records from
there on: if they lead to the very state that its chain began with, its chain begins there from then
on. While records become final these are few; while none does, as on the sides of a cut, they are
those since the sides parted.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from demo_node.ports import Blob, BlobRequest, Clock, RoundStore
from demo_node.pull import Puller
from demo_node.round import RoundDriver
from demo_node.verifying import Verifier
from demo_protocol.answers import (
    decode_chain_state,
    decode_links,
    decode_records,
    encode_bundle,
)
from demo_protocol.chain import make_bundle
from demo_protocol.errors import Ignore, Reject
from demo_protocol.events import Bundle, RecordsFetched
from demo_protocol.limits import (
    CHAIN_STATE_BYTES_MAX,
    DIGEST_BYTES,
    RECORDS_PER_REPLY_MAX,
    RECORDS_REPLY_BYTES_MAX,
)
from demo_protocol.recording import on_records
from demo_protocol.roster import ChainState
from demo_protocol.view import View

FETCH_S = 300.0
"""For what any holder shows, all of them together: hundreds of records over a slow line."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What a peer says the chain was at an older record, and all records after that, in order."""

    holder: bytes
    older: ChainState
    bundles: Sequence[Bundle]


class Deepening:
    """Lets the chain of a joiner begin further back, once a peer has shown what came before."""

    def __init__(
        self, driver: RoundDriver, puller: Puller, store: RoundStore, clock: Clock, check: Verifier
    ) -> None:
        self._driver = driver
        self._puller = puller
        self._store = store
        self._clock = clock
        self._check = check

    async def run(self) -> None:
        """Try once a round for as long as it is wanted, for ever: a chain may begin anew."""
        view = self._driver.view
        round_ms = view.manifest.schedule.round_ms
        while True:
            if view.may_lack_forks:
                await self._try()
            await self._clock.sleep_until_ms(self._clock.now_ms() + round_ms)

    async def _try(self) -> None:
        view = self._driver.view
        first = view.chain.root
        holders = self._puller.holders()
        while holders:
            given = await self._puller.first_given(
                holders, lambda holder: self._ask(holder, first), FETCH_S
            )
            if given is None:
                return
            deeper = await self._replay(given)
            record = deeper.chain.records.get(first.record)
            if record is None or record.state != first:
                holders.remove(given.holder)
                continue
            await self._keep(deeper)
            if view.chain.root.record == first.record:
                self._driver.deepen(deeper)
            return

    async def _ask(self, holder: bytes, first: ChainState) -> Shown | None:
        older = await self._ask_state(holder, first)
        bundles = await self._ask_records(holder, first, older) if older else None
        return None if older is None or bundles is None else Shown(holder, older, bundles)

    async def _ask_state(self, holder: bytes, first: ChainState) -> ChainState | None:
        """What the chain says at a record that the peer goes back to, if that is an older one."""
        request = BlobRequest(Blob.CHAIN_STATE, first.record)
        raw = await self._puller.ask(holder, request, CHAIN_STATE_BYTES_MAX)
        try:
            state = await asyncio.to_thread(decode_chain_state, raw) if raw else None
        except Reject:
            return None
        return state if state is not None and state.height < first.height else None

    async def _ask_records(
        self, holder: bytes, first: ChainState, older: ChainState
    ) -> Sequence[Bundle] | None:
        """All records after `older` up to `first`, oldest first; None where some are missing."""
        agreement = self._driver.view.manifest.agreement
        wanted = first.height - older.height
        if wanted > max(agreement.forget_rounds, agreement.payload_window_rounds) + 1:
            return None
        found: list[Bundle] = []
        name = first.record
        while len(found) < wanted:
            request = BlobRequest(Blob.RECORDS, name, RECORDS_PER_REPLY_MAX)
            raw = await self._puller.ask(holder, request, RECORDS_REPLY_BYTES_MAX)
            try:
                bundles = decode_records(raw or b"")
                links = decode_links(bundles, self._driver.view.run_id, name)
            except Reject:
                return None
            if not links:
                return None
            found += reversed(bundles)
            name = links[-1].parent
        return found[wanted - 1 :: -1]

    async def _replay(self, shown: Shown) -> View:
        """Those records on a chain of their own, as far as they are valid."""
        view = self._driver.view
        deeper = View(
            manifest=view.manifest,
            me=view.me,
            sign=view.sign,
            verify=view.verify,
            root=shown.older,
            digest=bytes(DIGEST_BYTES),
        )
        for bundle in shown.bundles:
            await self._check.prepare(bundle.headers)
            with contextlib.suppress(Ignore, Reject):
                on_records(deeper, RecordsFetched(self._clock.now_ms(), (bundle,), shown.holder))
            await asyncio.sleep(0)
        return deeper

    async def _keep(self, deeper: View) -> None:
        """In our log, for the next start and for others."""
        for record in list(deeper.chain.records.values()):
            if record.proposal is not None:
                raw = encode_bundle(make_bundle(record))
                await self._store.keep_record(record.hash, record.parent, record.round, raw)
