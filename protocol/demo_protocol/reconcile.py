"""Rule 23: every round a node compares itself with one peer, and pulls what it lacks.

The node that asks sends a `Summary`; the other gives the `Difference`: lists of hashes for those
rounds only in which the two are not alike. Gossip alone is not enough: a message that was lost on
every link to a node would never reach it.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from demo_protocol.effects import Effect, PullHeaders, PullRecords
from demo_protocol.events import SetsCompared
from demo_protocol.limits import (
    FINGERPRINT_BYTES,
    HEADERS_LISTED_MAX,
    RECORDS_LISTED_MAX,
    RECORDS_PER_REPLY_MAX,
)
from demo_protocol.pulling import find_missing
from demo_protocol.schedule import BPS, Schedule, coverage_cut_ms, train_end_ms
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

    Only of rounds that gossip carries at both: what is of another one the peer would ignore.
    """
    oldest = view.round - view.manifest.agreement.late_rounds
    headers: list[bytes] = []
    for at in reversed(range(len(theirs.headers))):
        round_ = theirs.first_round + at
        is_ours = oldest <= round_ <= view.round
        if is_ours and view.pool.fingerprint(round_) != theirs.headers[at]:
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


@dataclass(frozen=True, slots=True)
class Lacking:
    """What a peer has and this node has not: headers, and records with how many to ask for."""

    headers: tuple[bytes, ...]
    records: Mapping[bytes, int]


def find_lacking(view: View, difference: Difference) -> Lacking:
    """Of what a peer named. It may have made it all up."""
    names = dict.fromkeys(difference.headers)
    behind = max(difference.round - view.head_state.round, 1)
    wanted = {name: 1 for name in difference.records}
    wanted[difference.head] = min(behind, RECORDS_PER_REPLY_MAX)
    records: dict[bytes, int] = {}
    for name, count in wanted.items():
        missing = find_missing(view, name)
        if missing is not None:
            records[missing] = max(count, records.get(missing, 1))
    return Lacking(tuple(name for name in names if name not in view.pool.headers), records)


def on_compared(view: View, event: SetsCompared) -> list[Effect]:
    """Pull what is missing here, from that peer alone: nobody else has said that there is any.

    What is asked for here may be asked for again in this round by whoever lists it
    (`View.should_pull` is not told): else a peer could name what it then withholds from us.
    """
    lacking, holders = find_lacking(view, event.difference), (event.sender,)
    effects: list[Effect] = []
    if lacking.headers:
        effects.append(PullHeaders(lacking.headers, holders, only=True))
    for name, count in lacking.records.items():
        effects.append(PullRecords(name, holders, count, only=True))
    return effects


def compute_comparison_ms(schedule: Schedule, round_: int, draw: int) -> int:
    """When to ask in `round_`, Unix milliseconds; `draw` of 0 to BPS - 1 tells nodes apart.

    Halfway between the train boundary and the cut of rule 17, give or take a quarter: by then
    gossip has brought most of what it will bring, and what is missing still comes in time, with
    its payload, to be listed. In the propose phase it would be proposals: fewer forks, which the
    next votes mend anyway, and a contribution lost for good (docs/decisions/anti-entropy.md).
    """
    begin_ms, end_ms = train_end_ms(schedule, round_), coverage_cut_ms(schedule, round_)
    return begin_ms + (end_ms - begin_ms) * (BPS + 2 * draw) // (4 * BPS)


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
