"""Which rounds are traced, and under which id: the same on every node, and nobody has to tell.

Without OpenTelemetry: the metrics need this too, for their exemplars.
"""

import hashlib
from dataclasses import dataclass
from typing import Final

TRACE_ID_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Sampling:
    """Rounds that `every` divides; none where it is 0. Nodes with 10 and 20 share every 20th."""

    every: int = 0

    def includes(self, round_: int) -> bool:
        """Whether this round is traced."""
        return self.every > 0 and round_ >= 0 and round_ % self.every == 0


NO_ROUNDS: Final = Sampling()


def compute_trace_id(run_id: bytes, round_: int) -> bytes:
    """Id of the one trace that all nodes of a run have of a round."""
    text = b"demo-node/trace/1\0" + run_id + round_.to_bytes(8, "big")
    return hashlib.sha256(text).digest()[:TRACE_ID_BYTES]
