"""A corpus on disk: one byte string, training text then held-out text, named by a Merkle root.

`corpus/<root>.bin` is the plain text. A node that does not have it collects its blocks, in any
order and from anyone, in `corpus/<root>.part`: each is checked before it counts, and a restart
goes on where the last one stopped.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

from demo_node.store.atomic import write_atomic
from demo_node.store.disk import Disk
from demo_node.store.journal import Journal
from demo_protocol.errors import ConfigError, LocalFault, Reject
from demo_protocol.manifest import Data
from demo_protocol.merkle import compute_leaf, compute_leaves, compute_root, split_leaves


@dataclass(frozen=True)
class Corpus:
    """Text in memory, and what the manifest says of it."""

    data: Data
    text: bytes
    leaves: tuple[bytes, ...]

    @property
    def root(self) -> bytes:
        """Merkle root over the blocks, 32 bytes."""
        return bytes.fromhex(self.data.root)

    @property
    def train(self) -> memoryview:
        """The training text."""
        return memoryview(self.text)[: self.data.train_bytes]

    @property
    def heldout(self) -> memoryview:
        """The held-out text."""
        return memoryview(self.text)[self.data.train_bytes :]

    def block(self, index: int) -> bytes:
        """Block `index`; the last one may be shorter."""
        start = index * self.data.block_bytes
        return self.text[start : start + self.data.block_bytes]

    def get(self, key: bytes) -> bytes | None:
        """What peers pull: the concatenated leaf hashes by the root, a block by its leaf hash."""
        if key == self.root:
            return b"".join(self.leaves)
        index = self._index.get(key)
        return None if index is None else self.block(index)

    @cached_property
    def _index(self) -> dict[bytes, int]:
        return {leaf: index for index, leaf in enumerate(self.leaves)}


def build_corpus(kind: str, train: bytes, heldout: bytes, block_bytes: int) -> Corpus:
    """The corpus of these texts. Hashes them: call it in a thread."""
    text = train + heldout
    leaves = compute_leaves(text, block_bytes)
    data = Data(
        kind=kind,
        root=compute_root(leaves).hex(),
        train_bytes=len(train),
        heldout_bytes=len(heldout),
        block_bytes=block_bytes,
    )
    return Corpus(data, text, leaves)


def compute_corpus_path(folder: Path, data: Data) -> Path:
    """Where the plain text lies: the trainer may map this file."""
    return folder / f"{data.root}.bin"


def save_corpus(disk: Disk, folder: Path, corpus: Corpus) -> Path:
    """Keep the text; returns where (fsyncs)."""
    path = compute_corpus_path(folder, corpus.data)
    write_atomic(disk, path, corpus.text)
    return path


def load_corpus(disk: Disk, folder: Path, data: Data) -> Corpus | None:
    """The text the manifest names, from disk; None when missing or damaged. Hashes all of it."""
    try:
        text = disk.read(compute_corpus_path(folder, data))
    except FileNotFoundError:
        return None
    if len(text) != data.train_bytes + data.heldout_bytes:
        return None
    leaves = compute_leaves(text, data.block_bytes)
    return Corpus(data, text, leaves) if compute_root(leaves).hex() == data.root else None


class CorpusAssembler:
    """Collects one corpus from peers: `add_leaves`, then `add_block` until nothing is `missing`.

    Opening, adding and finishing touch the disk: call them in a thread, one at a time.
    """

    def __init__(self, disk: Disk, folder: Path, data: Data) -> None:
        self._disk = disk
        self._folder = folder
        self._data = data
        self._root = bytes.fromhex(data.root)
        self._leaves: tuple[bytes, ...] = ()
        self._held: dict[bytes, int] = {}  # leaf hash -> position in the journal
        self._journal: Journal

    @classmethod
    def open(cls, disk: Disk, folder: Path, data: Data) -> Self:
        """Go on with what an earlier process collected."""
        assembler = cls(disk, folder, data)
        path = folder / f"{data.root}.part"
        assembler._journal = Journal.open(disk, path, "corpus", assembler._root, assembler._restore)
        return assembler

    @property
    def leaf_count(self) -> int:
        """Blocks of the corpus, from the manifest."""
        return -(-(self._data.train_bytes + self._data.heldout_bytes) // self._data.block_bytes)

    @property
    def held_bytes(self) -> int:
        """Progress: bytes of text collected so far, to within one block."""
        total = self._data.train_bytes + self._data.heldout_bytes
        held = sum(leaf in self._held for leaf in self._leaves)
        return min(held * self._data.block_bytes, total)

    def has_leaves(self) -> bool:
        """Whether the list of blocks is known."""
        return bool(self._leaves)

    def missing(self) -> list[bytes]:
        """Leaf hashes still to be fetched, each once, in order of the text."""
        return [leaf for leaf in dict.fromkeys(self._leaves) if leaf not in self._held]

    def add_leaves(self, raw: bytes) -> None:
        """Take the list that `Corpus.get(root)` gave. Raises Reject when it is not."""
        leaves = split_leaves(raw)
        if leaves is None or len(leaves) != self.leaf_count or compute_root(leaves) != self._root:
            raise Reject("the list of blocks does not belong to this corpus")
        if not self._leaves:
            self._journal.append(raw)
            self._leaves = leaves

    def add_block(self, block: bytes) -> None:
        """Take one block, in any order, twice if need be. Raises Reject when it is not one."""
        if len(block) > self._data.block_bytes:
            raise Reject("a corpus block is larger than the manifest allows")
        leaf = compute_leaf(block)
        if leaf not in self._leaves:
            raise Reject("a corpus block does not belong to this corpus")
        if leaf not in self._held:
            self._held[leaf] = self._journal.append(block)

    def finish(self) -> Corpus:
        """The whole text, now also in `corpus/<root>.bin` (fsyncs). Raises LocalFault too early."""
        if not self._leaves or self.missing():
            raise LocalFault("the corpus is not complete")
        text = b"".join(self._read(leaf) for leaf in self._leaves)
        corpus = Corpus(self._data, text, self._leaves)
        if len(text) != self._data.train_bytes + self._data.heldout_bytes:
            raise ConfigError(
                "the run's manifest gives a wrong length for its corpus; start a new run"
            )
        save_corpus(self._disk, self._folder, corpus)
        self.close()
        for path in (self._journal.path, self._journal.aside):
            self._disk.unlink(path)
        return corpus

    def close(self) -> None:
        """Give the file back; what was collected stays for the next time."""
        self._journal.close()

    def _restore(self, position: int, raw: bytes) -> None:
        """Entries are the list of leaves and blocks; where the list was lost, blocks only."""
        leaves = None if self._leaves else split_leaves(raw)
        if leaves and len(leaves) == self.leaf_count and compute_root(leaves) == self._root:
            self._leaves = leaves
        else:
            self._held[compute_leaf(raw)] = position

    def _read(self, leaf: bytes) -> bytes:
        block = self._journal.read(self._held[leaf])
        if block is None or compute_leaf(block) != leaf:
            raise LocalFault("a collected corpus block changed on disk")
        return block
