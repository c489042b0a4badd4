"""Rule 20: digests accuse, replays decide.

Where most headers of a round give another digest than ours for one record, either our memory or
device erred, or theirs did. The node computes its state again from a snapshot that nobody has
contradicted. Comes the others' digest of it, it goes on. Comes its own again, it signs nothing
more: its votes would stand for a state that others cannot have. It follows and serves as before,
as a witness, and never copies a foreign state over one that it has replayed.
"""

from collections import defaultdict
from collections.abc import Set
from dataclasses import dataclass, field

from demo_protocol.astray import find_wanted
from demo_protocol.effects import (
    ComputeRoot,
    Effect,
    FaultCleared,
    Replay,
    ReplayAgreed,
    StateFault,
)
from demo_protocol.limits import ACCUSERS_MIN, REPLAYS_PER_HOUR_MAX
from demo_protocol.messages import Header
from demo_protocol.networks import NETWORKS_WANTED
from demo_protocol.roster import get_contributors
from demo_protocol.view import View

HOUR_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Accusation:
    """Most headers say that the digest after `base` is `digest`, which is not ours."""

    base: bytes
    digest: bytes


@dataclass(slots=True)
class Doubts:
    """What most others say against our states, and what became of replaying them.

    `open` is being replayed, `fault` was replayed in vain. `replayed` has the round in which each
    record's state was last computed again because of that: liars can have it once. `overruled` is a
    record of whose state most have had another root than ours, for `overruled_rounds` rounds.
    """

    view: View
    open: Accusation | None = field(init=False, default=None)
    fault: Accusation | None = field(init=False, default=None)
    replayed: dict[bytes, int] = field(init=False, default_factory=dict)
    total: int = field(init=False, default=0)
    overruled: bytes | None = field(init=False, default=None)
    overruled_rounds: int = field(init=False, default=0)

    def judge(self) -> list[Effect]:
        """Once a round, when most of its headers are here and no state is being computed."""
        view = self.view
        if self.fault is not None:
            return self._judge_fault()
        patience = view.manifest.agreement.late_rounds  # it may not be on our way any more
        if self.open is not None and view.round <= self.replayed[self.open.base] + patience:
            return []
        self.open = None
        accusation = find_accusation(view)
        if accusation is None or accusation.base in self.replayed:
            return []
        return self._replay(accusation)

    def judge_root(self) -> list[Effect]:
        """Once a round (rule 21): is a root of ours wrong, since most go on from another one?

        After L rounds it is computed once more, since whoever is wrong alone would stand there for
        ever. After L more the state that it is of is replayed, and if it differs even then, it is
        a fault. Until then the records that name another root are followed by nobody here.
        """
        view, patience = self.view, self.view.manifest.agreement.late_rounds
        record = find_overruled(view)
        if record is None or self.open is not None or self.fault is not None:
            self.overruled, self.overruled_rounds = None, 0
            return []
        if record != self.overruled:
            self.overruled, self.overruled_rounds = record, 0
        self.overruled_rounds += 1
        if self.overruled_rounds == patience:
            return [ComputeRoot(record)]
        if self.overruled_rounds < 2 * patience:
            return []
        accusation = Accusation(record, view.claimed_digest(record) or view.digests[record])
        if record not in self.replayed:
            return self._replay(accusation)
        del view.roots[record]  # a witness follows
        return self._find_fault(accusation)

    def _replay(self, accusation: Accusation) -> list[Effect]:
        """Unless there were too many."""
        view = self.view
        hour = max(HOUR_MS // view.manifest.schedule.round_ms, 1)
        self.replayed = {b: r for b, r in self.replayed.items() if r > view.round - hour}
        if len(self.replayed) >= REPLAYS_PER_HOUR_MAX:
            return []
        self.replayed[accusation.base] = view.round
        self.total += 1
        self.open, self.overruled = accusation, None
        verified = find_verified(view, accusation.base)
        view.roots = {name: root for name, root in view.roots.items() if name in verified}
        return [Replay(accusation.base, verified)]

    def _find_fault(self, accusation: Accusation) -> list[Effect]:
        self.fault = accusation
        self.view.is_faulty = True
        return [StateFault(accusation.base, _first_differing(self.view, accusation.base))]

    def on_applied(self, record: bytes) -> list[Effect]:
        """The state after a record was computed. Was it the one in doubt?"""
        if self.open is None or record != self.open.base:
            return []
        accusation, self.open = self.open, None
        if self.view.digests[record] == accusation.digest:
            return [ReplayAgreed(record)]
        return self._find_fault(accusation)

    def _judge_fault(self) -> list[Effect]:
        """Where most say as we do again, they had erred, or a few had spoken for them."""
        if not is_vindicated(self.view):
            return []
        self.fault = None
        self.view.is_faulty = False
        return [FaultCleared()]


def find_accusation(view: View) -> Accusation | None:
    """What most headers say against us, if they do: for each base one other digest than ours.

    Most of all voices, not of those alone that name one base: else a few could choose a base that
    nobody else names, and be most there. They must come from several networks, since one person
    may own as many keys as there are.
    """
    voices = _find_voices(view)
    claims: dict[bytes, dict[bytes, list[bytes]]] = defaultdict(lambda: defaultdict(list))
    for body in voices.values():
        if view.is_accused(body):
            claims[body.base][body.digest].append(body.peer)
    agreed = {  # those who contradict each other as well speak for themselves alone
        base: max(said.items(), key=lambda claim: (len(claim[1]), claim[0]))
        for base, said in claims.items()
    }
    accusers = [peer for _, peers in agreed.values() for peer in peers]
    if len(accusers) < ACCUSERS_MIN or not _is_most(len(accusers), _find_electorate(view, voices)):
        return None
    base, (digest, _) = max(agreed.items(), key=lambda item: (len(item[1][1]), item[0]))
    networks = {view.network_of(peer) for peer in accusers} - {None}
    return Accusation(base, digest) if len(networks) >= NETWORKS_WANTED else None


def find_overruled(view: View) -> bytes | None:
    """The record of whose state the chain that most follow carries another root than ours."""
    children = view.chain.children
    if not any(
        view.is_root_wrong(view.chain[c]) for parent in view.roots for c in children[parent]
    ):
        return None  # nearly always
    for step in view.chain.ancestors(find_wanted(view)):
        if view.is_root_wrong(step):
            return step.parent
    return None


def is_vindicated(view: View) -> bool:
    """Do most headers give our own digests, or have those that do not ceased to be most?

    The latter where contributors are drawn: were all honest ones witnesses, as they sign nothing,
    only liars would be heard, and nobody could ever say that we were right.
    """
    voices = _find_voices(view)
    agreeing = sum(view.digests.get(body.base) == body.digest for body in voices.values())
    if agreeing >= ACCUSERS_MIN and _is_most(agreeing, voices.keys()):
        return True
    others = len(voices) - agreeing
    return _is_drawn(view) and not _is_most(others, _find_electorate(view, voices))


def find_verified(view: View, base: bytes) -> frozenset[bytes]:
    """Ancestors of `base` whose states nobody but a few contradicts: replaying starts from one.

    Those are the newest of which most headers give our digest, and all before it, since what was
    wrong there would be wrong after it; and the genesis, whose state is computed, not remembered.
    """
    claims = view.find_claims()
    below = [step.hash for step in view.chain.ancestors(base) if step.hash in view.digests][1:]
    for at, record in enumerate(below):
        if claims.get(record) == view.digests[record]:
            return frozenset(below[at:])
    return frozenset(record for record in below if record == view.run_id)


def _first_differing(view: View, base: bytes) -> int:
    """The round of the oldest record up to `base` of which most headers give another digest."""
    claims = view.find_claims()
    found = view.chain[base].round
    for step in view.chain.ancestors(base):
        claimed = claims.get(step.hash)
        if claimed == view.digests.get(step.hash):
            break
        if claimed is not None:
            found = step.round
    return found


def _is_drawn(view: View) -> bool:
    members = view.chain[view.head].members
    return 0 < view.manifest.agreement.contributors < len(members)


def _find_rounds(view: View) -> range:
    """Whose headers count: the running round's; where contributors are drawn, the last L as well.

    Of one round's committee liars that are few among the members are most, now and then.
    """
    before = view.manifest.agreement.late_rounds if _is_drawn(view) else 0
    return range(view.round - before, view.round + 1)


def _find_voices(view: View) -> dict[bytes, Header]:
    """The newest header of every other member in those rounds, if it has not signed two."""
    members, voted, away = view.chain[view.head].members, view.votes.newest, view.votes.equivocators
    return {
        header.body.peer: header.body
        for round_ in _find_rounds(view)
        for header in view.pool.of_round(round_)
        if header.body.peer in members
        and header.body.peer in voted
        and header.body.peer not in away
        and header.body.peer != view.me
    }


def _find_electorate(view: View, voices: dict[bytes, Header]) -> Set[bytes]:
    """Of whom accusers must be most: who is heard; where contributors are drawn, who was due, too.

    Else those who became witnesses, and are silent, would leave the word to their accusers.
    """
    if not _is_drawn(view):
        return voices.keys()
    state, agreement = view.head_state, view.manifest.agreement
    members = view.chain[view.head].members
    electorate = set(voices)
    for round_ in _find_rounds(view):
        if round_ > state.round:
            due = get_contributors(state, round_, agreement)
        else:
            due = state.due.get(round_)
        electorate |= members & (due or frozenset())
    return electorate - {view.me}


def _is_most(count: int, electorate: Set[bytes]) -> bool:
    return 2 * count > len(electorate) + 1  # we are one more
