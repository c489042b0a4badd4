"""What two nodes compare with each other every round (rule 23), and its bytes.

Every decoder raises Reject on bytes no honest peer would send.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from demo_protocol.errors import Reject
from demo_protocol.limits import (
    COMPARED_ROUNDS_MAX,
    FINGERPRINT_BYTES,
    HASH_BYTES,
    HEADER_BYTES_MAX,
    HEADERS_LISTED_MAX,
    HEADERS_PER_REQUEST_MAX,
    RECORDS_LISTED_MAX,
)
from demo_protocol.pb import wire_pb2


@dataclass(frozen=True, slots=True)
class Summary:
    """What a node knows of the last rounds, short enough to be a question.

    `headers` holds a fingerprint of the headers of each round, `first_round` first; `records` is
    one of the valid proposals of all of them.
    """

    first_round: int
    headers: tuple[bytes, ...]
    records: bytes


@dataclass(frozen=True, slots=True)
class Difference:
    """Where a node stands, and what it knows and whoever asked may not.

    `round` is that of the record `head`. `headers` are hashes, those of the newest round first;
    so are `records`.
    """

    head: bytes
    round: int
    headers: tuple[bytes, ...]
    records: tuple[bytes, ...]


def encode_summary(summary: Summary) -> bytes:
    """The key of a request for SETS."""
    return wire_pb2.Summary(
        first_round=summary.first_round, headers=summary.headers, records=summary.records
    ).SerializeToString()


def decode_summary(raw: bytes) -> Summary:
    """Inverse of `encode_summary`."""
    try:
        message = wire_pb2.Summary.FromString(raw)
    except DecodeError:
        raise Reject("not a summary") from None
    if len(message.headers) > COMPARED_ROUNDS_MAX:
        raise Reject("a summary of more rounds than gossip carries")
    if {len(mark) for mark in (*message.headers, message.records)} != {FINGERPRINT_BYTES}:
        raise Reject("a fingerprint of the wrong length")
    return Summary(message.first_round, tuple(message.headers), message.records)


def encode_difference(difference: Difference) -> bytes:
    """Answer to SETS."""
    return wire_pb2.Difference(
        head=difference.head,
        round=difference.round,
        headers=difference.headers,
        records=difference.records,
    ).SerializeToString()


def decode_difference(raw: bytes) -> Difference:
    """Inverse of `encode_difference`."""
    try:
        message = wire_pb2.Difference.FromString(raw)
    except DecodeError:
        raise Reject("not a difference") from None
    if len(message.headers) > HEADERS_LISTED_MAX or len(message.records) > RECORDS_LISTED_MAX:
        raise Reject("more hashes than an answer may hold")
    names = (message.head, *message.headers, *message.records)
    if any(len(name) != HASH_BYTES for name in names):
        raise Reject("a hash of the wrong length")
    return Difference(message.head, message.round, tuple(message.headers), tuple(message.records))


def encode_header_names(names: Sequence[bytes]) -> bytes:
    """The key of a request for HEADERS: of at most HEADERS_PER_REQUEST_MAX of them."""
    return b"".join(names)


def decode_header_names(key: bytes) -> list[bytes]:
    """Inverse of `encode_header_names`."""
    if len(key) % HASH_BYTES or len(key) > HEADERS_PER_REQUEST_MAX * HASH_BYTES:
        raise Reject("not a number of hashes that may be asked for")
    return [key[at : at + HASH_BYTES] for at in range(0, len(key), HASH_BYTES)]


def encode_headers(raws: Iterable[bytes]) -> bytes:
    """Answer to HEADERS."""
    return wire_pb2.Headers(headers=raws).SerializeToString()


def decode_headers(raw: bytes) -> tuple[bytes, ...]:
    """Inverse of `encode_headers`."""
    try:
        message = wire_pb2.Headers.FromString(raw)
    except DecodeError:
        raise Reject("not a list of headers") from None
    if len(message.headers) > HEADERS_PER_REQUEST_MAX:
        raise Reject("more headers than can be asked for")
    if any(len(header) > HEADER_BYTES_MAX for header in message.headers):
        raise Reject("longer than a header can be")
    return tuple(message.headers)
