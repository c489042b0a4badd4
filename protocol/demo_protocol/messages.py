"""Signed messages of the wire: dataclasses <-> protobuf, checked for shape on the way in.

Decoding never checks the signature: callers do the cheaper checks first, then `check_signature`.
Everything is hashed and signed as received; nothing is re-encoded to check it. Of a proposal a
short notice is signed, which names the rest by its hash: so two of them are told apart, and shown
to others, by their notices alone.
"""

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.message import DecodeError

from demo_protocol.errors import Reject
from demo_protocol.identity import Kind, Sign, Verify, compute_hash, signing_bytes
from demo_protocol.limits import (
    CONTRIBUTIONS_MAX,
    DIGEST_BYTES,
    EVIDENCE_MAX,
    GOSSIP_BYTES_MAX,
    HASH_BYTES,
    HEADER_BYTES_MAX,
    JOINS_MAX,
    K_MAX,
    MEMBERSHIP_BYTES_MAX,
    NOTICE_BYTES_MAX,
    PAYLOAD_BYTES_MAX,
    PEER_BYTES,
    PROPOSAL_BYTES_MAX,
    SIGNATURE_BYTES,
)
from demo_protocol.pb import wire_pb2


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """A contribution's announcement (rule 9). `k` 0 is a heartbeat (rule T4)."""

    round: int
    peer: bytes
    base: bytes
    digest: bytes
    vote: bytes
    payload_hash: bytes
    payload_bytes: int
    k: int
    samples: int
    loss_micronats: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """A wish to join or leave the run, signed in `round`.

    Who joins and is `never_drawn` follows the chain and cannot contribute, with a link too slow for
    it for instance: it is neither candidate nor member. `nonce` is a join's stamp (rule 26).
    """

    joins: bool
    peer: bytes
    round: int
    never_drawn: bool = False
    nonce: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """The signed part of a proposal: whose it is, what it continues, and its content's name."""

    round: int
    peer: bytes
    parent: bytes
    content_hash: bytes
    content_bytes: int


@dataclass(frozen=True, slots=True)
class Evidence:
    """Two messages of one kind, headers or proposals (their notices), as they were signed."""

    kind: Kind
    first: bytes
    second: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """What a round may decide (rules 13 and 15). `state_root` is empty where none is due."""

    round: int
    peer: bytes
    parent: bytes
    parent_digest: bytes
    contributions: tuple[bytes, ...]
    late: tuple[bytes, ...]
    joins: tuple[bytes, ...]
    leaves: tuple[bytes, ...]
    evidence: tuple[Evidence, ...] = ()
    state_root: bytes = b""


Body = TypeVar("Body", Header, Membership, Notice, Proposal)

_EVIDENCE_KINDS = {
    Kind.HEADER: wire_pb2.Evidence.KIND_HEADER,
    Kind.PROPOSAL: wire_pb2.Evidence.KIND_PROPOSAL,
}
_KINDS_OF_EVIDENCE = {number: kind for kind, number in _EVIDENCE_KINDS.items()}


@dataclass(frozen=True, slots=True)
class Sealed(Generic[Body]):
    """A message with the bytes it travels as. `hash` is its name."""

    body: Body
    kind: Kind
    hash: bytes
    raw: bytes
    signed: bytes
    signature: bytes


AnySealed = Sealed[Header] | Sealed[Membership] | Sealed[Notice] | Sealed[Proposal]


def check_signature(sealed: AnySealed, verify: Verify) -> None:
    """Raise Reject unless the message's author signed it."""
    if not verify(sealed.body.peer, sealed.signed, sealed.signature):
        raise Reject(f"bad signature on a {sealed.kind.value}")


def seal_header(header: Header, run_id: bytes, sign: Sign) -> Sealed[Header]:
    """Sign a header."""
    message = wire_pb2.Header(
        round=header.round,
        peer=header.peer,
        base=header.base,
        digest=header.digest,
        vote=header.vote,
        payload_hash=header.payload_hash,
        payload_bytes=header.payload_bytes,
        k=header.k,
        samples=header.samples,
        loss_micronats=header.loss_micronats,
    )
    return _seal(header, Kind.HEADER, message.SerializeToString(), run_id, sign)


def seal_membership(membership: Membership, run_id: bytes, sign: Sign) -> Sealed[Membership]:
    """Sign a join or leave."""
    kind = wire_pb2.Membership.KIND_JOIN if membership.joins else wire_pb2.Membership.KIND_LEAVE
    message = wire_pb2.Membership(
        kind=kind,
        peer=membership.peer,
        round=membership.round,
        never_drawn=membership.never_drawn,
        nonce=membership.nonce,
    )
    return _seal(membership, Kind.MEMBERSHIP, message.SerializeToString(), run_id, sign)


def seal_proposal(proposal: Proposal, run_id: bytes, sign: Sign) -> Sealed[Proposal]:
    """Sign a proposal, by way of its notice."""
    message = wire_pb2.Proposal(
        parent_digest=proposal.parent_digest,
        state_root=proposal.state_root,
        contributions=proposal.contributions,
        late=proposal.late,
        joins=proposal.joins,
        leaves=proposal.leaves,
        evidence=[
            wire_pb2.Evidence(kind=_EVIDENCE_KINDS[e.kind], first=e.first, second=e.second)
            for e in proposal.evidence
        ],
    )
    content = message.SerializeToString()
    notice = wire_pb2.Notice(
        round=proposal.round,
        peer=proposal.peer,
        parent=proposal.parent,
        content_hash=hashlib.sha256(content).digest(),
        content_bytes=len(content),
    )
    encoded = notice.SerializeToString()
    return _seal(proposal, Kind.PROPOSAL, encoded, run_id, sign, content)


def make_notice(proposal: Sealed[Proposal], run_id: bytes) -> Sealed[Notice]:
    """A proposal without its content, under the same name and signature."""
    envelope = wire_pb2.Signed()
    _parse(envelope, proposal.raw)
    envelope.ClearField("content")
    return decode_notice(envelope.SerializeToString(), run_id)


def decode_header(raw: bytes, run_id: bytes) -> Sealed[Header]:
    """Parse a header. Raises Reject where no honest peer would have sent it."""
    body, signature, _ = _open(raw, HEADER_BYTES_MAX)
    message = wire_pb2.Header()
    _parse(message, body)
    header = Header(
        round=message.round,
        peer=_exactly(message.peer, PEER_BYTES, "peer"),
        base=_exactly(message.base, HASH_BYTES, "base"),
        digest=_exactly(message.digest, DIGEST_BYTES, "digest"),
        vote=_exactly(message.vote, HASH_BYTES, "vote"),
        payload_hash=_exactly(message.payload_hash, HASH_BYTES if message.k else 0, "payload hash"),
        payload_bytes=message.payload_bytes,
        k=message.k,
        samples=message.samples,
        loss_micronats=message.loss_micronats,
    )
    if header.k > K_MAX or header.payload_bytes > PAYLOAD_BYTES_MAX:
        raise Reject("header announces a payload beyond every limit")
    if (header.k == 0) != (header.payload_bytes == 0):
        raise Reject("a heartbeat has no payload, a contribution has one")
    return _sealed(header, Kind.HEADER, body, signature, raw, run_id)


def decode_membership(raw: bytes, run_id: bytes) -> Sealed[Membership]:
    """Parse a join or leave. Raises Reject where no honest peer would have sent it."""
    body, signature, _ = _open(raw, MEMBERSHIP_BYTES_MAX)
    message = wire_pb2.Membership()
    _parse(message, body)
    if message.kind not in (wire_pb2.Membership.KIND_JOIN, wire_pb2.Membership.KIND_LEAVE):
        raise Reject("membership message of an unknown kind")
    membership = Membership(
        joins=message.kind == wire_pb2.Membership.KIND_JOIN,
        peer=_exactly(message.peer, PEER_BYTES, "peer"),
        round=message.round,
        never_drawn=message.never_drawn,
        nonce=message.nonce,
    )
    if membership.never_drawn and not membership.joins:
        raise Reject("a leave that says how its author joins")
    return _sealed(membership, Kind.MEMBERSHIP, body, signature, raw, run_id)


def decode_notice(raw: bytes, run_id: bytes) -> Sealed[Notice]:
    """Parse a proposal's notice. Raises Reject where no honest peer would have sent it."""
    body, signature, _ = _open(raw, NOTICE_BYTES_MAX)
    return _sealed(_notice(body), Kind.PROPOSAL, body, signature, raw, run_id)


def decode_announcement(
    raw: bytes, run_id: bytes
) -> tuple[Sealed[Notice], Sealed[Proposal] | None]:
    """A proposal as gossip carries it: its notice, and the whole where it is short (rule 15).

    Raises Reject where no honest peer would have sent it.
    """
    if len(raw) > GOSSIP_BYTES_MAX:
        raise Reject(f"message of {len(raw)} bytes, at most {GOSSIP_BYTES_MAX} are gossiped")
    envelope = wire_pb2.Signed()
    _parse(envelope, raw)
    if envelope.content:
        proposal = decode_proposal(raw, run_id)
        return make_notice(proposal, run_id), proposal
    notice = decode_notice(raw, run_id)
    if not GOSSIP_BYTES_MAX - NOTICE_BYTES_MAX < notice.body.content_bytes <= PROPOSAL_BYTES_MAX:
        raise Reject(f"a notice of {notice.body.content_bytes} bytes: short proposals travel whole")
    return notice, None


def encode_announcement(proposal: Sealed[Proposal], run_id: bytes) -> bytes:
    """A proposal as it is gossiped (rule 15): whole, or where it is long its notice."""
    if len(proposal.raw) <= GOSSIP_BYTES_MAX:
        return proposal.raw
    return make_notice(proposal, run_id).raw


def decode_proposal(raw: bytes, run_id: bytes) -> Sealed[Proposal]:
    """Parse a proposal. Raises Reject where no honest peer would have sent it."""
    body, signature, content = _open(raw, PROPOSAL_BYTES_MAX, with_content=True)
    notice = _notice(body)
    if len(content) != notice.content_bytes:
        raise Reject(f"a proposal of {len(content)} bytes, announced as {notice.content_bytes}")
    if hashlib.sha256(content).digest() != notice.content_hash:
        raise Reject("a proposal that is not what its notice names")
    message = wire_pb2.Proposal()
    _parse(message, content)
    if len(message.contributions) + len(message.late) > CONTRIBUTIONS_MAX:
        raise Reject(f"proposal lists more than {CONTRIBUTIONS_MAX} headers")
    if len(message.joins) + len(message.leaves) > JOINS_MAX:
        raise Reject(f"proposal lists more than {JOINS_MAX} joins and leaves")
    if len(message.evidence) > EVIDENCE_MAX:
        raise Reject(f"proposal lists evidence against more than {EVIDENCE_MAX} peers")
    proposal = Proposal(
        round=notice.round,
        peer=notice.peer,
        parent=notice.parent,
        parent_digest=_exactly(message.parent_digest, DIGEST_BYTES, "parent digest"),
        state_root=_exactly(message.state_root, HASH_BYTES if message.state_root else 0, "root"),
        contributions=_sorted_hashes(message.contributions),
        late=_sorted_hashes(message.late),
        joins=tuple(message.joins),
        leaves=tuple(message.leaves),
        evidence=tuple(_evidence(e) for e in message.evidence),
    )
    return _sealed(proposal, Kind.PROPOSAL, body, signature, raw, run_id)


def _notice(body: bytes) -> Notice:
    message = wire_pb2.Notice()
    _parse(message, body)
    return Notice(
        round=message.round,
        peer=_exactly(message.peer, PEER_BYTES, "peer"),
        parent=_exactly(message.parent, HASH_BYTES, "parent"),
        content_hash=_exactly(message.content_hash, HASH_BYTES, "content hash"),
        content_bytes=message.content_bytes,
    )


def _evidence(message: wire_pb2.Evidence) -> Evidence:
    if message.kind not in _KINDS_OF_EVIDENCE:
        raise Reject("evidence of an unknown kind")
    return Evidence(_KINDS_OF_EVIDENCE[message.kind], message.first, message.second)


def _seal(
    body: Body, kind: Kind, encoded: bytes, run_id: bytes, sign: Sign, content: bytes = b""
) -> Sealed[Body]:
    signature = sign(signing_bytes(kind, run_id, encoded))
    envelope = wire_pb2.Signed(body=encoded, signature=signature, content=content)
    return _sealed(body, kind, encoded, signature, envelope.SerializeToString(), run_id)


def _sealed(
    body: Body, kind: Kind, encoded: bytes, signature: bytes, raw: bytes, run_id: bytes
) -> Sealed[Body]:
    return Sealed(
        body=body,
        kind=kind,
        hash=compute_hash(kind, run_id, encoded),
        raw=raw,
        signed=signing_bytes(kind, run_id, encoded),
        signature=signature,
    )


def _open(raw: bytes, bytes_max: int, *, with_content: bool = False) -> tuple[bytes, bytes, bytes]:
    """(body, signature, content) of an envelope."""
    if len(raw) > bytes_max:
        raise Reject(f"message of {len(raw)} bytes, at most {bytes_max} are taken")
    envelope = wire_pb2.Signed()
    _parse(envelope, raw)
    if envelope.content and not with_content:
        raise Reject("only a proposal has content beside its signed body")
    return (
        envelope.body,
        _exactly(envelope.signature, SIGNATURE_BYTES, "signature"),
        envelope.content,
    )


def _parse(
    message: wire_pb2.Signed
    | wire_pb2.Header
    | wire_pb2.Membership
    | wire_pb2.Notice
    | wire_pb2.Proposal,
    raw: bytes,
) -> None:
    try:
        message.ParseFromString(raw)
    except DecodeError:
        raise Reject("not a protobuf message of this kind") from None


def _exactly(value: bytes, length: int, name: str) -> bytes:
    if len(value) != length:
        raise Reject(f"{name} has {len(value)} bytes, not {length}")
    return value


def _sorted_hashes(values: Sequence[bytes]) -> tuple[bytes, ...]:
    for value in values:
        _exactly(value, HASH_BYTES, "header hash")
    if any(a >= b for a, b in itertools.pairwise(values)):
        raise Reject("header hashes are not sorted and distinct")
    return tuple(values)
