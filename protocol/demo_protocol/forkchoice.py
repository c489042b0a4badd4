"""Which record is the head (rule 18). A function of the chain and of the newest votes."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from demo_protocol.chain import Chain, Record
from demo_protocol.roster import get_members


@dataclass(slots=True)
class Votes:
    """The newest vote of every peer. Equivocators count nowhere; votes do not expire."""

    newest: dict[bytes, tuple[int, bytes]] = field(default_factory=dict)
    equivocators: set[bytes] = field(default_factory=set)

    def add(self, peer: bytes, round_: int, vote: bytes) -> None:
        """A header of `round_` by `peer` votes for a record. Older headers change nothing."""
        if round_ > self.newest.get(peer, (-1, b""))[0]:
            self.newest[peer] = (round_, vote)

    def get(self, peer: bytes) -> tuple[int, bytes] | None:
        """(round of the header, record) of a peer that counts."""
        return None if peer in self.equivocators else self.newest.get(peer)


@dataclass(frozen=True, slots=True)
class _Choice:
    chain: Chain
    votes: Votes
    usable: Callable[[bytes], bool]
    covered: Callable[[Record], bool]
    children_with_vote: Mapping[bytes, Collection[bytes]]
    """For each peer: every record whose subtree holds its newest vote."""


def choose_head(
    chain: Chain,
    start: bytes,
    votes: Votes,
    *,
    usable: Callable[[bytes], bool],
    covered: Callable[[Record], bool],
) -> bytes:
    """Walk down from `start`, at each fork to the child that rule 18 prefers.

    `usable` says of a record whether it may be the head (rule 16), `covered` answers rule 17.
    """
    choice = _Choice(chain, votes, usable, covered, _locate_votes(chain, start, votes))
    current = chain[start]
    while True:
        children = [chain[h] for h in chain.children[current.hash] if usable(h)]
        if not children:
            return current.hash
        child = _best_child(choice, current, children)
        if child is None:
            return current.hash
        current = child


def _locate_votes(chain: Chain, start: bytes, votes: Votes) -> dict[bytes, set[bytes]]:
    """Walk up from each voted record once; peers that vote alike share the walk."""
    paths: dict[bytes, set[bytes]] = {}
    located: dict[bytes, set[bytes]] = {}
    floor = chain[start].state.height
    for peer in votes.newest:
        entry = votes.get(peer)
        if entry is None or entry[1] not in chain:
            continue
        vote = entry[1]
        if vote not in paths:
            paths[vote] = {
                step.hash for step in chain.ancestors(vote) if step.state.height >= floor
            }
        located[peer] = paths[vote]
    return located


def _best_child(choice: _Choice, parent: Record, children: list[Record]) -> Record | None:
    members = get_members(parent.state, choice.chain.manifest.agreement)
    tally = {
        child.hash: sum(child.hash in choice.children_with_vote.get(m, ()) for m in members)
        for child in children
    }
    most = max(tally.values())
    best = [child for child in children if tally[child.hash] == most]
    chosen = best[0] if len(best) == 1 else _break_tie(choice, best)
    if most == 0 and _prefers_parent(choice, parent, chosen, members):
        return None
    return chosen


def _prefers_parent(
    choice: _Choice, parent: Record, child: Record, members: Collection[bytes]
) -> bool:
    """A child nobody votes for loses to P if most members of P voted exactly P in a later round."""
    staying = 0
    for member in members:
        entry = choice.votes.get(member)
        if entry is not None and entry[1] == parent.hash and entry[0] > child.round:
            staying += 1
    return staying * 2 > len(members)


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
