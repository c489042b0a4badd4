"""What a node gives to joiners: `ports.Archive` over its snapshots, corpus and address book."""

import asyncio
from collections.abc import Callable, Sequence

from demo_node.store.addresses import AddressBook
from demo_node.store.corpus import Corpus
from demo_node.store.initial import InitialState
from demo_node.store.snapshots import SnapshotStore


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

    def snapshots(self) -> Sequence[tuple[bytes, bytes]]:
        """(record, root) of what this process wrote or found intact, the last first. No I/O."""
        return [(held.info.record, held.root) for held in self._snapshots.held()]

    async def read_initial(self, hash_: bytes) -> bytes | None:
        """The file of state 0, by its SHA-256; None where the run has none, or it is not here."""
        if self.initial is None or self.initial.sha256 != hash_:
            return None
        return await asyncio.to_thread(self.initial.read)

    async def read_state_leaves(self, root: bytes) -> bytes | None:
        """The leaf hashes, one after the other, of a snapshot that is kept, by its root."""
        snapshot = self._snapshots.find(root)
        return b"".join(snapshot.leaves) if snapshot else None

    async def read_state_chunk(self, leaf: bytes) -> bytes | None:
        """A chunk of a snapshot that is kept, by its leaf hash."""
        return await asyncio.to_thread(self._snapshots.read_chunk, leaf)

    async def read_corpus(self, hash_: bytes) -> bytes | None:
        """For the corpus root the list of its leaf hashes, for a leaf hash the block."""
        return self.corpus.get(hash_) if self.corpus else None

    def addresses(self) -> Sequence[str]:
        """Our own, then those of peers, the most recently seen first."""
        return list(dict.fromkeys([*self._own(), *self._book.newest()]))
