"""Vectors: the manifest and the messages that are signed, one of each kind."""

from dataclasses import asdict
from typing import Any

from demo_protocol.admission import compute_hour, search_stamp
from demo_protocol.evidence import make_offence
from demo_protocol.identity import Kind, compute_stamp_seed, signing_bytes
from demo_protocol.manifest import compute_run_id, encode_manifest
from demo_protocol.messages import (
    Header,
    Membership,
    Notice,
    Proposal,
    Sealed,
    decode_notice,
    make_notice,
)
from tests.protocol_vectors.making import (
    MANIFEST,
    PEERS,
    RUN_ID,
    STAMPED,
    digest_after,
    make_header,
    make_wish,
    sign_proposal,
)


def manifest_case() -> dict[str, Any]:
    """Canonical text, run id, and what every signature of the run begins with."""
    return {
        "manifest": encode_manifest(MANIFEST).decode(),
        "run_id": RUN_ID.hex(),
        "signing_prefix": {kind.value: signing_bytes(kind, RUN_ID, b"").hex() for kind in Kind},
        "keys": [
            {"seed": bytes([n]).hex() * 32, "peer": peer.hex()} for n, peer in enumerate(PEERS)
        ],
    }


def messages_case() -> dict[str, Any]:
    """Fields, body, name and signature of each kind, and the envelope they travel in."""
    header = make_header(1, 5, RUN_ID)
    other = make_header(1, 5, RUN_ID, samples=17)
    proposal, rival = _proposal([header.hash]), _proposal([other.hash])
    notice = make_notice(proposal, RUN_ID)
    headers, notices = make_offence(header, other), make_offence(notice, make_notice(rival, RUN_ID))
    return {
        "run_id": RUN_ID.hex(),
        "header": _show(header),
        "heartbeat": _show(make_header(2, 5, RUN_ID, k=0)),
        "join": _show(make_wish(3, 5)),
        "join, never drawn": _show(make_wish(4, 5, never_drawn=True)),
        "leave": _show(make_wish(3, 6, joins=False)),
        "stamp": _stamp(),
        "notice": _show(notice),
        "proposal": {**_show(proposal), "content": _content(proposal, notice)},
        "evidence": {
            "of headers": {"first": headers.first.raw.hex(), "second": headers.second.raw.hex()},
            "of proposals": {"first": notices.first.raw.hex(), "second": notices.second.raw.hex()},
        },
    }


def _proposal(contributions: list[bytes]) -> Sealed[Proposal]:
    offence = make_offence(make_header(6, 4, RUN_ID), make_header(6, 4, RUN_ID, samples=1))
    late = sorted(make_header(author, 4, RUN_ID).hash for author in (1, 2))
    return sign_proposal(
        1,
        Proposal(
            round=5,
            peer=PEERS[1],
            parent=RUN_ID,
            parent_digest=digest_after(RUN_ID),
            contributions=tuple(contributions),
            late=tuple(late),
            joins=(make_wish(3, 5).raw,),
            leaves=(make_wish(5, 5, joins=False).raw,),
            evidence=(offence.evidence,),
            state_root=bytes(range(32)),
        ),
    )


def _content(proposal: Sealed[Proposal], notice: Sealed[Notice]) -> str:
    """The whole has a third field, which the notice's envelope lacks."""
    size = notice.body.content_bytes
    content = proposal.raw[-size:]
    assert decode_notice(notice.raw, RUN_ID).hash == proposal.hash
    return content.hex()


def _stamp() -> dict[str, Any]:
    """The first nonce that is good, in a run that wants 12 bits."""
    run_id = compute_run_id(STAMPED)
    hour = compute_hour(STAMPED.schedule, 400)
    seed = compute_stamp_seed(run_id, hour, PEERS[3])
    nonce = search_stamp(seed, STAMPED.agreement.stamp_bits, 0, 1 << 20)
    assert nonce is not None
    return {
        "run_id": run_id.hex(),
        "bits": STAMPED.agreement.stamp_bits,
        "hour": hour,
        "seed": seed.hex(),
        **_show(make_wish(3, 400, nonce=nonce, run_id=run_id)),
    }


def _show(
    sealed: Sealed[Header] | Sealed[Membership] | Sealed[Notice] | Sealed[Proposal],
) -> dict[str, Any]:
    body = sealed.signed[len(signing_bytes(sealed.kind, RUN_ID, b"")) :]
    return {
        "fields": {name: _plain(value) for name, value in asdict(sealed.body).items()},
        "body": body.hex(),
        "hash": sealed.hash.hex(),
        "signature": sealed.signature.hex(),
        "raw": sealed.raw.hex(),
    }


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value
