"""What a mesh tells of its peers, and counts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from demo_node.ports.blobs import Blob


@dataclass(frozen=True, slots=True)
class PeerView:
    """One connected peer.

    `connected_s`: for how many seconds it has been. `rtt_ms`: the last round trip of a question
    for the time, at least 1; 0 while nobody has measured it, and from the mesh itself. `score`:
    what is held against it, which fades; at 100 it is banned. `elsewhere`: it said that it takes
    part in another run than we do; nothing of ours is to be had from it.
    """

    peer: bytes
    address: str
    outbound: bool
    connected_s: int = 0
    rtt_ms: int = 0
    score: int = 0
    elsewhere: bool = False


class Direction(StrEnum):
    """Seen from this node."""

    IN = "in"
    OUT = "out"


class Use(StrEnum):
    """What bytes on the mesh's sockets are for."""

    GOSSIP = "gossip"
    PAYLOAD = "payload"
    SYNC = "sync"  # what nodes catch up with
    OTHER = "other"  # handshakes, headers of frames, encryption, small questions


class PullResult(StrEnum):
    """What came of a request to one peer."""

    OK = "ok"
    NOT_HELD = "not_held"
    UNREACHABLE = "unreachable"


class DialResult(StrEnum):
    """What came of dialling one address."""

    CONNECTED = "connected"
    TIMED_OUT = "timed_out"
    REFUSED = "refused"  # nobody listens there
    FAILED = "failed"


class Offence(StrEnum):
    """What no honest peer does."""

    MESSAGE = "message"  # gossip that whoever passes it on can see is wrong
    ANSWER = "answer"  # bytes that are not what was asked for
    PAYLOAD = "payload"  # it signed for something that is no payload
    GARBAGE = "garbage"  # bytes that are no frame of the protocol they came by
    FLOOD = "flood"  # more than any node has to say, or than was allowed
    STALLED = "stalled"  # a stream held open with nothing on it, by who is there
    KEYS = "keys"  # of an address: a key that came from there was banned
    OPERATOR = "operator"  # our own operator banned it


@dataclass(frozen=True, slots=True)
class BanView:
    """Who is kept out: a key, or an address (a /32 or /64); the other one is empty.

    `times`: how often it was, of late. `offence`: the last of those that led there.
    """

    peer: bytes
    address: str
    left_s: int
    offence: Offence
    times: int


class Refusal(StrEnum):
    """Why a socket was closed before its handshake."""

    BANNED = "banned"  # its address is
    NETWORK = "network"  # as many are connected from its /24 or /56
    FULL = "full"
    HANDSHAKES = "handshakes"  # as many are under way
    KEY = "key"  # it lacks the key of this private swarm


class PeerChange(StrEnum):
    """A peer's first connection, and the end of its last one."""

    CONNECTED = "connected"
    DISCONNECTED = "disconnected"


@dataclass(frozen=True, slots=True)
class MeshCounters:
    """What the mesh has done since start; none of these falls, and none is of a single peer.

    `bytes_in` and `bytes_out` are those of the sockets. `traffic` says what they were for: its
    uses add up to them, but for frames that are on their way. `pulls` are requests that we made,
    those that were cancelled left out; so with `dials`.
    """

    bytes_in: int
    bytes_out: int
    traffic: Mapping[tuple[Direction, Use], int] = field(default_factory=dict)
    pulls: Mapping[tuple[Blob, PullResult], int] = field(default_factory=dict)
    dials: Mapping[DialResult, int] = field(default_factory=dict)
    changes: Mapping[PeerChange, int] = field(default_factory=dict)
    refused: Mapping[Refusal, int] = field(default_factory=dict)
    offences: Mapping[Offence, int] = field(default_factory=dict)
