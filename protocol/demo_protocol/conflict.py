"""A heavier chain without our final record (rule 19): shown, and adopted only by command.

Two groups that were apart for longer than `forget_rounds` both have final records. Nobody can tell
from votes which of the two is the run: to each of them the others are strangers.
"""

import re
from collections.abc import Mapping
from typing import Final

from demo_protocol.effects import BeginAgain, Effect, FinalsConflict
from demo_protocol.limits import HASH_BYTES, PREFIX_DIGITS_MIN
from demo_protocol.networks import NETWORKS_WANTED
from demo_protocol.roster import get_voters
from demo_protocol.view import View

SHOWN_DIGITS: Final = 16
"""Of a record in a line for people."""


def judge_conflict(view: View) -> list[Effect]:
    """Asked once a round. It is shown after 2 L rounds.

    After L whoever could come to us by replaying has done so, or has been silent; after L more the
    silent are not counted any more.
    """
    theirs, ours = _hear(view)
    count = sum(theirs.values())
    agreement = view.manifest.agreement
    if view.final is None or not count or count < ours:
        view.undisputed = view.round
        view.rivals.clear()
        if view.conflict is None:
            return []
        view.conflict = None
        return [FinalsConflict(b"", 0, ours)]
    most = max(theirs, key=lambda record: (theirs[record], record))
    view.rivals[most] = view.round
    oldest = view.round - agreement.forget_rounds
    for record in [r for r, named in view.rivals.items() if named < oldest]:
        del view.rivals[record]
    if view.undisputed >= view.round - 2 * agreement.late_rounds:
        return []
    is_new = view.conflict is None
    view.conflict = FinalsConflict(most, count, ours)
    return [view.conflict] if is_new else []


def _hear(view: View) -> tuple[Mapping[bytes, int], int]:
    """(how many stand on each record that does not descend from our final one, on others).

    Of those heard in the last L rounds. Strangers count, if they come from enough networks: after
    so long the others are nothing else. Who stands on a record below the final one is behind, and
    on neither side.
    """
    oldest = view.round - view.manifest.agreement.late_rounds
    votes, chain, final = view.votes, view.chain, view.final_record
    theirs: dict[bytes, set[bytes]] = {}
    ours: set[bytes] = set()
    for record, peers in votes.by_record.items():
        heard = {p for p in peers - votes.equivocators.keys() if votes.newest[p][0] >= oldest}
        if not heard:
            continue
        if record not in chain:
            theirs[record] = heard
        elif final is None or chain.is_ancestor(final, record):
            ours |= heard
        elif not chain.is_ancestor(record, final):
            theirs[record] = heard
    if theirs and not _are_elsewhere(view, set().union(*theirs.values()), ours):
        voters = get_voters(view.head_state, view.manifest.agreement)
        theirs = {record: heard & voters for record, heard in theirs.items() if heard & voters}
    return {record: len(heard) for record, heard in theirs.items()}, len(ours)


def _are_elsewhere(view: View, theirs: set[bytes], ours: set[bytes]) -> bool:
    """Might these be a run's other half, and not one person's keys?

    They speak from several networks, and from as many as those on our side do: of two halves that
    are as large both shall see it.
    """
    networks = {view.network_of(peer) for peer in theirs} - {None}
    own = {view.network_of(peer) for peer in ours - {view.me}} - {None}
    return len(networks) >= max(NETWORKS_WANTED, len(own) + (view.me in ours))


def adopt(view: View, prefix: str) -> BeginAgain:
    """What to do at the operator's command. Raises LookupError, with a line, where it is not clear.

    `prefix`: the first hexadecimal digits, `PREFIX_DIGITS_MIN` at least, of one record that was
    shown since the conflict began, or all of any record on that chain.
    """
    if view.conflict is None:
        raise LookupError("no chain conflicts with what is final here: there is nothing to adopt")
    if not re.fullmatch(rf"[0-9a-fA-F]{{{PREFIX_DIGITS_MIN},{2 * HASH_BYTES}}}", prefix):
        raise LookupError(
            f"give {PREFIX_DIGITS_MIN} to {2 * HASH_BYTES} hexadecimal digits of a record"
        )
    prefix = prefix.lower()
    if len(prefix) == 2 * HASH_BYTES:
        return BeginAgain(0, adopts=(bytes.fromhex(prefix),))
    named = [record for record in view.rivals if record.hex().startswith(prefix)]
    if not named:
        raise LookupError(
            f"no record {prefix}… is on the chain that conflicts with this one;"
            f" demo-node status shows one: {view.conflict.record.hex()[:SHOWN_DIGITS]}"
        )
    if len(named) > 1:
        raise LookupError(f"{len(named)} records begin with {prefix}: give more of its digits")
    return BeginAgain(0, adopts=(named[0],))
