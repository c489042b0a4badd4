"""The blob protocol's frames, as bytes: what every real mesh says over its streams.

request   8-byte length, BlobRequest (wire.proto), at most REQUEST_BYTES_MAX
reply     1 byte: 0 held, 1 not held, 2 busy: ask others first; 8-byte length (0 unless held);
          the bytes

Lengths are big-endian, and checked before anything is read or made room for.
"""

from typing import Final

from google.protobuf.message import DecodeError

from demo_node.ports import Blob, BlobRequest, Busy, NotHeld, Offence
from demo_protocol.limits import KEY_BYTES_MAX, REQUEST_BYTES_MAX
from demo_protocol.pb import wire_pb2

HELD: Final = 0
NOT_HELD: Final = 1
BUSY: Final = 2
LENGTH_BYTES: Final = 8
HEAD_BYTES: Final = 1 + LENGTH_BYTES


_OF_ONE_LENGTH: Final = frozenset(
    {Blob.HEADERS, Blob.RECORDS, Blob.HEAD, Blob.PEERS, Blob.TIME, Blob.SETS, Blob.PROPOSAL}
)
"""What has the same bound for everybody. Others' are by what a third peer said, maybe a liar."""


class Garbage(ValueError):
    """The peer does not speak this protocol; `offence`: what no honest peer does, if it is that."""

    def __init__(self, text: str, offence: Offence | None = None) -> None:
        super().__init__(text)
        self.offence = offence


def encode_request(request: BlobRequest) -> bytes:
    """A request, with its length before it."""
    message = wire_pb2.BlobRequest(
        kind=request.kind, key=request.key, limit=request.limit, wait_ms=request.wait_ms
    )
    frame = message.SerializeToString()
    return len(frame).to_bytes(LENGTH_BYTES) + frame


def decode_request_length(raw: bytes) -> int:
    """How long the request is. Raises Garbage."""
    size = int.from_bytes(raw)
    if size > REQUEST_BYTES_MAX:
        raise Garbage("asked with an oversize request", Offence.GARBAGE)
    return size


def decode_request(raw: bytes) -> BlobRequest | None:
    """The request, or None for a kind this version does not know. Raises Garbage."""
    try:
        message = wire_pb2.BlobRequest.FromString(raw)
    except DecodeError:
        raise Garbage("asked with garbage", Offence.GARBAGE) from None
    if len(message.key) > KEY_BYTES_MAX:
        raise Garbage("asked with an oversize key", Offence.GARBAGE)
    try:
        kind = Blob(message.kind)
    except ValueError:
        return None
    return BlobRequest(kind, message.key, message.limit, message.wait_ms)


def encode_head(body: bytes | None, lacking: int = NOT_HELD) -> bytes:
    """What comes before the bytes, or says why there are none."""
    status = lacking if body is None else HELD
    return bytes([status]) + len(body or b"").to_bytes(LENGTH_BYTES)


def decode_head(head: bytes, request: BlobRequest, bytes_max: int) -> int:
    """How many bytes follow. Raises NotHeld, Busy, or Garbage where they are too many."""
    status, size = head[0], int.from_bytes(head[1:])
    if status == NOT_HELD:
        raise NotHeld(f"{request.kind.name} {request.key.hex()}")
    if status == BUSY:
        raise Busy(f"{request.kind.name} {request.key.hex()}")
    if status != HELD:
        raise Garbage(f"answered with status {status}", Offence.GARBAGE)
    if size > bytes_max:
        offence = Offence.ANSWER if request.kind in _OF_ONE_LENGTH else None
        raise Garbage(f"offered {size} bytes, at most {bytes_max} are taken", offence)
    return size
