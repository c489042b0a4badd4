"""Is this message acceptable? Cheapest question first; every answer is Ignore or Reject.

Gossip validation may look at the clock and at what is known (rules 2, 11 and 13). Validity of a
proposal as a record is by content alone (rule 15): every node answers alike, whenever it asks.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from demo_protocol.admission import is_admitted
from demo_protocol.errors import Ignore, Reject
from demo_protocol.evidence import Offence, check_offence, is_offence_usable, open_evidence
from demo_protocol.identity import Verify
from demo_protocol.manifest import Agreement, Manifest, carries_root, has_ended
from demo_protocol.messages import (
    Header,
    Membership,
    Notice,
    Proposal,
    Sealed,
    check_signature,
    decode_membership,
)
from demo_protocol.payload import payload_bytes_range
from demo_protocol.roster import (
    ChainState,
    compute_slot,
    count_places,
    get_contributors,
    get_member_names,
    was_due,
)
from demo_protocol.schedule import Schedule, round_at
from demo_protocol.schema import Schema


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """What a proposal's hashes, wishes and evidence stand for, checked."""

    contributions: tuple[Sealed[Header], ...]
    late: tuple[Sealed[Header], ...]
    joins: tuple[Membership, ...]
    leaves: tuple[Membership, ...]
    offences: tuple[Offence, ...]


def accepted_rounds(schedule: Schedule, late_rounds: int, now_ms: int) -> range:
    """Rule 2: gossip carries rounds [now - L, now], and those up to skew_max_ms early."""
    newest = round_at(schedule, now_ms + schedule.skew_max_ms)
    return range(round_at(schedule, now_ms) - late_rounds, newest + 1)


def validate_round(round_: int, accepted: range) -> None:
    """Raise Ignore for a message of a round that is not `accepted` (rule 2)."""
    # [IGNORE] the round has begun, allowing for skew
    if round_ >= accepted.stop:
        raise Ignore(f"round {round_} has not begun")
    # [IGNORE] it is not too old to matter
    if round_ < accepted.start:
        raise Ignore(f"round {round_} is too old")


def validate_payload_size(header: Header, lengths: range) -> None:
    """Rule T8: manifest and k bound a payload's length, and its header states it."""
    if header.payload_bytes not in lengths:
        raise Reject(
            f"a payload of k {header.k} has {lengths.start} to {lengths.stop - 1} bytes,"
            f" not {header.payload_bytes}"
        )


def check_header(
    header: Sealed[Header], manifest: Manifest, schema: Schema, verify: Verify
) -> None:
    """Raise Reject where no honest peer would have signed this header, or its author did not."""
    k = header.body.k
    if k > manifest.learning.k:
        raise Reject(f"k {k} is beyond the manifest's")
    if k:
        validate_payload_size(header.body, payload_bytes_range(schema, k))
    check_signature(header, verify)


def validate_proposal(
    proposal: Sealed[Proposal],
    parent: ChainState,
    headers: Mapping[bytes, Sealed[Header]],
    *,
    manifest: Manifest,
    run_id: bytes,
    verify: Verify,
) -> Listed:
    """Check a proposal against its parent, by content alone; return what it lists.

    `headers` holds every header it names (signatures checked). Raises Reject.
    """
    body = proposal.body
    validate_slot(body, parent, manifest)
    if bool(body.state_root) != carries_root(manifest.agreement, parent.height + 1):
        raise Reject("a state's root where none is due, or none where one is (rule 21)")
    joins = _wishes(body.joins, parent, body.round, manifest, run_id, verify, joins=True)
    leaves = _wishes(body.leaves, parent, body.round, manifest, run_id, verify, joins=False)
    if len(joins) > count_places(parent, manifest.agreement):
        raise Reject("more joins than there are places for candidates")
    if {w.peer for w in joins} & {w.peer for w in leaves}:
        raise Reject("one peer joins and leaves in one record")
    contributions = tuple(headers[h] for h in body.contributions)
    late = tuple(headers[h] for h in body.late)
    offences = _offences(body, parent, manifest, run_id, verify)
    listed = {h.body.peer for h in (*contributions, *late)} | {w.peer for w in (*joins, *leaves)}
    if any(offence.peer in listed for offence in offences):
        raise Reject("a record lists what a peer sent that it removes")
    if not contributions:
        raise Reject("a record lists at least one contribution")
    joining = {w.peer for w in joins}
    _validate_contributions(contributions, body.round, parent, joining, manifest.agreement)
    _validate_late(late, body.round, parent, manifest.agreement)
    if not get_member_names(parent, manifest.agreement) and all(
        h.body.peer != body.peer for h in contributions
    ):
        raise Reject("under a parent without members only a contributor proposes (rule 14)")
    return Listed(
        contributions=contributions, late=late, joins=joins, leaves=leaves, offences=offences
    )


def validate_slot(body: Proposal | Notice, parent: ChainState, manifest: Manifest) -> None:
    """Rules 12 and 14: may its author propose on this parent in this round at all?"""
    if has_ended(manifest, body.round):
        raise Reject("the run had ended by then")
    if body.round <= parent.round:
        raise Reject("a record's round follows its parent's")
    slot = compute_slot(parent, body.peer, body.round, manifest.agreement)
    if slot is None or slot >= manifest.schedule.slots:
        raise Reject("its author has no slot in this round")


def _wishes(
    raws: Sequence[bytes],
    parent: ChainState,
    round_: int,
    manifest: Manifest,
    run_id: bytes,
    verify: Verify,
    *,
    joins: bool,
) -> tuple[Membership, ...]:
    wishes = [decode_membership(raw, run_id) for raw in raws]
    peers = [w.body.peer for w in wishes]
    if any(a >= b for a, b in itertools.pairwise(peers)):
        raise Reject("joins and leaves are sorted by peer, one each")
    for wish in wishes:
        if wish.body.joins != joins:
            raise Reject("a join among the leaves, or the other way round")
        if not is_wish_usable(wish.body, parent, round_, manifest.agreement.late_rounds):
            raise Reject("a join or leave that does not fit the parent")
        if not is_admitted(wish.body, manifest, run_id):
            raise Reject("a join of who is not admitted")
        check_signature(wish, verify)
    return tuple(w.body for w in wishes)


def _offences(
    body: Proposal, parent: ChainState, manifest: Manifest, run_id: bytes, verify: Verify
) -> tuple[Offence, ...]:
    """Rule 26: the peers that it lists evidence against."""
    offences = tuple(open_evidence(evidence, run_id) for evidence in body.evidence)
    if any(a.peer >= b.peer for a, b in itertools.pairwise(offences)):
        raise Reject("evidence is sorted by peer, one each")
    for offence in offences:
        if not is_offence_usable(offence, parent, body.round, manifest.agreement.forget_rounds):
            raise Reject("evidence that does not fit the parent")
        check_offence(offence, verify)
    return offences


def is_wish_usable(wish: Membership, parent: ChainState, round_: int, late_rounds: int) -> bool:
    """May a record of `round_` on `parent` list this join or leave? Old ones cannot be replayed."""
    if not round_ - late_rounds <= wish.round <= round_:
        return False
    known = parent.known.get(wish.peer)
    if wish.joins:
        return known is None or (
            (known.left or known.never_drawn != wish.never_drawn)
            and wish.round > known.since_round
            and round_ >= known.removed_until
        )
    return known is not None and not known.left and wish.round >= known.since_round


def _validate_contributions(
    headers: Sequence[Sealed[Header]],
    round_: int,
    parent: ChainState,
    joining: set[bytes],
    agreement: Agreement,
) -> None:
    due = get_contributors(parent, round_, agreement)
    authors = set()
    for header in (h.body for h in headers):
        if header.round != round_:
            raise Reject("a contribution of another round")
        if header.peer in authors:
            raise Reject("two contributions of one peer")
        authors.add(header.peer)
        if due is not None:
            if header.peer not in due:
                raise Reject("a contribution of a peer whose turn it is not")
            continue
        known = parent.known.get(header.peer)
        if header.peer not in joining and (known is None or known.left):
            raise Reject("a contribution of a peer that has not joined")


def _validate_late(
    headers: Sequence[Sealed[Header]], round_: int, parent: ChainState, agreement: Agreement
) -> None:
    credited = set(parent.credits)
    for header in (h.body for h in headers):
        if not round_ - agreement.late_rounds <= header.round < round_:
            raise Reject("a late header outside the last rounds")
        if (header.round, header.peer) in credited:
            raise Reject("a header credited twice on one chain")
        credited.add((header.round, header.peer))
        known = parent.known.get(header.peer)
        if known is None or known.left:
            raise Reject("a late header of a peer that has not joined")
        if not was_due(parent, header.peer, header.round, agreement):
            raise Reject("a late header of a peer whose turn it was not")
