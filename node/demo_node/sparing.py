"""What a metered node leaves to others: to be asked for what anybody else could give.

It takes part: its own payloads, and all that nodes agree by, it gives to everybody. Whoever asks
for the same again and again has found nobody else who has it, and gets it.
"""

from collections.abc import Callable
from typing import Any, Final, TypeVar

from demo_node.ports import Blob, BlobRequest, Mesh

Key = TypeVar("Key")

FOR_NEWCOMERS: Final = frozenset(
    {Blob.INITIAL, Blob.CORPUS_BLOCK, Blob.STATE_LEAVES, Blob.STATE_CHUNK}
)
"""Megabytes that are asked for once, by who joins or returns."""

REFUSED_MAX: Final = 2
"""So often a peer is refused the same. It comes back after a turn of asking everybody."""

REMEMBERED_MAX: Final = 1024
"""Refusals that are remembered, and peers that have found nobody else: the newest."""


class Sparing:
    """Decides for a metered node whom to give what."""

    def __init__(self, mesh: Mesh, is_own: Callable[[bytes], bool]) -> None:
        """`is_own`: whether this payload is ours, and of late."""
        self._mesh = mesh
        self._is_own = is_own
        self._refused: dict[tuple[bytes, Blob, bytes], int] = {}
        self._helped: dict[bytes, None] = {}
        """Peers for whom there is nobody else to begin from: not each block is refused first."""

    def refuses(self, asking: bytes, request: BlobRequest) -> bool:
        """Is it to be asked of others? Never for long, and never where this node knows of none."""
        if request.kind is Blob.PAYLOAD:
            return not self._is_own(request.key) and self._refuse(asking, request)
        return request.kind in FOR_NEWCOMERS and self._refuse_newcomer(asking, request)

    def hides_snapshot(self, asking: bytes) -> bool:
        """Is our snapshot not to be told of? Whoever cannot begin from another asks again."""
        return self._refuse_newcomer(asking, BlobRequest(Blob.HEAD))

    def _refuse_newcomer(self, asking: bytes, request: BlobRequest) -> bool:
        if asking in self._helped:
            return False
        is_refused = self._refuse(asking, request)
        if not is_refused and request.kind is not Blob.HEAD:
            self._helped[asking] = None
            _forget_oldest(self._helped)
        return is_refused

    def _refuse(self, asking: bytes, request: BlobRequest) -> bool:
        """Refuse it, unless that was so often enough. Remembers it if so."""
        if all(view.peer == asking for view in self._mesh.peers()):
            return False
        name = asking, request.kind, request.key
        times = self._refused.pop(name, 0)
        self._refused[name] = min(times + 1, REFUSED_MAX + 1)
        _forget_oldest(self._refused)
        return times < REFUSED_MAX


def _forget_oldest(remembered: dict[Key, Any]) -> None:
    if len(remembered) > REMEMBERED_MAX:
        del remembered[next(iter(remembered))]
