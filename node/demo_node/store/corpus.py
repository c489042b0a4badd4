"""A corpus on disk: one byte string, training text then held-out text, named by a Merkle root.

`corpus/<root>.bin` is the plain text. A node that does not have it collects its blocks, in any
order and from anyone, in `corpus/<root>.part` (`store.assembler`).
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from demo_node.store.assembler import Assembler
from demo_node.store.atomic import write_atomic
from demo_node.store.disk import Disk
from demo_protocol.errors import ConfigError, LocalFault
from demo_protocol.manifest import Data
from demo_protocol.merkle import compute_leaves, compute_root


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


class CorpusAssembler(Assembler):
    """Collects one corpus from peers."""

    def __init__(self, disk: Disk, folder: Path, data: Data) -> None:
        """Go on with what an earlier process collected. Reads all of it."""
        path = folder / f"{data.root}.part"
        count = -(-(data.train_bytes + data.heldout_bytes) // data.block_bytes)
        super().__init__(disk, path, "corpus", bytes.fromhex(data.root), count, data.block_bytes)
        self._folder = folder
        self._data = data

    @property
    def held_bytes(self) -> int:
        """Progress: bytes of text collected so far, to within one block."""
        total = self._data.train_bytes + self._data.heldout_bytes
        return min(self.held * self._data.block_bytes, total)

    def finish(self) -> Corpus:
        """The whole text, now also in `corpus/<root>.bin` (fsyncs). Raises LocalFault too early."""
        if not self.leaves or self.missing():
            raise LocalFault("the corpus is not complete")
        text = b"".join(self.read(leaf) for leaf in self.leaves)
        corpus = Corpus(self._data, text, self.leaves)
        if len(text) != self._data.train_bytes + self._data.heldout_bytes:
            raise ConfigError(
                "the run's manifest gives a wrong length for its corpus; start a new run"
            )
        save_corpus(self._disk, self._folder, corpus)
        self.remove()
        return corpus
