"""When a node cannot follow the others by replaying: leaps and new beginnings (rules 16 and 25).

Either payloads are nowhere to be had any more, or the others' chain forks off below our first
record, for L rounds. Both are mended by a snapshot of theirs.
"""

from demo_protocol.events import BeginAgain, Effect, Leap
from demo_protocol.forkchoice import choose_head
from demo_protocol.roster import get_voters
from demo_protocol.view import View


def find_way_back(view: View) -> list[Effect]:
    """What to do about it, asked once a round; nothing while all is well."""
    elsewhere, here = _count_voters(view)
    if elsewhere < here or elsewhere == 0:
        view.astray_since = view.round
    if view.astray_since < view.round - view.manifest.agreement.late_rounds:
        return [BeginAgain(is_tie=elsewhere == here)]
    leap = _find_leap(view)
    return [leap] if leap else []


def _find_leap(view: View) -> Leap | None:
    """Rule 16: what is missing L rounds later, and the majority builds on, is leapt over."""
    wanted = choose_head(
        view.chain, view.head, view.votes, usable=lambda record: True, covered=view.is_covered
    )
    if wanted in view.digests:
        return None
    above = view.chain.path(view.chain.common_ancestor(view.head, wanted).hash, wanted)
    missing = next((step for step in above if not view.is_usable(step.hash)), None)
    if missing is None or missing.round >= view.round - view.manifest.agreement.late_rounds:
        return None
    return Leap(missing.hash, wanted)


def _count_voters(view: View) -> tuple[int, int]:
    """Voters heard of lately whose vote does not, and does, descend from our first record.

    Whatever a vote names is pulled every round: what is still not here then cannot be linked.
    """
    agreement = view.manifest.agreement
    voters = get_voters(view.head_state, agreement)
    fresh = [
        vote
        for peer, (round_, vote) in view.votes.newest.items()
        if peer in voters and round_ >= view.round - agreement.late_rounds
    ]
    elsewhere = sum(vote not in view.chain for vote in fresh)
    return elsewhere, len(fresh) - elsewhere
