"""Making a proposal: who may, when, and what it lists (rules 8, 12 to 15)."""

from demo_protocol.evidence import Offence, is_offence_usable
from demo_protocol.identity import compute_waiting_hash
from demo_protocol.limits import CONTRIBUTIONS_MAX, EVIDENCE_MAX, JOINS_MAX
from demo_protocol.manifest import carries_root
from demo_protocol.messages import Header, Membership, Proposal, Sealed, seal_proposal
from demo_protocol.roster import compute_slot, count_offered_places, get_contributors, was_due
from demo_protocol.schedule import settle_start_ms, slot_start_ms
from demo_protocol.validate import is_wish_usable
from demo_protocol.view import View


def make_proposal(view: View, now_ms: int) -> Sealed[Proposal] | None:
    """The proposal this node owes the running round now, or None.

    Rule 12: in its slot, when no proposal of this round came that continues its head, is covered,
    and whose payloads are all here.
    """
    manifest, round_ = view.manifest, view.round
    parent = view.head_state
    begin_ms = slot_start_ms(manifest.schedule, round_, 0)
    end_ms = settle_start_ms(manifest.schedule, round_)
    if parent.round >= round_ or not begin_ms <= now_ms < end_ms:
        return None
    slot = compute_slot(parent, view.me, round_, manifest.agreement)
    if slot is None or slot >= manifest.schedule.slots:
        return None
    if now_ms < slot_start_ms(manifest.schedule, round_, slot) or _has_good_proposal(view):
        return None
    return _compose(view)


def _has_good_proposal(view: View) -> bool:
    """Is there one that this node can follow?

    Only children of its head are asked: under an old parent anybody who was a member then has
    slot 0, under the genesis anybody at all, and one such record a round would silence everybody.
    """
    children = (view.chain[child] for child in view.chain.children[view.head])
    return any(
        record.round == view.round and view.is_usable(record.hash) and view.is_covered(record)
        for record in children
    )


def _compose(view: View) -> Sealed[Proposal] | None:
    parent = view.head_state
    agreement = view.manifest.agreement
    offences = _choose_offences(view)
    removed = {offence.peer for offence in offences}
    leaves = _choose_wishes(view, removed, joins=False)
    joins = _choose_wishes(view, removed, joins=True)
    joining = {wish.body.peer for wish in joins}
    due = get_contributors(parent, view.round, agreement)
    contributions = [
        header
        for header in view.pool.of_round(view.round)
        if view.pool.is_held(header.body)
        and header.body.peer not in removed
        and (
            header.body.peer in due
            if due is not None
            else header.body.peer in joining or _is_in(view, header.body.peer)
        )
    ][:CONTRIBUTIONS_MAX]
    carries = carries_root(agreement, parent.height + 1)
    if not contributions or (carries and parent.record not in view.roots):
        return None
    is_lone = not view.chain[parent.record].members
    if is_lone and all(h.body.peer != view.me for h in contributions):
        return None  # rule 14
    late = [
        header
        for round_ in range(view.round - agreement.late_rounds, view.round)
        for header in view.pool.of_round(round_)
        if (round_, header.body.peer) not in parent.credits
        and header.body.peer not in removed
        and _is_in(view, header.body.peer)
        and was_due(parent, header.body.peer, round_, agreement)
    ][: CONTRIBUTIONS_MAX - len(contributions)]
    proposal = Proposal(
        round=view.round,
        peer=view.me,
        parent=parent.record,
        parent_digest=view.digests[parent.record],
        state_root=view.roots[parent.record] if carries else b"",
        contributions=_sorted(contributions),
        late=_sorted(late),
        joins=tuple(wish.raw for wish in joins),
        leaves=tuple(wish.raw for wish in leaves),
        evidence=tuple(offence.evidence for offence in offences),
    )
    return seal_proposal(proposal, view.run_id, view.sign)


def _choose_wishes(view: View, removed: set[bytes], *, joins: bool) -> list[Sealed[Membership]]:
    """Joins or leaves that the record may list, sorted by peer.

    Of too many those with the lowest hash(parent, peer): others under every parent, and nobody
    knows which before there is that parent. So strangers cannot keep another out for long.
    """
    parent, late_rounds = view.head_state, view.manifest.agreement.late_rounds
    usable = [
        wish
        for wish in view.pool.newest_wishes(joins=joins)
        if wish.body.peer not in removed
        and is_wish_usable(wish.body, parent, view.round, late_rounds)
    ]
    usable.sort(key=lambda wish: compute_waiting_hash(parent.record, wish.body.peer))
    places = count_offered_places(parent, view.manifest.agreement) if joins else JOINS_MAX // 2
    return sorted(usable[:places], key=lambda wish: wish.body.peer)


def _choose_offences(view: View) -> list[Offence]:
    """Rule 26: evidence that the record may list, the oldest first, sorted by peer.

    None against ourselves: whoever has our key as well is reported, and the others list it.
    """
    parent, forget_rounds = view.head_state, view.manifest.agreement.forget_rounds
    usable = [
        offence
        for offence in view.pool.offences.values()
        if offence.peer != view.me and is_offence_usable(offence, parent, view.round, forget_rounds)
    ]
    usable.sort(key=lambda offence: (offence.round, offence.peer))
    return sorted(usable[:EVIDENCE_MAX], key=lambda offence: offence.peer)


def _is_in(view: View, peer: bytes) -> bool:
    known = view.head_state.known.get(peer)
    return known is not None and not known.left


def _sorted(headers: list[Sealed[Header]]) -> tuple[bytes, ...]:
    return tuple(sorted(header.hash for header in headers))
