"""Gossip is judged, and headers that were asked for (rules 2, 8, 13 and 26)."""

from demo_protocol.admission import is_admitted
from demo_protocol.effects import Effect, KeyInUse, PullProposal, Refused
from demo_protocol.errors import Ignore, Reject
from demo_protocol.events import GossipBatch, GossipReceived, HeadersFetched
from demo_protocol.identity import Kind
from demo_protocol.limits import HEADERS_PER_ROUND_MAX
from demo_protocol.manifest import has_ended
from demo_protocol.messages import (
    Header,
    Membership,
    Sealed,
    check_signature,
)
from demo_protocol.pulling import drop_repeats, find_missing_headers, pull_payload, pull_towards
from demo_protocol.recording import resolve_pending, take_proposal
from demo_protocol.remembering import check_header, remember_header, remember_notice
from demo_protocol.roster import was_due
from demo_protocol.schedule import has_begun
from demo_protocol.validate import accepted_rounds, validate_round, validate_slot
from demo_protocol.view import View


def on_gossip(view: View, event: GossipReceived) -> list[Effect]:
    """Take a gossiped message. Raises Ignore or Reject, having changed nothing."""
    match event.kind:
        case Kind.HEADER:
            header = view.decode_header(event.raw, view.run_id)
            return _on_header(view, header, event.sender, _accepted_rounds(view, event.now_ms))
        case Kind.PROPOSAL:
            return _on_announcement(view, event)
        case Kind.MEMBERSHIP:
            wish = view.decode_membership(event.raw, view.run_id)
            return _on_membership(view, wish, event.sender, _accepted_rounds(view, event.now_ms))


def blames_sender(view: View, event: GossipReceived) -> bool:
    """Of a message that was just Rejected: should who handed it over have seen that itself?

    What a message says, and its signature, everybody can check before passing it on. Whether a
    proposal fits its parent and its headers only who has those: of that its author is guilty.
    """
    if event.kind is not Kind.PROPOSAL:
        return True
    try:
        notice, _ = view.decode_announcement(event.raw, view.run_id)
        check_signature(notice, view.verify)
    except Reject:
        return True
    return notice.body.peer == event.sender


def on_gossip_batch(view: View, event: GossipBatch) -> list[Effect]:
    """Take each of several messages, or refuse it alone."""
    effects: list[Effect] = []
    accepted = _accepted_rounds(view, event.now_ms)
    for kind, raw, sender in event.messages:
        try:
            if kind is Kind.HEADER:  # most are, and thousands of them
                header = view.decode_header(raw, view.run_id)
                effects += _on_header(view, header, sender, accepted)
            elif kind is Kind.MEMBERSHIP:
                wish = view.decode_membership(raw, view.run_id)
                effects += _on_membership(view, wish, sender, accepted)
            else:
                effects += on_gossip(view, GossipReceived(event.now_ms, kind, raw, sender))
        except (Ignore, Reject) as error:
            # Its traceback would hold this very list: a cycle for every message.
            effects.append(Refused(kind, sender, error.with_traceback(None)))
    return effects


def on_headers(view: View, event: HeadersFetched) -> list[Effect]:
    """Take headers that waiting proposals name: older ones too, they come as part of a chain.

    None of rounds that have not begun: nothing could outdate such a vote. Any other header is
    taken as it would be of gossip, which may have lost it (rule 23).

    Raises Reject, having changed nothing, where an honest peer would have given none of them.
    """
    wanted = {
        name
        for waiting in view.pool.pending.values()
        if waiting.body.parent in view.chain  # of others none was asked for
        for name in find_missing_headers(view, waiting)
    }
    headers = {h.hash: h for h in (view.decode_header(raw, view.run_id) for raw in event.raws)}
    for name, header in headers.items():
        if name in wanted or _is_news(view, header, event.now_ms):
            check_header(view, header)
    effects: list[Effect] = []
    for name, header in headers.items():
        is_timely = has_begun(view.manifest.schedule, header.body.round, event.now_ms)
        if name in wanted and is_timely and _has_room(view, header.body):
            effects += remember_header(view, header)
        elif _is_news(view, header, event.now_ms):  # asked again: one before it may be its twin
            effects += _take_news(view, header, event.sender)
    return effects + resolve_pending(view)


def _is_news(view: View, header: Sealed[Header], now_ms: int) -> bool:
    """Would it be taken of gossip, if its author signed it?"""
    try:
        _check_news(view, header, _accepted_rounds(view, now_ms))
    except Ignore:
        return False
    return True


def _on_header(view: View, header: Sealed[Header], sender: bytes, accepted: range) -> list[Effect]:
    _check_news(view, header, accepted)
    view.check_header(header, view.manifest, view.schema, view.verify)
    return _take_news(view, header, sender)


def _check_news(view: View, header: Sealed[Header], accepted: range) -> None:
    body, pool = header.body, view.pool
    # [IGNORE] it is of a round that gossip still carries
    validate_round(body.round, accepted)
    # [IGNORE] the run goes on, or ended so recently that votes still decide what its end was
    if has_ended(view.manifest, body.round - view.manifest.agreement.late_rounds):
        raise Ignore("the run has ended")
    # [IGNORE] it is new
    if header.hash in pool.headers:
        raise Ignore("header is known")
    # [IGNORE] there is room, or the chain knows its author
    if not _has_room(view, body):
        raise Ignore("too many headers of strangers in this round")
    # [IGNORE] it was its author's turn, by the record that it votes for, if that is here
    if not _may_be_due(view, body):
        raise Ignore("its author has no turn in this round")
    # [IGNORE] it is its author's first of this round, or the second: then others shall know, too
    if pool.second and body.peer in pool.second.get(body.round, ()):
        raise Ignore("its author is known to sign several headers")


def _has_room(view: View, body: Header) -> bool:
    """Candidates and those whose membership expired come in by their headers: they are heard."""
    heard = view.pool.by_round.get(body.round, ())
    return len(heard) < HEADERS_PER_ROUND_MAX or body.peer in view.head_state.known


def _take_news(view: View, header: Sealed[Header], sender: bytes) -> list[Effect]:
    """Take a header that was checked, from gossip or from a peer that was asked for news."""
    body, pool = header.body, view.pool
    is_twins = body.peer == view.me and _is_twins(view, header)
    effects = remember_header(view, header)
    if pool.pending:
        effects += resolve_pending(view)
    if is_twins:
        effects.append(KeyInUse(body.round))
    is_first = pool.by_round[body.round][body.peer].hash == header.hash
    wants_payload = is_first and not pool.is_held(body)
    wants_record = body.vote not in view.chain
    if not (wants_payload or wants_record) or not view.is_followed(body.peer):
        return effects
    if wants_payload:
        effects.append(pull_payload(body, sender))
    if wants_record:
        effects += pull_towards(view, body.vote, body.round, (body.peer, sender))
    return effects


def _may_be_due(view: View, body: Header) -> bool:
    """Heads differ for a moment, so its author's counts: that is what a vote names."""
    if not view.manifest.agreement.contributors or body.vote not in view.chain:
        return True
    state = view.chain[body.vote].state
    return was_due(state, body.peer, body.round, view.manifest.agreement)


def _is_twins(view: View, header: Sealed[Header]) -> bool:
    """Is it signed with our key, and not by us? What we said before a restart is ours."""
    body = header.body
    own = view.pool.by_round.get(body.round, {}).get(view.me)
    return body.round > view.signed_round if own is None else own.hash != header.hash


def _on_announcement(view: View, event: GossipReceived) -> list[Effect]:
    notice, proposal = view.decode_announcement(event.raw, view.run_id)
    body = notice.body
    # [IGNORE] it is of a round that gossip still carries
    validate_round(body.round, _accepted_rounds(view, event.now_ms))
    # [IGNORE] it is new
    known = view.pool.notices.get((body.round, body.peer))
    is_noted = known is not None and known.hash == notice.hash
    if is_noted or notice.hash in view.chain or notice.hash in view.pool.pending:
        raise Ignore("proposal is known")
    # [IGNORE] it is its author's first of this round, over all parents (rule 13), or the second:
    # then others shall know, too
    if (body.round, body.peer) in view.pool.repeated:
        raise Ignore("its author is known to make several proposals")
    # [REJECT] its author has a slot, where that can be told already
    if body.parent in view.chain:
        validate_slot(body, view.chain[body.parent].state, view.manifest)
    # [IGNORE] else the chain knows its author: what others build on is named by members' votes
    elif not view.is_known(body.peer):
        raise Ignore("a stranger's proposal on a record that is not here")
    # [REJECT] its author signed it
    check_signature(notice, view.verify)
    effects: list[Effect] = []
    holders = (body.peer, event.sender)
    if proposal is not None and known is None:
        # [REJECT] it is valid by content
        effects = take_proposal(view, proposal, holders)
    elif known is None:
        view.pool.await_proposal(notice)
        effects = [PullProposal(notice.hash, drop_repeats(holders))]
        effects += pull_towards(view, body.parent, body.round, holders)
    remember_notice(view, notice)
    return effects + resolve_pending(view)


def _on_membership(
    view: View, wish: Sealed[Membership], sender: bytes, accepted: range
) -> list[Effect]:
    body, pool = wish.body, view.pool
    # [IGNORE] it is of a round that gossip still carries
    validate_round(body.round, accepted)
    # [IGNORE] its author is not removed (rule 26)
    known = view.head_state.known.get(body.peer)
    if known is not None and known.removed_until > body.round:
        raise Ignore("its author is removed")
    # [IGNORE] it is newer than what we have of this peer
    if not pool.is_newer(body):
        raise Ignore("membership is known")
    # [IGNORE] its author is in, or wants to be: strangers fill no memory with leaves
    if not body.joins and known is None and body.peer not in pool.wishes:
        raise Ignore("a leave of who is not in")
    # [REJECT] its author is on the list, or has done the work (rule 26)
    if not is_admitted(body, view.manifest, view.run_id):
        raise Reject("a join of who is not admitted")
    check_signature(wish, view.verify)
    header = pool.by_round.get(body.round, {}).get(body.peer)
    if header is None or pool.is_held(header.body):
        pool.add_wish(wish)
        return []
    # Its header came first, and nothing was asked for while it was a stranger's.
    was_followed = view.is_followed(body.peer)
    pool.add_wish(wish)
    if was_followed or not view.is_followed(body.peer):
        return []
    return [pull_payload(header.body, sender)]


def _accepted_rounds(view: View, now_ms: int) -> range:
    return accepted_rounds(view.manifest.schedule, view.manifest.agreement.late_rounds, now_ms)
