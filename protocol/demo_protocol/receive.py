"""What comes from others: judged, remembered, and turned into records (rules 2, 8, 13, 15)."""

from demo_protocol.chain import Record
from demo_protocol.errors import Ignore, Reject
from demo_protocol.events import (
    DigestAccused,
    Effect,
    GossipReceived,
    HeadersFetched,
    KeepRecord,
    PullHeaders,
    PullPayload,
    PullRecords,
    RecordsFetched,
)
from demo_protocol.identity import Kind
from demo_protocol.limits import HEADERS_PER_ROUND_MAX
from demo_protocol.messages import (
    Header,
    Membership,
    Proposal,
    Sealed,
    check_signature,
    decode_header,
    decode_membership,
    decode_proposal,
)
from demo_protocol.payload import payload_bytes
from demo_protocol.validate import validate_payload_size, validate_round
from demo_protocol.view import View


def on_gossip(view: View, event: GossipReceived) -> list[Effect]:
    """Take a gossiped message. Raises Ignore or Reject, having changed nothing."""
    match event.kind:
        case Kind.HEADER:
            return _on_header(view, decode_header(event.raw, view.run_id), event)
        case Kind.PROPOSAL:
            return _on_proposal(view, decode_proposal(event.raw, view.run_id), event)
        case Kind.MEMBERSHIP:
            return _on_membership(view, decode_membership(event.raw, view.run_id), event)


def on_headers(view: View, event: HeadersFetched) -> list[Effect]:
    """Take headers that proposals named: older ones too, they come as part of a chain."""
    effects: list[Effect] = []
    for raw in event.raws:
        effects += _take_header(view, decode_header(raw, view.run_id))
    return effects + resolve_pending(view)


def on_records(view: View, event: RecordsFetched) -> list[Effect]:
    """Take part of a chain. Raises Reject at the first thing no honest peer would give."""
    effects: list[Effect] = []
    for bundle in event.bundles:
        proposal = decode_proposal(bundle.proposal, view.run_id)
        if proposal.hash in view.chain or proposal.body.round <= view.chain.root.round:
            continue
        for raw in bundle.headers:
            effects += _take_header(view, decode_header(raw, view.run_id))
        check_signature(proposal, view.verify)
        view.pool.add_pending(proposal)
        effects += resolve_pending(view)
        if proposal.hash in view.pool.pending:
            effects += _pull_missing(view, proposal.body, event.sender)
    return effects


def pull_again(view: View) -> list[Effect]:
    """Rule 16: what a vote builds on and is not here is asked for in every round."""
    effects: list[Effect] = []
    seen: set[bytes] = set()
    for _round, vote in view.votes.newest.values():
        if vote not in view.chain:
            continue
        for step in view.chain.ancestors(vote):
            if step.hash in view.digests or step.hash in seen:
                break
            seen.add(step.hash)
            effects += pull_payloads(view, step)
    return effects


def pull_payloads(view: View, record: Record) -> list[Effect]:
    """Get what a record lists and is not here."""
    proposer = record.proposal.body.peer if record.proposal else view.me
    return [
        _pull_payload(header.body, proposer)
        for header in record.contributions
        if not view.pool.is_held(header.body)
    ]


def resolve_pending(view: View) -> list[Effect]:
    """Turn every waiting proposal whose parent and headers are here into a record."""
    effects: list[Effect] = []
    progress = True
    while progress:
        progress = False
        for proposal in list(view.pool.pending.values()):
            if not _missing(view, proposal.body) and proposal.body.parent in view.chain:
                del view.pool.pending[proposal.hash]
                progress = True
                effects += _add_record(view, proposal)
    return effects


def _on_header(view: View, header: Sealed[Header], event: GossipReceived) -> list[Effect]:
    body = header.body
    # [IGNORE] it is of a round that gossip still carries
    _validate_round(view, body.round, event.now_ms)
    # [IGNORE] it is new
    if header.hash in view.pool.headers:
        raise Ignore("header is known")
    # [IGNORE] there is room, or its author is a member
    room = len(view.pool.by_round.get(body.round, ())) < HEADERS_PER_ROUND_MAX
    if not room and body.peer not in view.chain[view.head].members:
        raise Ignore("too many headers of strangers in this round")
    first = view.pool.by_round.get(body.round, {}).get(body.peer)
    if first is not None:
        # [IGNORE] it is its author's only one of this round: else the author counts nowhere
        check_signature(header, view.verify)
        view.votes.equivocators.add(body.peer)
        raise Ignore("second header of one peer in one round")
    effects = _take_header(view, header) + resolve_pending(view)
    if not view.pool.is_held(body):
        effects.append(_pull_payload(body, event.sender))
    if body.vote not in view.chain and view.should_pull(body.vote):
        effects.append(PullRecords(body.vote, _holders(body.peer, event.sender)))
    return effects


def _take_header(view: View, header: Sealed[Header]) -> list[Effect]:
    """Remember a header and count its vote. Raises Reject on a bad one."""
    if header.hash in view.pool.headers:
        return []
    if header.body.k > view.manifest.learning.k:
        raise Reject(f"k {header.body.k} is beyond the manifest's")
    if header.body.k:
        validate_payload_size(header.body, payload_bytes(view.schema, header.body.k))
    check_signature(header, view.verify)
    view.pool.add_header(header)
    view.votes.add(header.body.peer, header.body.round, header.body.vote)
    if view.is_accused(header.body):
        return [DigestAccused(header.body.peer, header.body.base)]
    return []


def _on_proposal(view: View, proposal: Sealed[Proposal], event: GossipReceived) -> list[Effect]:
    body = proposal.body
    # [IGNORE] it is of a round that gossip still carries
    _validate_round(view, body.round, event.now_ms)
    # [IGNORE] it is its author's first of this round, over all parents (rule 13)
    known = view.pool.proposals.get((body.round, body.peer))
    if known is not None:
        raise Ignore("proposal is known" if known == proposal.hash else "second proposal")
    if proposal.hash in view.chain or proposal.hash in view.pool.pending:
        raise Ignore("proposal is known")
    # [REJECT] its author signed it
    check_signature(proposal, view.verify)
    view.pool.proposals[body.round, body.peer] = proposal.hash
    view.pool.add_pending(proposal)
    effects = resolve_pending(view)
    if proposal.hash in view.pool.pending:
        effects += _pull_missing(view, body, event.sender)
    return effects


def _on_membership(view: View, wish: Sealed[Membership], event: GossipReceived) -> list[Effect]:
    # [IGNORE] it is of a round that gossip still carries
    _validate_round(view, wish.body.round, event.now_ms)
    # [IGNORE] it is newer than what we have of this peer
    old = view.pool.wishes.get(wish.body.peer)
    if old is not None and old.body.round >= wish.body.round:
        raise Ignore("membership is known")
    check_signature(wish, view.verify)
    view.pool.add_wish(wish)
    return []


def _validate_round(view: View, round_: int, now_ms: int) -> None:
    validate_round(
        round_,
        schedule=view.manifest.schedule,
        late_rounds=view.manifest.agreement.late_rounds,
        now_ms=now_ms,
    )


def _missing(view: View, body: Proposal) -> list[bytes]:
    return [h for h in (*body.contributions, *body.late) if h not in view.pool.headers]


def _pull_missing(view: View, body: Proposal, sender: bytes) -> list[Effect]:
    effects: list[Effect] = []
    holders = _holders(body.peer, sender)
    if body.parent not in view.chain and view.should_pull(body.parent):
        effects.append(PullRecords(body.parent, holders))
    missing = tuple(h for h in _missing(view, body) if view.should_pull(h))
    if missing:
        effects.append(PullHeaders(missing, holders))
    return effects


def _add_record(view: View, proposal: Sealed[Proposal]) -> list[Effect]:
    try:
        record = view.chain.add(proposal, view.pool.headers, view.verify)
    except Reject:
        # It came by way of others, perhaps rounds ago: nobody here is to blame, it is just no
        # record.
        return []
    return [KeepRecord(record.hash), *pull_payloads(view, record)]


def _pull_payload(header: Header, sender: bytes) -> PullPayload:
    return PullPayload(
        header.payload_hash,
        header.payload_bytes,
        header.k,
        header.round,
        _holders(header.peer, sender),
    )


def _holders(*peers: bytes) -> tuple[bytes, ...]:
    return tuple(dict.fromkeys(peers))
