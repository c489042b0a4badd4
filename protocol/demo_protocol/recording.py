"""Proposals become records, heard of by gossip or pulled as part of a chain (rules 2 and 15).

One whose parent or headers are not here waits for them in the pool.
"""

import contextlib
from collections import ChainMap
from collections.abc import Mapping

from demo_protocol.effects import Effect, KeepRecord
from demo_protocol.errors import Ignore, Reject
from demo_protocol.events import Bundle, ProposalFetched, RecordsFetched
from demo_protocol.identity import Kind
from demo_protocol.messages import (
    Header,
    Proposal,
    Sealed,
    check_signature,
    make_notice,
)
from demo_protocol.pulling import lacks_headers, pull_headers, pull_payloads, pull_towards
from demo_protocol.remembering import check_header, remember_header, remember_notice
from demo_protocol.rooting import check_root
from demo_protocol.schedule import has_begun
from demo_protocol.validate import validate_slot
from demo_protocol.view import View


def on_proposal(view: View, event: ProposalFetched) -> list[Effect]:
    """Take a whole proposal of which the notice was heard (rule 15).

    Raises Ignore where none such is awaited, Reject where it is not what the notice named.
    """
    proposal = view.decode_proposal(event.raw, view.run_id)
    if proposal.hash not in view.pool.awaited:
        raise Ignore("a proposal that nobody waits for")
    check_signature(proposal, view.verify)
    del view.pool.awaited[proposal.hash]
    effects: list[Effect] = []
    with contextlib.suppress(Reject):  # whoever gave it passed on what its author signed
        effects = take_proposal(view, proposal, (proposal.body.peer, event.sender))
    return effects + resolve_pending(view)


def on_records(view: View, event: RecordsFetched) -> list[Effect]:
    """Take part of a chain. Raises Reject, having changed nothing, on what no honest peer gives."""
    checked = [_check_bundle(view, bundle) for bundle in event.bundles]
    effects: list[Effect] = []
    for proposal, headers in checked:
        round_ = proposal.body.round
        if proposal.hash in view.chain or round_ <= view.chain.root.round:
            continue
        if not has_begun(view.manifest.schedule, round_, event.now_ms):
            continue
        if not _may_have_slot(view, proposal.body):
            continue
        view.pool.add_pending(proposal, headers)
        effects += resolve_pending(view)
        if proposal.hash in view.pool.pending:
            holders = (proposal.body.peer, event.sender)
            effects += pull_towards(view, proposal.body.parent, None, holders)
    return effects


def resolve_pending(view: View) -> list[Effect]:
    """Turn every waiting proposal whose parent and headers are here into a record."""
    effects: list[Effect] = []
    while ready := [
        proposal
        for proposal in view.pool.pending.values()
        if proposal.body.parent in view.chain and not lacks_headers(view, proposal)
    ]:
        for proposal in ready:
            brought = view.pool.drop_pending(proposal.hash)
            # It came by way of others, perhaps rounds ago: nobody here is to blame for it.
            with contextlib.suppress(Reject):
                effects += _add_record(view, proposal, brought)
    return effects


def take_proposal(
    view: View, proposal: Sealed[Proposal], holders: tuple[bytes, ...]
) -> list[Effect]:
    """Make it a record, or have it wait for what is missing. Raises Reject, see `_add_record`."""
    body = proposal.body
    if body.parent not in view.chain:
        view.pool.add_pending(proposal)
        return pull_towards(view, body.parent, body.round, holders)
    if not lacks_headers(view, proposal):
        return _add_record(view, proposal, {})
    validate_slot(body, view.chain[body.parent].state, view.manifest)
    view.pool.add_pending(proposal)
    return pull_headers(view, proposal, holders)


def _check_bundle(view: View, bundle: Bundle) -> tuple[Sealed[Proposal], list[Sealed[Header]]]:
    """A record as a peer gave it, its signatures checked, with the headers it lists and no more.

    What is known, or older than our chain, is not looked into: answers reach further than asked.
    """
    proposal = view.decode_proposal(bundle.proposal, view.run_id)
    if proposal.hash in view.chain or proposal.body.round <= view.chain.root.round:
        return proposal, []
    listed = {*proposal.body.contributions, *proposal.body.late}
    headers = [view.decode_header(raw, view.run_id) for raw in bundle.headers]
    for header in headers:
        if header.hash not in listed or header.body.round > proposal.body.round:
            raise Reject("a record with headers that are not its own")
        check_header(view, header)
    check_signature(proposal, view.verify)
    children = (p for p in view.pool.pending.values() if p.body.parent == proposal.hash)
    if any(child.body.round <= proposal.body.round for child in children):
        raise Reject("a record's round follows its parent's")  # so every descent has an end
    return proposal, headers


def _may_have_slot(view: View, body: Proposal) -> bool:
    """Might its author propose in its round on its parent? Told once that is here."""
    if body.parent not in view.chain:
        return True
    try:
        validate_slot(body, view.chain[body.parent].state, view.manifest)
    except Reject:
        return False
    return True


def _add_record(
    view: View, proposal: Sealed[Proposal], brought: Mapping[bytes, Sealed[Header]]
) -> list[Effect]:
    """Raises Reject, having changed nothing, where it is not valid by content (rule 15).

    `brought`: the headers that came with it; only now that it is valid are they remembered.
    """
    headers = ChainMap({**brought}, view.pool.headers) if brought else view.pool.headers
    record = view.chain.add(proposal, headers, view.verify)
    view.pool.awaited.pop(record.hash, None)
    effects: list[Effect] = [KeepRecord(record.hash)]
    for header in brought.values():
        effects += remember_header(view, header)
    if record.round >= view.round - view.manifest.agreement.late_rounds:
        remember_notice(view, make_notice(proposal, view.run_id))
    for offence in record.offences:
        if offence.first.kind is Kind.HEADER:  # also for who has not heard both headers (rule 18)
            view.votes.add_equivocation(offence.peer, offence.round)
    effects += [*check_root(view, record), *pull_payloads(view, record)]
    return effects + _pull_for_children(view, record.hash)


def _pull_for_children(view: View, parent: bytes) -> list[Effect]:
    """What waited for this record alone needs its headers now, if its author has a slot at all."""
    effects: list[Effect] = []
    for child in [p for p in view.pool.pending.values() if p.body.parent == parent]:
        if not _may_have_slot(view, child.body):
            view.pool.drop_pending(child.hash)
        elif lacks_headers(view, child):
            effects += pull_headers(view, child, (child.body.peer,))
    return effects
