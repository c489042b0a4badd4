"""What is asked of others: headers, records and payloads that are named and not here."""

import itertools
from collections.abc import Iterator

from demo_protocol.chain import Record
from demo_protocol.effects import Effect, PullHeaders, PullPayload, PullRecords
from demo_protocol.limits import RECORDS_PER_REPLY_MAX
from demo_protocol.messages import Header, Proposal, Sealed
from demo_protocol.view import View


def pull_again(view: View) -> list[Effect]:
    """Rule 16: what a vote builds on and is not here is asked for in every round.

    Also the record itself, though the peer be long gone: nodes must count the same votes.
    """
    effects: list[Effect] = []
    chain, votes = view.chain, view.votes
    if any(vote not in chain for vote in votes.by_record):
        known, oldest = view.head_state.known, chain.root.round
        for peer, (round_, vote) in votes.newest.items():
            if vote not in chain and peer in known and round_ > oldest:
                effects += pull_towards(view, vote, round_, (peer,))
    seen: set[bytes] = set()
    for vote in votes.by_record:
        if vote not in chain:
            continue
        for step in chain.ancestors(vote):
            if step.hash in view.digests or step.hash in seen:
                break
            seen.add(step.hash)
            effects += pull_payloads(view, step)
    return effects


def pull_payloads(view: View, record: Record) -> list[Effect]:
    """Get what a record lists and is not here."""
    if view.holds_payloads(record):
        return []
    proposer = record.proposal.body.peer if record.proposal else view.me
    return [
        pull_payload(header.body, proposer)
        for header in record.contributions
        if not view.pool.is_held(header.body)
    ]


def find_missing_headers(view: View, proposal: Sealed[Proposal]) -> Iterator[bytes]:
    """Headers that a proposal lists and that are not here, by their hashes."""
    brought = view.pool.brought.get(proposal.hash, {})
    named = itertools.chain(proposal.body.contributions, proposal.body.late)
    missing = itertools.filterfalse(view.pool.headers.__contains__, named)
    return itertools.filterfalse(brought.__contains__, missing)


def lacks_headers(view: View, proposal: Sealed[Proposal]) -> bool:
    """Is any missing? Asked often, and of the first one that is no more is asked."""
    return next(find_missing_headers(view, proposal), None) is not None


def pull_headers(
    view: View, proposal: Sealed[Proposal], holders: tuple[bytes, ...]
) -> list[Effect]:
    """Get the headers that a proposal lists and that are not here, at most once a round."""
    missing = tuple(h for h in find_missing_headers(view, proposal) if view.should_pull(h))
    return [PullHeaders(missing, drop_repeats(holders))] if missing else []


def find_missing(view: View, record: bytes) -> bytes | None:
    """`record`, or its ancestor that is to be asked for; None where it is on a chain.

    Headers are asked for last, when the parent is here: whether they matter can be told then.
    """
    while (waiting := view.pool.pending.get(record)) is not None:
        if waiting.body.parent in view.chain:
            return record if lacks_headers(view, waiting) else None
        record = waiting.body.parent
    return None if record in view.chain else record


def pull_towards(
    view: View, record: bytes, round_: int | None, holders: tuple[bytes, ...]
) -> list[Effect]:
    """Get what is missing of `record` and its ancestors, at most once a round.

    `round_` is that of the message that named it: as many records are asked for as rounds have
    passed since our head's. None stands below a record that was pulled: that was not enough, so
    as many are asked for as an answer holds.
    """
    missing = find_missing(view, record)
    if missing is None or not view.should_pull(missing):
        return []
    count = RECORDS_PER_REPLY_MAX
    if round_ is not None:
        count = min(max(round_ - view.head_state.round, 1), count)
    return [PullRecords(missing, drop_repeats(holders), count)]


def pull_payload(header: Header, sender: bytes) -> PullPayload:
    """Get the payload of a header that `sender` handed over: its author has it first of all."""
    return PullPayload(
        header.payload_hash,
        header.payload_bytes,
        header.k,
        header.round,
        (sender,) if header.peer == sender else (header.peer, sender),
    )


def drop_repeats(peers: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """Each once, in the order given."""
    return tuple(dict.fromkeys(peers))
