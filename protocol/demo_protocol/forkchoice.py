"""Which record is the head (rule 18). A function of the chain and of the newest votes."""

import heapq
from collections.abc import Callable, Container, Mapping, Set
from dataclasses import dataclass, field
from typing import Final

from demo_protocol.chain import Chain, Record

EVERY_ROUND: Final = 1 << 62


@dataclass(slots=True)
class Votes:
    """The newest vote of every peer; votes do not expire. Equivocators count nowhere.

    `equivocators` says in which round a peer last signed two headers. `by_record` are the same
    votes by what they name, `last_rounds` the newest round in which a record was voted for.
    `changes` counts what may move a node from the head it stands on, so that the fork choice is
    not asked in vain; votes for that head, `favoured`, do not. Of rounds after `counted_until`
    votes wait: they are `early`, by round.
    """

    newest: dict[bytes, tuple[int, bytes]] = field(default_factory=dict)
    equivocators: dict[bytes, int] = field(default_factory=dict)
    by_record: dict[bytes, set[bytes]] = field(default_factory=dict)
    last_rounds: dict[bytes, int] = field(default_factory=dict)
    favoured: bytes = b""
    changes: int = 0
    counted_until: int = EVERY_ROUND
    early: dict[int, dict[bytes, bytes]] = field(default_factory=dict)

    def add(self, peer: bytes, round_: int, vote: bytes) -> None:
        """A header of `round_` by `peer` votes for a record. Older headers change nothing."""
        if round_ > self.counted_until:
            self.early.setdefault(round_, {}).setdefault(peer, vote)
            return
        before = self.newest.get(peer)
        if before is not None and round_ <= before[0]:
            return
        self.newest[peer] = (round_, vote)
        if before is None or before[1] != vote:
            if before is not None:
                self._take_out(peer, before[1])
            self.by_record.setdefault(vote, set()).add(peer)
        if round_ > self.last_rounds.get(vote, -1):
            self.last_rounds[vote] = round_
        if vote != self.favoured:
            self.changes += 1

    def count_until(self, round_: int) -> None:
        """Count votes of rounds up to this, also those that waited for it.

        A node counts a round's votes once it has cast its own. Else whoever voted first, before
        others could, would make newborn siblings unequal: nobody would ask which one is covered.
        """
        self.counted_until = round_
        for early in sorted(r for r in self.early if r <= round_):
            for peer, vote in self.early.pop(early).items():
                self.add(peer, early, vote)

    def add_equivocation(self, peer: bytes, round_: int) -> None:
        """A peer signed two headers of `round_`."""
        self.equivocators[peer] = max(round_, self.equivocators.get(peer, round_))
        self.changes += 1

    def forget(self, known: Container[bytes], stranger_round: int, equivocator_round: int) -> None:
        """Drop votes and equivocations of strangers, and equivocations, of rounds before these."""
        strangers = [
            (p, vote[1])
            for p, vote in self.newest.items()
            if vote[0] < stranger_round and p not in known
        ]
        for peer, vote in strangers:
            del self.newest[peer]
            self._take_out(peer, vote)
        forgiven = [
            p
            for p, round_ in self.equivocators.items()
            if round_ < (equivocator_round if p in known else stranger_round)
        ]
        for peer in forgiven:
            del self.equivocators[peer]
        if strangers or forgiven:
            self.changes += 1

    def _take_out(self, peer: bytes, record: bytes) -> None:
        peers = self.by_record[record]
        peers.discard(peer)
        if not peers:
            del self.by_record[record], self.last_rounds[record]


@dataclass(frozen=True, slots=True)
class _Choice:
    chain: Chain
    head: Record
    votes: Votes
    usable: Callable[[bytes], bool]
    covered: Callable[[Record], bool]
    supporters: Mapping[bytes, Set[bytes]]
    """Peers whose newest vote lies in a record's subtree."""


def choose_head(
    chain: Chain,
    head: bytes,
    votes: Votes,
    *,
    usable: Callable[[bytes], bool],
    covered: Callable[[Record], bool],
    final: bytes | None = None,
) -> bytes:
    """Walk down from the last final record, at each fork to the child with most members' votes.

    `usable` is rule 16, `covered` rule 17. `head` descends from `final`. Where nothing is final
    here, the walk begins at the newest record that `head` and all votes descend from: at a fork
    above it nobody votes for another child. So a cut may last as long as records are kept.
    """
    start, supporters = _locate_votes(chain, head, votes, final)
    choice = _Choice(chain, chain[head], votes, usable, covered, supporters)
    current = chain[start]
    while True:
        children = [chain[h] for h in chain.children[current.hash] if usable(h)]
        if not children:
            return current.hash
        child = _best_child(choice, current, children)
        if child is None:
            return current.hash
        current = child


def _locate_votes(
    chain: Chain, head: bytes, votes: Votes, final: bytes | None
) -> tuple[bytes, dict[bytes, Set[bytes]]]:
    """(where the walk begins, supporters of every record below it)."""
    away, records = votes.equivocators.keys(), chain.records
    lowest = -1 if final is None else records[final].state.height
    supporters: dict[bytes, Set[bytes]] = {
        record: peers - away if away else peers
        for record, peers in votes.by_record.items()
        if record in records and records[record].state.height > lowest and not peers <= away
    }
    supporters.setdefault(head, frozenset())
    # Highest first, so that a record comes after everything below it; one left: all have met.
    tips = [(-chain[record].state.height, record) for record in supporters]
    heapq.heapify(tips)
    while len(tips) > 1 and -tips[0][0] > lowest:
        height, record = heapq.heappop(tips)
        parent = chain[record].parent
        if parent in supporters:
            supporters[parent] = supporters[parent] | supporters[record]
        else:
            supporters[parent] = supporters[record]
            heapq.heappush(tips, (height + 1, parent))
    return tips[0][1] if final is None else final, supporters


def _best_child(choice: _Choice, parent: Record, children: list[Record]) -> Record | None:
    if not parent.members and _is_settled(choice, parent):
        return choice.chain.path(parent.hash, choice.head.hash)[0]
    if len(children) == 1 and not parent.members.isdisjoint(
        choice.supporters.get(children[0].hash, ())
    ):
        return children[0]
    tally = [len(parent.members & choice.supporters.get(c.hash, frozenset())) for c in children]
    most = max(tally)
    best = [child for child, count in zip(children, tally, strict=True) if count == most]
    if most == 0:  # of each by itself: an old child that was left must not stand for a newborn one
        best = [child for child in best if not _prefers_parent(choice, parent, child)]
    if not best:
        return None
    return best[0] if len(best) == 1 else _break_tie(choice, best)


def _is_settled(choice: _Choice, parent: Record) -> bool:
    """Have enough peers built enough records on our child of a parent without members?

    There work decides, and work is cheap to make up: two such chains are two runs (rule 19).
    """
    agreement = choice.chain.manifest.agreement
    above = choice.head.state.height - parent.state.height
    if above < agreement.final_min_records or len(choice.head.members) < agreement.final_min_peers:
        return False
    return choice.chain.is_ancestor(parent.hash, choice.head.hash)


def _prefers_parent(choice: _Choice, parent: Record, child: Record) -> bool:
    """A child nobody votes for loses to P if most members of P voted exactly P in a later round.

    Where contributors are drawn, most of as many as are drawn in one: more have not spoken yet.
    With overlap the round after the child's does not count: it may not have been applied by then.
    """
    agreement, votes = choice.chain.manifest.agreement, choice.votes
    answered_after = child.round + agreement.overlap_rounds
    if votes.last_rounds.get(parent.hash, -1) <= answered_after:
        return False  # as a rule: it was born just now
    drawn = agreement.contributors
    asked = min(drawn, len(parent.members)) if drawn else len(parent.members)
    staying = [
        peer
        for peer in votes.by_record.get(parent.hash, ())
        if peer in parent.members
        and peer not in votes.equivocators
        and votes.newest[peer][0] > answered_after
    ]
    return len(staying) * 2 > asked


def _break_tie(choice: _Choice, tied: list[Record]) -> Record:
    has_descendants = any(
        choice.usable(grandchild)
        for child in tied
        for grandchild in choice.chain.children[child.hash]
    )
    if has_descendants:  # coverage is subjective: it is asked of newborn siblings only
        return min(tied, key=lambda c: (-_best_work(choice, c), c.rank, c.hash))
    return min(tied, key=lambda c: (not choice.covered(c), c.rank, c.hash))


def _best_work(choice: _Choice, record: Record) -> int:
    """Contributions listed by the best usable chain from `record` down, itself included."""
    work = {record.hash: len(record.contributions)}
    frontier = [record.hash]
    best = work[record.hash]
    while frontier:
        below = []
        for parent in frontier:
            for child in choice.chain.children[parent]:
                if choice.usable(child):
                    work[child] = work[parent] + len(choice.chain[child].contributions)
                    best = max(best, work[child])
                    below.append(child)
        frontier = below
    return best
