"""When a node cannot follow the others by replaying: leaps and new beginnings (rules 16 and 25).

Either payloads are nowhere to be had any more, or the others' chain forks off below our first
record, or nobody is left who could go on with ours, for L rounds. All are mended by a snapshot.
None of these leads away from our final record: see conflict.py.
"""

from collections.abc import Container
from dataclasses import dataclass

from demo_protocol.effects import BeginAgain, Effect, Leap
from demo_protocol.forkchoice import choose_head
from demo_protocol.roster import get_voters
from demo_protocol.view import View


def find_way_back(view: View, held: Container[bytes] = ()) -> list[Effect]:
    """What to do about it, asked once a round; nothing while all is well.

    The states after the records in `held` are here.
    """
    elsewhere, here = _hear(view)
    if elsewhere.weight < here.weight and _can_go_on(view, here):
        view.astray_since = view.round
    is_astray = view.astray_since < view.round - view.manifest.agreement.late_rounds
    if is_astray and view.final_record is None:  # else theirs would lead to it, if it may be left
        through = view.final.record if view.final else None
        return [BeginAgain(_records_to_beat(view, elsewhere, here), through)]
    leap = _find_leap(view, held)
    return [leap] if leap else []


def find_wanted(view: View) -> bytes:
    """The head that rule 18 would choose if all payloads were here."""
    return choose_head(
        view.chain,
        view.head,
        view.votes,
        usable=lambda record: True,
        covered=view.is_covered,
        final=view.final_record,
    )


def _find_leap(view: View, held: Container[bytes]) -> Leap | None:
    """Rule 16: what is missing L rounds later, and the majority builds on, is leapt over.

    That a record was applied here once is of no use where its state and its payloads are gone.
    """
    wanted = find_wanted(view)
    if wanted == view.head or wanted in held:
        return None
    missing = None
    for step in view.chain.ancestors(wanted):
        if step.hash in held or step.hash == view.head:
            break
        if not view.holds_payloads(step):
            missing = step
    if missing is None or missing.round >= view.round - view.manifest.agreement.late_rounds:
        return None
    return Leap(missing.hash, wanted)


def find_votes_elsewhere(view: View) -> set[bytes]:
    """Records that voters stand on which do not descend from our first one."""
    return {view.votes.newest[peer][1] for peer in _hear(view)[0].voters}


@dataclass(frozen=True, slots=True)
class _Side:
    """Who was heard of lately, and stands on one side of the fork below our first record."""

    voters: set[bytes]
    strangers: int

    @property
    def weight(self) -> tuple[int, int]:
        """Voters count. Strangers cost nothing, and yet two halves must not both think that they
        are the larger one: whom one of them admitted since is a stranger to the other.
        """
        return len(self.voters), self.strangers


def _hear(view: View) -> tuple[_Side, _Side]:
    """Those whose vote does not descend from our first record, and those whose vote does.

    Whatever a voter's vote names is pulled every round: what is not here then cannot be linked.
    """
    agreement = view.manifest.agreement
    voters = get_voters(view.head_state, agreement)
    fresh = {
        peer: vote
        for peer, (round_, vote) in view.votes.newest.items()
        if round_ >= view.round - agreement.late_rounds
    }
    here = {peer for peer, vote in fresh.items() if vote in view.chain}
    elsewhere = fresh.keys() - here
    return (
        _Side(elsewhere & voters, len(elsewhere - voters)),
        _Side(here & voters, len(here - voters)),
    )


def _can_go_on(view: View, here: _Side) -> bool:
    """May any of these propose? A voter whose membership expired may not, nor may the dead."""
    members = view.chain[view.head].members
    return not members or not members.isdisjoint(here.voters)


def _records_to_beat(view: View, elsewhere: _Side, here: _Side) -> int:
    """The others' chain must have more records than this.

    Any will do where most are on it. Half of them, or no voters at all, go where more was done;
    halves that did equally much go where the lowest key is, so that one moves and one stays.
    """
    height = view.head_state.height
    if not elsewhere.voters or elsewhere.weight < here.weight:
        return height
    if elsewhere.weight > here.weight:
        return 0
    return height - 1 if min(elsewhere.voters) < min(here.voters) else height
