"""Snapshots of a simulated node: a state's digest, as a rule no more, and what the chain says."""

from dataclasses import dataclass, field

from demo_node.store.retention import Kept, choose_spare
from demo_protocol.roster import ChainState

NEWEST = 2
"""Kept whatever their age; the others by `choose_spare`."""


@dataclass(frozen=True, slots=True)
class ModelSnapshot:
    """The state after a record. `leaves`: of its parameters (rule 21).

    `raw`: those as safetensors bytes where training is real.
    """

    state: ChainState
    digest: bytes
    leaves: tuple[bytes, ...]
    raw: bytes = b""


@dataclass(slots=True)
class ModelSnapshots:
    """What `store.snapshots` keeps on a disk, newest last."""

    kept: list[ModelSnapshot] = field(default_factory=list)

    def keep(self, new: ModelSnapshot, window: int) -> None:
        """Keep one more; older ones go as on a real disk. `window` in rounds."""
        others = [s for s in self.kept if s.state.record != new.state.record]
        older = [Kept(s.state.record.hex(), s.state.round, 1) for s in others[:-1]]
        spare = choose_spare(older, new.state.round, window, 0)
        self.kept = [s for s in others[:-1] if s.state.record.hex() in spare]
        self.kept += [*others[-1:], new]
