"""What a node gives to joiners: `ports.Archive` over its snapshots, corpus and address book."""

import asyncio
from collections.abc import Callable, Sequence

from demo_node.ports import SnapshotFile
from demo_node.store.addresses import AddressBook
from demo_node.store.corpus import Corpus
from demo_node.store.initial import InitialState
from demo_node.store.snapshots import SnapshotStore
from demo_protocol.limits import ADDRESSES_MAX


class FileArchive:
    """Implements `ports.Archive`. `own` gives the multiaddrs this node listens on.

    `corpus` and `initial` are set once this node has them itself.
    """

    def __init__(
        self, snapshots: SnapshotStore, book: AddressBook, own: Callable[[], Sequence[str]]
    ) -> None:
        self.corpus: Corpus | None = None
        self.initial: InitialState | None = None
        self._snapshots = snapshots
        self._book = book
        self._own = own

    def snapshots(self) -> Sequence[SnapshotFile]:
        """What this process wrote or found intact, the last first. No I/O."""
        return [
            SnapshotFile(
                record=held.info.record,
                round=held.info.round,
                hash=held.sha256,
                root=held.root,
                size=held.file_bytes,
                path=str(held.path),
            )
            for held in self._snapshots.held()
        ]

    async def read_snapshot(self, hash_: bytes) -> bytes | None:
        """A whole snapshot file, that of state 0 too; None when it is not kept (any more)."""
        if self.initial is not None and self.initial.sha256 == hash_:
            return await asyncio.to_thread(self.initial.read)
        snapshot = self._snapshots.find(hash_)
        if snapshot is None:
            return None
        return await asyncio.to_thread(self._snapshots.read, snapshot)

    async def read_state_leaves(self, root: bytes) -> bytes | None:
        """The leaf hashes, one after the other, of a snapshot that is kept, by its root."""
        snapshot = self._snapshots.find_root(root)
        return b"".join(snapshot.leaves) if snapshot else None

    async def read_state_chunk(self, leaf: bytes) -> bytes | None:
        """A chunk of a snapshot that is kept, by its leaf hash."""
        return await asyncio.to_thread(self._snapshots.read_chunk, leaf)

    async def read_corpus(self, hash_: bytes) -> bytes | None:
        """For the corpus root the list of its leaf hashes, for a leaf hash the block."""
        return self.corpus.get(hash_) if self.corpus else None

    def addresses(self) -> Sequence[str]:
        """Our own, then those of peers, the most recently seen first."""
        return list(dict.fromkeys([*self._own(), *self._book.newest()]))[:ADDRESSES_MAX]
