"""Signed messages: they round-trip, and only Reject comes of what nobody honest sends."""

import hashlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo_node.sim.keys import cheap_sign, cheap_verify, peer_name
from demo_protocol.errors import Reject
from demo_protocol.identity import Kind, signing_bytes
from demo_protocol.limits import (
    CONTRIBUTIONS_MAX,
    EVIDENCE_MAX,
    HEADER_BYTES_MAX,
    K_MAX,
    MEMBERSHIP_BYTES_MAX,
    NOTICE_BYTES_MAX,
    PAYLOAD_BYTES_MAX,
    PROPOSAL_BYTES_MAX,
)
from demo_protocol.messages import (
    Evidence,
    Header,
    Membership,
    Proposal,
    Sealed,
    check_signature,
    decode_header,
    decode_membership,
    decode_notice,
    decode_proposal,
    make_notice,
    seal_header,
    seal_membership,
    seal_proposal,
)
from demo_protocol.pb import wire_pb2
from tests.builders import RUN_ID, header, proposal, wish

PEER = peer_name(0)
SIGN = cheap_sign(PEER)

uint32 = st.integers(0, 2**32 - 1)
hashes = st.binary(min_size=32, max_size=32)
digests = st.binary(min_size=8, max_size=8)

headers = st.builds(
    Header,
    round=uint32,
    peer=st.just(PEER),
    base=hashes,
    digest=digests,
    vote=hashes,
    payload_hash=hashes,
    payload_bytes=st.integers(1, PAYLOAD_BYTES_MAX),
    k=st.integers(1, K_MAX),
    samples=uint32,
    loss_micronats=uint32,
) | st.builds(
    Header,
    round=uint32,
    peer=st.just(PEER),
    base=hashes,
    digest=digests,
    vote=hashes,
    payload_hash=st.just(b""),
    payload_bytes=st.just(0),
    k=st.just(0),
    samples=st.just(0),
    loss_micronats=st.just(0),
)
hash_lists = st.lists(hashes, max_size=8, unique=True).map(lambda found: tuple(sorted(found)))
proposals = st.builds(
    Proposal,
    round=uint32,
    peer=st.just(PEER),
    parent=hashes,
    parent_digest=digests,
    contributions=hash_lists,
    late=hash_lists,
    joins=st.lists(st.binary(max_size=20), max_size=4).map(tuple),
    leaves=st.lists(st.binary(max_size=20), max_size=4).map(tuple),
    evidence=st.lists(
        st.builds(
            Evidence,
            kind=st.sampled_from([Kind.HEADER, Kind.PROPOSAL]),
            first=st.binary(max_size=20),
            second=st.binary(max_size=20),
        ),
        max_size=EVIDENCE_MAX,
    ).map(tuple),
)
memberships = st.builds(Membership, joins=st.booleans(), peer=st.just(PEER), round=uint32)


@given(headers)
def test_a_header_round_trips(body: Header) -> None:
    sealed = seal_header(body, RUN_ID, SIGN)
    assert decode_header(sealed.raw, RUN_ID) == sealed
    check_signature(sealed, cheap_verify)


@given(proposals)
def test_a_proposal_round_trips(body: Proposal) -> None:
    sealed = seal_proposal(body, RUN_ID, SIGN)
    assert decode_proposal(sealed.raw, RUN_ID) == sealed
    check_signature(sealed, cheap_verify)


@given(proposals)
def test_a_notice_has_the_name_and_the_signature_of_its_proposal(body: Proposal) -> None:
    sealed = seal_proposal(body, RUN_ID, SIGN)
    notice = make_notice(sealed, RUN_ID)
    assert decode_notice(notice.raw, RUN_ID) == notice
    check_signature(notice, cheap_verify)
    assert (notice.hash, notice.kind) == (sealed.hash, sealed.kind)
    assert (notice.body.round, notice.body.peer, notice.body.parent) == (
        body.round,
        body.peer,
        body.parent,
    )
    assert len(notice.raw) < 250


@given(memberships)
def test_a_join_or_leave_round_trips(body: Membership) -> None:
    sealed = seal_membership(body, RUN_ID, SIGN)
    assert decode_membership(sealed.raw, RUN_ID) == sealed
    check_signature(sealed, cheap_verify)


DECODERS: list[Callable[[bytes, bytes], object]] = [
    decode_header,
    decode_membership,
    decode_notice,
    decode_proposal,
]


@pytest.mark.parametrize("decode", DECODERS)
@given(raw=st.binary(max_size=400))
def test_garbage_is_only_ever_rejected(
    decode: Callable[[bytes, bytes], object], raw: bytes
) -> None:
    with pytest.raises(Reject):
        decode(raw, RUN_ID)


def open_header(raw: bytes) -> None:
    check_signature(decode_header(raw, RUN_ID), cheap_verify)


def open_membership(raw: bytes) -> None:
    check_signature(decode_membership(raw, RUN_ID), cheap_verify)


def open_proposal(raw: bytes) -> None:
    check_signature(decode_proposal(raw, RUN_ID), cheap_verify)


@pytest.mark.parametrize(
    ("opened", "valid"),
    [
        (open_header, header().raw),
        (open_membership, wish().raw),
        (open_proposal, proposal(0, 0, RUN_ID, contributions=[header()]).raw),
    ],
)
@given(at=st.integers(0, 10**4), flip=st.integers(1, 255))
def test_a_message_with_one_byte_changed_is_rejected(
    opened: Callable[[bytes], None], valid: bytes, at: int, flip: int
) -> None:
    opened(valid)
    raw = bytearray(valid)
    raw[at % len(raw)] ^= flip
    with pytest.raises(Reject):
        opened(bytes(raw))


def test_rule_t7_what_is_signed_and_hashed_are_the_bytes_as_received() -> None:
    # A field that this version does not know stays part of what was signed.
    envelope = wire_pb2.Signed.FromString(header().raw)
    body = envelope.body + b"\xf8\x07\x01"
    raw = wire_pb2.Signed(
        body=body, signature=SIGN(signing_bytes(Kind.HEADER, RUN_ID, body))
    ).SerializeToString()
    sealed = decode_header(raw, RUN_ID)
    check_signature(sealed, cheap_verify)
    assert sealed.body == header().body
    assert sealed.hash != header().hash
    assert sealed.raw == raw


def test_a_message_of_another_run_is_badly_signed() -> None:
    with pytest.raises(Reject, match="bad signature"):
        check_signature(decode_header(header().raw, b"x" * 32), cheap_verify)


def resealed(message: wire_pb2.Header | wire_pb2.Membership) -> bytes:
    return wire_pb2.Signed(
        body=message.SerializeToString(), signature=bytes(64)
    ).SerializeToString()


def inner(sealed: Sealed[Header]) -> wire_pb2.Header:
    return wire_pb2.Header.FromString(wire_pb2.Signed.FromString(sealed.raw).body)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("peer", b"short"),
        ("base", b""),
        ("digest", bytes(9)),
        ("vote", bytes(31)),
        ("payload_hash", b""),
        ("payload_bytes", 0),
        ("payload_bytes", PAYLOAD_BYTES_MAX + 1),
        ("k", K_MAX + 1),
        ("k", 0),
    ],
)
def test_a_header_with_an_impossible_field_is_rejected(field: str, value: bytes | int) -> None:
    message = inner(header())
    setattr(message, field, value)
    with pytest.raises(Reject):
        decode_header(resealed(message), RUN_ID)


def test_rule_t4_a_heartbeat_states_no_payload() -> None:
    message = inner(header(k=0))
    decode_header(resealed(message), RUN_ID)
    message.payload_bytes = 1
    with pytest.raises(Reject):
        decode_header(resealed(message), RUN_ID)


MANY = [n.to_bytes(32, "big") for n in range(CONTRIBUTIONS_MAX + 1 - 2_000)]


@pytest.mark.parametrize(
    "lists",
    [
        {"contributions": [b"b" * 32, b"a" * 32]},
        {"contributions": [b"a" * 32, b"a" * 32]},
        {"late": [b"b" * 32, b"a" * 32]},
        {"late": [b"short"]},
        {"contributions": [n.to_bytes(32, "big") for n in range(2_000)], "late": MANY},
        {"joins": [b""] * 40, "leaves": [b""] * 25},
        {"parent_digest": b""},
    ],
    ids=["unsorted", "twice", "late unsorted", "length", "many", "many joins", "digest"],
)
def test_rule_15_a_proposal_of_impossible_form_is_rejected(lists: dict[str, list[bytes]]) -> None:
    content = {"parent_digest": bytes(8)} | lists
    with pytest.raises(Reject):
        decode_proposal(announced(wire_pb2.Proposal(**content)), RUN_ID)  # type: ignore[arg-type]  # wrong on purpose


def announced(message: wire_pb2.Proposal, **changes: bytes | int) -> bytes:
    """A proposal of this content, under a notice that fits it but for these changes."""
    content = message.SerializeToString()
    fields: dict[str, bytes | int] = {
        "round": 1,
        "peer": PEER,
        "parent": bytes(32),
        "content_hash": hashlib.sha256(content).digest(),
        "content_bytes": len(content),
    }
    notice = wire_pb2.Notice(**fields | changes)  # type: ignore[arg-type]  # wrong on purpose
    return wire_pb2.Signed(
        body=notice.SerializeToString(), signature=bytes(64), content=content
    ).SerializeToString()


@pytest.mark.parametrize(
    "changes",
    [
        {"peer": b"short"},
        {"parent": b""},
        {"content_hash": bytes(32)},
        {"content_hash": b""},
        {"content_bytes": 0},
        {"content_bytes": 11},
    ],
    ids=["peer", "parent", "other content", "no hash", "empty", "length"],
)
def test_rule_15_a_notice_that_does_not_fit_is_rejected(changes: dict[str, bytes | int]) -> None:
    message = wire_pb2.Proposal(parent_digest=bytes(8))
    decode_proposal(announced(message), RUN_ID)
    with pytest.raises(Reject):
        decode_proposal(announced(message, **changes), RUN_ID)


def test_only_a_proposal_has_content_beside_what_is_signed() -> None:
    """Nobody who passes a header or notice on can add to it."""
    for sealed, decode in ((header(), decode_header), (wish(), decode_membership)):
        envelope = wire_pb2.Signed.FromString(sealed.raw)
        envelope.content = b"more"
        with pytest.raises(Reject, match="content"):
            decode(envelope.SerializeToString(), RUN_ID)
    with pytest.raises(Reject, match="content"):
        decode_notice(proposal(0, 0, RUN_ID).raw, RUN_ID)


def test_rule_26_evidence_is_of_headers_or_proposals() -> None:
    message = wire_pb2.Proposal(
        parent_digest=bytes(8),
        evidence=[wire_pb2.Evidence(first=header().raw, second=header(samples=9).raw)],
    )
    with pytest.raises(Reject, match="unknown kind"):
        decode_proposal(announced(message), RUN_ID)
    message.evidence[0].kind = wire_pb2.Evidence.KIND_HEADER
    decode_proposal(announced(message), RUN_ID)
    for _ in range(EVIDENCE_MAX):
        message.evidence.append(message.evidence[0])
    with pytest.raises(Reject, match="more than"):
        decode_proposal(announced(message), RUN_ID)


def test_a_membership_of_an_unknown_kind_is_rejected() -> None:
    with pytest.raises(Reject, match="unknown kind"):
        decode_membership(resealed(wire_pb2.Membership(peer=PEER, round=1)), RUN_ID)


@pytest.mark.parametrize(
    ("decode", "bytes_max"),
    [
        (decode_header, HEADER_BYTES_MAX),
        (decode_membership, MEMBERSHIP_BYTES_MAX),
        (decode_notice, NOTICE_BYTES_MAX),
        (decode_proposal, PROPOSAL_BYTES_MAX),
    ],
)
def test_size_is_checked_before_anything_is_parsed(
    decode: Callable[[bytes, bytes], object], bytes_max: int
) -> None:
    with pytest.raises(Reject, match="at most"):
        decode(bytes(bytes_max + 1), RUN_ID)


def test_a_join_fits_what_is_reserved_for_it() -> None:
    assert len(wish(round_=2**32 - 1).raw) <= MEMBERSHIP_BYTES_MAX
