"""What a metered node leaves to others: to be asked for what anybody else could give.

It takes part: its own payloads, and all that nodes agree by, it gives to everybody.
"""

from collections.abc import Callable
from typing import Final

from demo_node.ports import Blob, BlobRequest, Mesh

FOR_NEWCOMERS: Final = frozenset(
    {Blob.INITIAL, Blob.CORPUS_BLOCK, Blob.STATE_LEAVES, Blob.STATE_CHUNK}
)
"""Megabytes that are asked for once, by who joins or returns."""


class Sparing:
    """Decides for a metered node whom to give what."""

    def __init__(self, mesh: Mesh, is_own: Callable[[bytes], bool]) -> None:
        """`is_own`: whether this payload is ours, and of late."""
        self._mesh = mesh
        self._is_own = is_own

    def refuses(self, asking: bytes, request: BlobRequest) -> bool:
        """Is it to be asked of others? Never, where this node knows of none."""
        if request.kind is Blob.PAYLOAD:
            return not self._is_own(request.key) and self.has_others(asking)
        return request.kind in FOR_NEWCOMERS and self.has_others(asking)

    def has_others(self, asking: bytes) -> bool:
        """Is anybody connected besides who asks?"""
        return any(view.peer != asking for view in self._mesh.peers())
