"""What a round needs of the outside world. Rooms implement these; so do the simulator's fakes.

Values only: no port hands out a library's object. Peers are their 32-byte Ed25519 public keys.
"""

from demo_node.ports.blobs import (
    Blob,
    BlobRequest,
    Busy,
    NotHeld,
    OnAnswered,
    OnBlob,
    OnPiece,
    OnWait,
    Unreachable,
    ignore_answered,
    ignore_piece,
    ignore_wait,
)
from demo_node.ports.clock import Clock
from demo_node.ports.learner import (
    AdoptOrder,
    ApplyOrder,
    Fate,
    Learner,
    LearnerLost,
    Norms,
    SentPayload,
    Trained,
    TrainOrder,
)
from demo_node.ports.mesh import Mesh, OnGossip, OpenMesh, Slice, TakeUplink, Topic, Verdict
from demo_node.ports.peers import (
    BanView,
    DialResult,
    Direction,
    MeshCounters,
    Offence,
    PeerChange,
    PeerView,
    PullResult,
    Refusal,
    Use,
)
from demo_node.ports.store import Archive, RoundStore

__all__ = [
    "AdoptOrder",
    "ApplyOrder",
    "Archive",
    "BanView",
    "Blob",
    "BlobRequest",
    "Busy",
    "Clock",
    "DialResult",
    "Direction",
    "Fate",
    "Learner",
    "LearnerLost",
    "Mesh",
    "MeshCounters",
    "Norms",
    "NotHeld",
    "Offence",
    "OnAnswered",
    "OnBlob",
    "OnGossip",
    "OnPiece",
    "OnWait",
    "OpenMesh",
    "PeerChange",
    "PeerView",
    "PullResult",
    "Refusal",
    "RoundStore",
    "SentPayload",
    "Slice",
    "TakeUplink",
    "Topic",
    "TrainOrder",
    "Trained",
    "Unreachable",
    "Use",
    "Verdict",
    "ignore_answered",
    "ignore_piece",
    "ignore_wait",
]
