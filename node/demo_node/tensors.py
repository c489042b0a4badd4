"""Which tensor of a state is not what others have (rule 20)."""

import asyncio
from collections.abc import Sequence

from demo_node.ports import Blob, BlobRequest, Learner, LearnerLost
from demo_node.pull import Puller
from demo_protocol.limits import DIGEST_BYTES, STATES_KEPT, TENSORS_REPLY_BYTES_MAX

ASKED = 2
"""Peers whose digests are compared with ours: what differs from one alone may be that one's."""


class TensorDigests:
    """Digests of the tensors of states that are held here; each state is looked at once."""

    def __init__(self, learner: Learner, names: Sequence[str]) -> None:
        """`names` of the tensors, in their order."""
        self._learner = learner
        self._names = names
        self._known: dict[bytes, bytes] = {}
        self._looking = asyncio.Lock()

    def forget(self) -> None:
        """States are computed again: what was known of them may have been wrong."""
        self._known = {}

    async def get(self, record: bytes) -> bytes | None:
        """One after the other, in the order of the names; None where that state is not held."""
        async with self._looking:
            if record not in self._known:
                try:
                    digests = await self._learner.tensor_digests(record)
                except (LearnerLost, LookupError):
                    return None
                self._known[record] = b"".join(digests)
                if len(self._known) > STATES_KEPT:
                    del self._known[next(iter(self._known))]
            return self._known[record]

    async def find_differing(self, puller: Puller, record: bytes) -> str:
        """The first tensor that peers have otherwise after `record`; empty where none is known.

        Two peers are heard where two hold that state; what they both have otherwise counts.
        """
        ours = await self.get(record)
        if ours is None:
            return ""
        found: list[set[int]] = []
        for peer in puller.holders():
            request = BlobRequest(Blob.TENSORS, record)
            raw = await puller.ask(peer, request, TENSORS_REPLY_BYTES_MAX)
            if raw is not None and len(raw) == len(ours) and raw != ours:
                found.append(_differing(raw, ours))
            if len(found) == ASKED:
                break
        places = set.intersection(*found) if found else set()
        return self._names[min(places)] if places else ""


def _differing(theirs: bytes, ours: bytes) -> set[int]:
    """Places of the digests that differ."""
    return {
        at // DIGEST_BYTES
        for at in range(0, len(ours), DIGEST_BYTES)
        if theirs[at : at + DIGEST_BYTES] != ours[at : at + DIGEST_BYTES]
    }
