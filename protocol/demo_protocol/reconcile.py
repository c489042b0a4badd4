"""Rule 23: every round a node compares itself with one peer, and pulls what it lacks.

The node that asks sends a `Summary`; the other gives the `Difference`: lists of hashes for those
rounds only in which the two are not alike. Gossip alone is not enough: a message that was lost on
every link to a node would never reach it.
"""

import hashlib

from demo_protocol.events import Effect, PullHeaders, PullRecords, SetsCompared
from demo_protocol.limits import (
    FINGERPRINT_BYTES,
    HEADERS_LISTED_MAX,
    RECORDS_LISTED_MAX,
    RECORDS_PER_REPLY_MAX,
)
from demo_protocol.receive import find_missing
from demo_protocol.sets import Difference, Summary
from demo_protocol.view import View


def summarise(view: View) -> Summary:
    """What this node knows of the rounds that gossip still carries (rule 2)."""
    first = max(view.round - view.manifest.agreement.late_rounds, 0)
    rounds = range(first, view.round + 1)
    return Summary(
        first_round=first,
        headers=tuple(view.pool.fingerprint(round_) for round_ in rounds),
        records=_fingerprint(_recent_records(view)),
    )


def compare(view: View, theirs: Summary) -> Difference:
    """What this node knows and a peer of that summary may not, newest first.

    Of rounds that are not over for both nothing is listed: the peer would ignore it.
    """
    headers: list[bytes] = []
    for at in reversed(range(len(theirs.headers))):
        round_ = theirs.first_round + at
        if round_ > view.round or view.pool.fingerprint(round_) == theirs.headers[at]:
            continue
        headers += view.pool.hashes_of_round(round_)
    recent = _recent_records(view)
    return Difference(
        head=view.head,
        round=max(view.head_state.round, 0),
        headers=tuple(headers[:HEADERS_LISTED_MAX]),
        records=tuple(recent[:RECORDS_LISTED_MAX])
        if _fingerprint(recent) != theirs.records
        else (),
    )


def on_compared(view: View, event: SetsCompared) -> list[Effect]:
    """Pull from that peer alone what it has and this node lacks: it may have made it all up.

    A header that is asked for here may be asked for again by whoever lists it (`should_pull` is
    not told), or else a peer could name and withhold what it wants to keep from us.
    """
    difference, holders = event.difference, (event.sender,)
    effects: list[Effect] = []
    headers = tuple(
        name for name in dict.fromkeys(difference.headers) if name not in view.pool.headers
    )
    if headers:
        effects.append(PullHeaders(headers, holders, only=True))
    behind = max(difference.round - view.head_state.round, 1)
    wanted = {
        difference.head: min(behind, RECORDS_PER_REPLY_MAX),
        **{name: 1 for name in difference.records if name != difference.head},
    }
    missing: dict[bytes, int] = {}
    for name, count in wanted.items():
        lacking = find_missing(view, name)
        if lacking is not None:
            missing.setdefault(lacking, count)
    effects += [PullRecords(name, holders, count, only=True) for name, count in missing.items()]
    return effects


def _recent_records(view: View) -> list[bytes]:
    """Valid proposals of the rounds that gossip carries, near our chain, newest first.

    Those below an older fork are not among them: where a peer stands on one, its head says so.
    """
    oldest = view.round - view.manifest.agreement.late_rounds
    frontier = [view.chain.ancestor_before(view.head, oldest).hash]
    found: list[tuple[int, bytes]] = []
    while frontier:
        below = [child for record in frontier for child in view.chain.children[record]]
        found += [(-view.chain[child].round, child) for child in below]
        frontier = below
    return [record for round_, record in sorted(found) if -round_ >= oldest]


def _fingerprint(hashes: list[bytes]) -> bytes:
    return hashlib.sha256(b"".join(sorted(hashes))).digest()[:FINGERPRINT_BYTES]
