"""Getting the state at a record from several peers at once, by the root that a later record names.

What comes is checked chunk by chunk against the root (rule 21), so it does not matter who gives
it. What is here stays over a restart.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from demo_node.chunks import ChunkFetcher
from demo_node.observer import Figure
from demo_node.ports import Blob
from demo_node.pull import Puller
from demo_node.store.snapshot_part import SnapshotPart
from demo_node.store.snapshots import SnapshotStore
from demo_protocol.answers import decode_chain_state
from demo_protocol.errors import Reject
from demo_protocol.roster import ChainState
from demo_protocol.schema import Schema

SHOW_S: Final = 2.0
"""Between two lines of progress."""


@dataclass(frozen=True, slots=True)
class FetchedState:
    """A whole state, every byte of it checked against the root. `state`: what the chain says.

    `read_file` of `part` is what the trainer loads, then `SnapshotStore.adopt` keeps it.
    """

    state: ChainState
    part: SnapshotPart


class SnapshotFetcher:
    """Fetches one state at a time."""

    def __init__(
        self,
        schema: Schema,
        snapshots: SnapshotStore,
        puller: Puller,
        say: Callable[[str], None],
        on_event: Callable[..., None] = lambda _name, **_fields: None,
    ) -> None:
        """`on_event` is RoundObserver's."""
        self._schema = schema
        self._snapshots = snapshots
        self._puller = puller
        self._say = say
        self._on_event = on_event
        self._fetcher: ChunkFetcher | None = None
        self._part: SnapshotPart | None = None

    def figures(self) -> Iterator[Figure]:
        """How far it is."""
        part, fetcher = self._part, self._fetcher
        total = part.tensor_bytes if part else 0
        yield Figure("demo_snapshot_fetch_ratio", part.held_bytes / total if part else 0)
        sources = fetcher.sources.values() if fetcher else ()
        yield Figure("demo_snapshot_fetch_sources", sum(s.blocks > 0 for s in sources))

    async def fetch(
        self, root: bytes, holders: Callable[[], Sequence[bytes]]
    ) -> FetchedState | None:
        """The state with this root, from those of `holders` that are connected at any time.

        None where nobody gives all of it, or where it cannot be one of this run's model.
        Whether the root is to be believed is the caller's business. Raises ConfigError when the
        disk takes no more.
        """
        part = await asyncio.to_thread(self._snapshots.open_part, root, self._schema.shapes)
        begin_s, before = asyncio.get_running_loop().time(), part.held_bytes
        fetcher = ChunkFetcher(
            self._puller,
            part,
            holders,
            leaves=Blob.STATE_LEAVES,
            block=Blob.STATE_CHUNK,
            on_lie=lambda reason: self._on_event("answer.rejected", reason=reason),
        )
        self._fetcher, self._part = fetcher, part
        show = asyncio.create_task(self._show(part, fetcher))
        try:
            if not await fetcher.run():
                return None
            raw = await asyncio.to_thread(part.read_chain_state)
            fetched = FetchedState(await asyncio.to_thread(decode_chain_state, raw), part)
        except Reject as error:
            self._say(f"a snapshot was refused: {error}")
            await asyncio.to_thread(part.remove)
            return None
        finally:
            show.cancel()
            part.close()
            self._fetcher = self._part = None
        self._tell(fetched, fetcher, asyncio.get_running_loop().time() - begin_s, before)
        return fetched

    async def _show(self, part: SnapshotPart, fetcher: ChunkFetcher) -> None:
        before = part.held_bytes
        while True:
            await asyncio.sleep(SHOW_S)
            percent = 100 * part.held_bytes // part.tensor_bytes
            rate = (part.held_bytes - before) / 1e6 / SHOW_S
            before = part.held_bytes
            count = sum(source.blocks > 0 for source in fetcher.sources.values())
            self._say(f"snapshot {percent} % from {count} peers, {rate:.1f} MB/s")

    def _tell(
        self, fetched: FetchedState, fetcher: ChunkFetcher, took_s: float, before: int
    ) -> None:
        given = [source.given_bytes for source in fetcher.sources.values() if source.blocks]
        self._say(
            f"snapshot of round {fetched.state.round} is here: {sum(given) / 1e6:.1f} MB"
            f" from {len(given)} peers in {took_s:.1f} s"
        )
        self._on_event(
            "snapshot.fetched",
            round=fetched.state.round,
            bytes=sum(given),
            bytes_before=before,
            peers=len(given),
            largest_share=round(max(given, default=0) / max(sum(given), 1), 3),
            seconds=round(took_s, 3),
        )
