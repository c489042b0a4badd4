"""What peers signed is remembered, whoever handed it over (rules 13, 18 and 26).

Headers with their votes, who proposed, and the evidence against who signed two of a kind.
"""

from demo_protocol.effects import DigestAccused, Effect
from demo_protocol.evidence import make_offence
from demo_protocol.messages import Header, Notice, Sealed
from demo_protocol.view import View


def check_header(view: View, header: Sealed[Header]) -> None:
    """Raises Reject on one that no honest peer signs; what is remembered was checked."""
    if header.hash not in view.pool.headers:
        view.check_header(header, view.manifest, view.schema, view.verify)


def remember_header(view: View, header: Sealed[Header]) -> list[Effect]:
    """Remember a checked header and count its vote."""
    body = header.body
    first = view.pool.add_header(header)
    if first.hash != header.hash:
        view.votes.add_equivocation(body.peer, body.round)
        _add_offence(view, first, header)
    view.votes.add(body.peer, body.round, body.vote)
    return [DigestAccused(body.peer, body.base)] if view.is_accused(body) else []


def remember_notice(view: View, notice: Sealed[Notice]) -> None:
    """Remember who proposed in a round, and who did so twice (rule 13)."""
    place = notice.body.round, notice.body.peer
    first = view.pool.notices.setdefault(place, notice)
    if first.hash != notice.hash:
        view.pool.repeated.add(place)
        _add_offence(view, first, notice)


def _add_offence(
    view: View, one: Sealed[Header] | Sealed[Notice], other: Sealed[Header] | Sealed[Notice]
) -> None:
    """Rule 26: keep the evidence; against strangers there is nothing to be done."""
    if one.body.peer in view.head_state.known:
        view.pool.add_offence(make_offence(one, other))
