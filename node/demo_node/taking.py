"""Taking a state from peers by the root that a record carries (rule 21).

What the chain says there comes first, since it tells who the voters are; the parameters, which are
long, may come while the node already follows the run.
"""

import asyncio
from collections.abc import Callable, Sequence

from demo_node.believing import Say
from demo_node.ports import Blob, BlobRequest, Learner
from demo_node.pull import Puller
from demo_node.snapshot_fetching import FetchedState, SnapshotFetcher
from demo_node.store.snapshot_info import SnapshotInfo
from demo_node.store.snapshots import Snapshot, SnapshotStore
from demo_protocol.answers import decode_chain_state, encode_chain_state
from demo_protocol.errors import Reject
from demo_protocol.limits import CHAIN_STATE_BYTES_MAX, HASH_BYTES
from demo_protocol.manifest import Manifest, compute_run_id
from demo_protocol.merkle import compute_leaf, compute_root, split_leaves
from demo_protocol.roster import ChainState
from demo_protocol.schema import compute_schema
from demo_protocol.state_root import count_leaves

CHAIN_STATE_S = 60.0
"""For what the chain says: 8 MiB at most, 150 bytes for each peer as a rule."""

FETCH_S = 90.0
"""For all holders together: a joiner tries again, perhaps with another offer."""


class StateTaker:
    """Fetches one state at a time, and keeps it on our disk."""

    def __init__(
        self,
        manifest: Manifest,
        snapshots: SnapshotStore,
        puller: Puller,
        learner: Learner,
        say: Say,
        on_event: Callable[..., None],
    ) -> None:
        """`on_event` is RoundObserver's."""
        self._run_id = compute_run_id(manifest)
        self._schema = compute_schema(manifest.model)
        self._snapshots = snapshots
        self._puller = puller
        self._learner = learner
        self._say = say
        self.fetcher = SnapshotFetcher(self._schema, snapshots, puller, say, on_event)
        self._taking = asyncio.Lock()

    async def fetch_chain_state(
        self, root: bytes, record: bytes, holders: Sequence[bytes]
    ) -> ChainState | None:
        """What the chain says after `record`, checked against the root; None where nobody gives it.

        It is about the parameters' leaves, too: that the root is of this model is checked later.
        """
        try:
            state = await self._puller.first_given(
                self._puller.holders(holders),
                lambda holder: self._ask_chain_state(root, holder),
                FETCH_S,
            )
            if state is not None and state.record != record:
                raise Reject("it is of another record")
        except Reject as error:  # whoever else has it has the same bytes
            self._say(f"a snapshot was refused: {error}")
            return None
        return state

    async def _ask_chain_state(self, root: bytes, holder: bytes) -> ChainState | None:
        """None where it has none with this root. Raises Reject for a root of something else."""
        bytes_max = HASH_BYTES * count_leaves(self._schema.parameters)
        raw = await self._puller.ask(holder, BlobRequest(Blob.STATE_LEAVES, root), bytes_max)
        leaves = split_leaves(raw) if raw else None
        if not leaves or await asyncio.to_thread(compute_root, leaves) != root:
            return None
        request = BlobRequest(Blob.STATE_CHUNK, leaves[0])
        raw = await self._puller.ask(holder, request, CHAIN_STATE_BYTES_MAX, CHAIN_STATE_S)
        if raw is None or await asyncio.to_thread(compute_leaf, raw) != leaves[0]:
            return None
        return await asyncio.to_thread(decode_chain_state, raw)

    async def take(
        self,
        root: bytes,
        state: ChainState,
        holders: Sequence[bytes],
        claimed: bytes | None = None,
    ) -> tuple[Snapshot, bytes] | None:
        """The state with this root, loaded and kept, and its digest; None where nobody gives it.

        Where most headers have `claimed` a digest for it, it must be that.
        """
        async with self._taking:
            fetched = await self.fetcher.fetch(root, lambda: self._puller.holders(holders))
            if fetched is None:
                return None
            try:
                return await self._keep(fetched, state, claimed)
            except Reject as error:
                self._say(f"a snapshot was refused: {error}")
                await asyncio.to_thread(fetched.part.remove)
                return None

    async def _keep(
        self, fetched: FetchedState, state: ChainState, claimed: bytes | None
    ) -> tuple[Snapshot, bytes]:
        if fetched.state != state:
            raise Reject("it says otherwise than the chain who is in")
        raw = await asyncio.to_thread(fetched.part.read_file)
        digest = await self._learner.load(state.record, raw)
        if claimed is not None and digest != claimed:
            await self._learner.forget([state.record])
            raise Reject("most headers say another digest")
        info = SnapshotInfo(
            run_id=self._run_id,
            record=state.record,
            round=state.round,
            height=state.height,
            digest=digest,
            chain_state=await asyncio.to_thread(encode_chain_state, state),
        )
        return await asyncio.to_thread(self._snapshots.adopt, info, fetched.part), digest
