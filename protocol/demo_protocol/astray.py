"""When a node cannot follow the others by replaying: leaps and new beginnings (rules 16 and 25).

Either payloads are nowhere to be had any more, or the others' chain forks off below our first
record, or nobody is left who could go on with ours, for L rounds. All are mended by a snapshot.
"""

from demo_protocol.events import BeginAgain, Effect, Leap
from demo_protocol.forkchoice import choose_head
from demo_protocol.roster import get_voters
from demo_protocol.view import View


def find_way_back(view: View) -> list[Effect]:
    """What to do about it, asked once a round; nothing while all is well."""
    elsewhere, here = _locate_voters(view)
    if len(elsewhere) < len(here) and _can_go_on(view, here):
        view.astray_since = view.round
    if view.astray_since < view.round - view.manifest.agreement.late_rounds:
        return [BeginAgain(_records_to_beat(view, elsewhere, here))]
    leap = _find_leap(view)
    return [leap] if leap else []


def find_wanted(view: View) -> bytes:
    """The head that rule 18 would choose if all payloads were here."""
    return choose_head(
        view.chain, view.head, view.votes, usable=lambda record: True, covered=view.is_covered
    )


def _find_leap(view: View) -> Leap | None:
    """Rule 16: what is missing L rounds later, and the majority builds on, is leapt over."""
    wanted = find_wanted(view)
    if wanted in view.digests:
        return None
    above = view.chain.path(view.chain.common_ancestor(view.head, wanted).hash, wanted)
    missing = next((step for step in above if not view.is_usable(step.hash)), None)
    if missing is None or missing.round >= view.round - view.manifest.agreement.late_rounds:
        return None
    return Leap(missing.hash, wanted)


def _locate_voters(view: View) -> tuple[set[bytes], set[bytes]]:
    """Voters heard of lately whose vote does not, and does, descend from our first record.

    Whatever a vote names is pulled every round: what is still not here then cannot be linked.
    """
    agreement = view.manifest.agreement
    voters = get_voters(view.head_state, agreement)
    fresh = {
        peer: vote
        for peer, (round_, vote) in view.votes.newest.items()
        if peer in voters and round_ >= view.round - agreement.late_rounds
    }
    here = {peer for peer, vote in fresh.items() if vote in view.chain}
    return fresh.keys() - here, here


def _can_go_on(view: View, here: set[bytes]) -> bool:
    """May any of these propose? A voter whose membership expired may not, nor may the dead."""
    members = view.chain[view.head].members
    return not members or not members.isdisjoint(here)


def _records_to_beat(view: View, elsewhere: set[bytes], here: set[bytes]) -> int:
    """The others' chain must have more records than this.

    Any will do where most voters are on it. Half of them, or none on either, go where more was
    done; halves that did equally much go where the lowest key is, so that one moves and one stays.
    """
    if len(elsewhere) > len(here):
        return 0
    height = view.head_state.height
    return height - 1 if elsewhere and min(elsewhere) < min(here) else height
