"""A Merkle root over blocks: one hash that names a data set, checkable block by block.

Leaves and inner nodes are hashed in different domains, so no block can pose as a node. An odd
node moves up unchanged. A joiner fetches the list of leaf hashes, checks it against the root,
and then takes each block from anyone: one list (32 bytes a block) instead of a proof per block.
"""

import hashlib
from collections.abc import Sequence
from typing import Final

from demo_protocol.limits import HASH_BYTES

_LEAF: Final = b"demo-node/leaf/1\0"


def compute_leaf(block: bytes | memoryview) -> bytes:
    """Name of one block, 32 bytes."""
    hasher = hashlib.sha256(_LEAF)
    hasher.update(block)
    return hasher.digest()


def compute_leaves(text: bytes | memoryview, block_bytes: int) -> tuple[bytes, ...]:
    """Leaf hashes of `text` cut into blocks of `block_bytes`; the last one may be shorter."""
    view = memoryview(text)
    return tuple(
        compute_leaf(view[start : start + block_bytes])
        for start in range(0, len(view), block_bytes)
    )


class LeafHasher:
    """Leaf hashes of a text that comes in pieces of any length."""

    def __init__(self, block_bytes: int) -> None:
        self._block_bytes = block_bytes
        self._room = block_bytes
        self._hasher = hashlib.sha256(_LEAF)
        self._leaves: list[bytes] = []

    def update(self, piece: bytes | memoryview) -> None:
        """Take what follows. A `memoryview` must be of bytes."""
        view = memoryview(piece)
        while view:
            self._hasher.update(view[: self._room])
            taken = min(len(view), self._room)
            view = view[taken:]
            self._room -= taken
            if self._room == 0:
                self._end_block()

    def finish(self) -> tuple[bytes, ...]:
        """The leaves of all that was taken, as `compute_leaves` has them."""
        if self._room < self._block_bytes:
            self._end_block()
        return tuple(self._leaves)

    def _end_block(self) -> None:
        self._leaves.append(self._hasher.digest())
        self._hasher, self._room = hashlib.sha256(_LEAF), self._block_bytes


def compute_root(leaves: Sequence[bytes]) -> bytes:
    """Root of the tree over leaf hashes, in order. No leaves: the hash of an empty tree."""
    if not leaves:
        return hashlib.sha256(b"demo-node/empty/1\0").digest()
    level = list(leaves)
    while len(level) > 1:
        pairs = zip(level[::2], level[1::2], strict=False)
        odd = level[-1:] if len(level) % 2 else []
        level = [_compute_node(left, right) for left, right in pairs] + odd
    return level[0]


def split_leaves(raw: bytes) -> tuple[bytes, ...] | None:
    """A list of leaf hashes from its concatenation; None when the length is not a multiple."""
    if len(raw) % HASH_BYTES:
        return None
    return tuple(raw[start : start + HASH_BYTES] for start in range(0, len(raw), HASH_BYTES))


def _compute_node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"demo-node/node/1\0" + left + right).digest()
