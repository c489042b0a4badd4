"""Which record is final (rule 19). A function of the chain, its head and the newest votes.

Training never waits for it. It decides where the fork choice begins, what a node never leaves,
and when what was sent may be forgotten.
"""

import heapq
from collections.abc import Set
from dataclasses import dataclass

from demo_protocol.chain import Chain
from demo_protocol.forkchoice import Votes
from demo_protocol.roster import get_committee


@dataclass(frozen=True, slots=True)
class Final:
    """The newest record that this node holds to be final. The chain may begin after it."""

    record: bytes
    round: int
    height: int


def find_final(chain: Chain, head: bytes, votes: Votes, before: Final | None) -> Final | None:
    """The newest final record below `head`, if it is newer than `before`.

    One with `final_depth` descendants up to `head`, of whose child there two thirds of the voters
    of `head`, and at least `final_min_peers` of them, have their newest vote in the subtree. Where
    contributors are drawn, these are the voters whose votes were due lately.
    """
    agreement = chain.manifest.agreement
    highest = chain[head].state.height - agreement.final_depth
    lowest = max(agreement.final_min_records, chain.root.height)
    if before is not None:
        lowest = max(lowest, before.height + 1)
    if highest < lowest:
        return None
    committee = get_committee(chain[head].state, agreement)
    needed = max(-(-2 * committee.size // 3), agreement.final_min_peers)
    if len(committee.peers) < needed:
        return None
    child = _find_supported(chain, head, votes, committee.peers, needed, lowest + 1)
    if child is None:
        return None
    record = chain[chain[child].parent]
    while record.state.height > highest:
        record = chain[record.parent]
    return Final(record.hash, record.round, record.state.height)


def _find_supported(
    chain: Chain, head: bytes, votes: Votes, voters: Set[bytes], needed: int, lowest: int
) -> bytes | None:
    """The newest of `head` and its ancestors with so many voters in its subtree.

    None where that would be one of a height below `lowest`.
    """
    counts = {
        record: len(peers & voters) for record, peers in votes.by_record.items() if record in chain
    }
    for peer in votes.equivocators.keys() & voters:
        vote = votes.newest.get(peer)
        if vote is not None and vote[1] in counts:
            counts[vote[1]] -= 1
    counts.setdefault(head, 0)
    # Highest first: a record's count is complete when everything above it has been added to it.
    tips = [(-chain[record].state.height, record) for record in counts]
    heapq.heapify(tips)
    ours = head
    while -tips[0][0] >= lowest:
        height, record = heapq.heappop(tips)
        parent = chain[record].parent
        if record == ours:
            if counts[record] >= needed:
                return record
            ours = parent
        if parent not in counts:
            counts[parent] = 0
            heapq.heappush(tips, (height + 1, parent))
        counts[parent] += counts[record]
    return None
