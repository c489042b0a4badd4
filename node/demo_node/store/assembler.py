"""Blocks of one Merkle tree, collected in any order and from anyone into one file.

Each block is checked before it counts; a restart goes on where the last process stopped. What a
power cut may cost is the last SYNC_BYTES.
"""

from pathlib import Path
from threading import Lock
from typing import Final

from demo_node.store.disk import Disk
from demo_node.store.journal import Journal
from demo_protocol.errors import LocalFault, Reject
from demo_protocol.merkle import compute_leaf, compute_root, split_leaves

SYNC_BYTES: Final = 8 << 20
"""Collected between two syncs: a sync costs a disk some 10 ms, fetching so much again seconds."""


class Assembler:
    """`add_leaves`, then `add_block` until nothing is `missing`.

    Opening, adding and reading touch the disk: call them in a thread. Adding may be called from
    several.
    """

    def __init__(
        self,
        disk: Disk,
        path: Path,
        purpose: str,
        root: bytes,
        leaf_count: int,
        block_bytes: int,
        first_bytes: int | None = None,
    ) -> None:
        """Go on with what an earlier process collected in `path`. Reads all of it.

        Blocks have at most `block_bytes`, the first one `first_bytes` where that differs.
        """
        self.root = root
        self.leaf_count = leaf_count
        self.leaves: tuple[bytes, ...] = ()
        self._known: frozenset[bytes] = frozenset()
        self._block_bytes = block_bytes
        self._first_bytes = first_bytes or block_bytes
        self._held: dict[bytes, int] = {}  # leaf hash -> position in the journal
        self._lock = Lock()
        self._unsynced = 0
        self._disk = disk
        self._journal = Journal.open(disk, path, purpose, root, self._restore)

    def missing(self) -> list[bytes]:
        """Leaf hashes still to be fetched, each once, in order."""
        return [leaf for leaf in dict.fromkeys(self.leaves) if leaf not in self._held]

    @property
    def held(self) -> int:
        """Leaves whose blocks are here; a block that stands in several places counts in each."""
        return sum(leaf in self._held for leaf in self.leaves)

    def bytes_max(self, leaf: bytes) -> int:
        """The longest that this block can be."""
        return self._first_bytes if leaf == self.leaves[0] else self._block_bytes

    def add_leaves(self, raw: bytes) -> None:
        """Take the list of leaf hashes, one after the other. Raises Reject when it is not that."""
        leaves = split_leaves(raw)
        if leaves is None or len(leaves) != self.leaf_count or compute_root(leaves) != self.root:
            raise Reject("the list of blocks does not belong to this root")
        with self._lock:
            if not self.leaves:
                self._journal.append(raw)
                self._set_leaves(leaves)

    def add_block(self, block: bytes) -> bytes:
        """Take one block, in any order, twice if need be; returns its leaf hash.

        Raises Reject when it is not one.
        """
        leaf = compute_leaf(block)
        if leaf not in self._known:
            raise Reject("a block does not belong to this root")
        if len(block) > self.bytes_max(leaf):
            raise Reject("a block is larger than it may be")
        with self._lock:
            if leaf not in self._held:
                self._held[leaf] = self._journal.append(block)
                self._unsynced += len(block)
            is_due = self._unsynced >= SYNC_BYTES
        if is_due:
            self.sync()
        return leaf

    def sync(self) -> None:
        """Return when everything collected is on the device."""
        with self._lock:
            self._journal.sync()
            self._unsynced = 0

    def read(self, leaf: bytes) -> bytes:
        """A block that is here. Raises LocalFault where the disk gives other bytes back."""
        block = self._journal.read(self._held[leaf])
        if block is None or compute_leaf(block) != leaf:
            raise LocalFault("a collected block changed on disk")
        return block

    def close(self) -> None:
        """Give the file back; what was collected stays for the next time."""
        self._journal.close()

    def remove(self) -> None:
        """What was collected is kept elsewhere now, or is worth nothing."""
        self.close()
        for path in (self._journal.path, self._journal.aside):
            self._disk.unlink(path)

    def _set_leaves(self, leaves: tuple[bytes, ...]) -> None:
        self.leaves, self._known = leaves, frozenset(leaves)

    def _restore(self, position: int, raw: bytes) -> None:
        """Entries are the list of leaves and blocks; where the list was lost, blocks only."""
        leaves = None if self.leaves else split_leaves(raw)
        if leaves and len(leaves) == self.leaf_count and compute_root(leaves) == self.root:
            self._set_leaves(leaves)
        else:
            self._held[compute_leaf(raw)] = position
