"""What one node asks another for, and what it may answer."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import IntEnum


class Blob(IntEnum):
    """What can be pulled from a peer over the blob protocol. The wire knows the numbers."""

    MANIFEST = 1
    PAYLOAD = 2
    HEADERS = 3
    RECORDS = 4
    HEAD = 5
    INITIAL = 6
    CORPUS_BLOCK = 7
    PEERS = 8
    TIME = 9
    STATE_LEAVES = 10
    STATE_CHUNK = 11
    SETS = 12
    PROPOSAL = 13
    TENSORS = 14
    CHAIN_STATE = 15
    REACH = 16


@dataclass(frozen=True, slots=True)
class BlobRequest:
    """`key` says what is asked for, where the kind does not: hashes, or what is known already.

    `limit` bounds the reply. `wait_ms`: for how long an answer may be put off until what is asked
    for is here; whoever answers may put it off less.
    """

    kind: Blob
    key: bytes = b""
    limit: int = 0
    wait_ms: int = 0


class Unreachable(ConnectionError):
    """The peer could not be asked, or did not answer in time."""


class NotHeld(LookupError):
    """The peer answered: it does not hold what was asked for."""


class Busy(NotHeld):
    """The peer answered: others hold it, too, and should be asked first."""


OnBlob = Callable[[bytes, BlobRequest], Awaitable[bytes | None]]
"""(asking peer, request) -> the bytes, or None where this node does not hold them.

Raises Busy where it does, and others are to be asked first."""

OnAnswered = Callable[[bytes, BlobRequest, int], None]
"""(asking peer, request, bytes): so many of an `OnBlob`'s begin to leave; 0: it was called off.

Called on the loop, once for each answer that has bytes."""


def ignore_answered(asking: bytes, request: BlobRequest, size: int) -> None:
    """An OnAnswered for whoever does not want to know."""


OnPiece = Callable[[int], None]
"""So many bytes more of an answer have come. First 0: the peer has it, and begins to give it."""


def ignore_piece(size: int) -> None:
    """An OnPiece for whoever does not want to know."""


OnWait = Callable[[bool], None]
"""True: a request waits for our own cap, and not for the peer. False: it does so no longer."""


def ignore_wait(is_held: bool) -> None:
    """An OnWait for whoever does not want to know."""
