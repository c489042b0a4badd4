"""Vectors: whose turn it is, who proposes, who trains on what, who is let in (6, 11, 12, T5)."""

import hashlib
from dataclasses import replace
from typing import Any

from demo_protocol.advance import advance
from demo_protocol.answers import encode_chain_state
from demo_protocol.identity import compute_key, compute_rank_hash, compute_waiting_hash
from demo_protocol.manifest import Agreement, Manifest
from demo_protocol.messages import Proposal
from demo_protocol.roster import (
    TURN,
    ChainState,
    Member,
    compute_interval,
    compute_rank,
    compute_slot,
    get_committee,
    get_contributors,
    get_member_names,
)
from tests.protocol_vectors.making import MANIFEST, PEERS, RUN_ID, make_header, number_of

ROUND = 40
RECORD = hashlib.sha256(b"the record that all of this is about").digest()
ADMITTING = hashlib.sha256(b"the record that admitted the members").digest()
DRAWN = 4


def turns_case() -> dict[str, Any]:
    """All of it for one state: members 0 to 8, an expired 9, candidates 10 to 15, 16 has left."""
    state = _state()
    agreement = replace(MANIFEST.agreement, contributors=DRAWN)
    overlap = replace(agreement, overlap_rounds=1)
    return {
        "peers": [peer.hex() for peer in PEERS],
        "state": encode_chain_state(state).hex(),
        "expire_rounds": agreement.expire_rounds,
        "samples_start": MANIFEST.learning.samples_start,
        "members": sorted(map(number_of, get_member_names(state, agreement))),
        "rank_hash of 0": compute_rank_hash(state.known[PEERS[0]].key, ROUND + 1).hex(),
        "rounds": {
            str(round_): {
                "order": _order(state, round_, agreement),
                "slots": _slots(state, round_, agreement),
                "contributors": sorted(
                    map(number_of, get_contributors(state, round_, agreement) or ())
                ),
            }
            for round_ in (ROUND + 1, ROUND + 2, ROUND + 3)
        },
        "intervals": {
            "contributors 0, overlap 0": _intervals(state, MANIFEST.agreement, (ROUND + 1,)),
            "contributors 4, overlap 0": _intervals(state, agreement, (ROUND + 1, ROUND + 2)),
            "contributors 4, overlap 1": _intervals(state, overlap, (ROUND + 2, ROUND + 3)),
        },
        "committee": _committee(state, agreement),
        "admission": _admission(state),
    }


def _member(number: int, **changes: Any) -> Member:
    admitted_by = changes.pop("admitted_by", ADMITTING)
    usual = Member(
        peer=PEERS[number],
        key=compute_key(admitted_by, PEERS[number]),
        admitted_by=admitted_by,
        since_round=10,
        credited_round=ROUND,
        credited_turns=9 * TURN,
        included=12,
        left=False,
        samples=(8 * number, 30, 12 + number),
        member_round=-2,
        contributed=3,
        samples_total=42 + 9 * number,
        first_round=20,
        last_round=ROUND,
    )
    return replace(usual, **changes)


def _state() -> ChainState:
    waits = {"admitted_by": b"", "samples": (), "included": 1}
    known = [
        *(_member(number) for number in range(9)),
        _member(9, credited_turns=5 * TURN, credited_round=30, member_round=37),
        *(_member(number, since_round=30 + number % 2, **waits) for number in range(10, 16)),
        _member(16, left=True, since_round=35, member_round=34),
    ]
    due = {
        round_: frozenset(PEERS[(round_ + step) % 10] for step in range(DRAWN))
        for round_ in range(ROUND - 7, ROUND + 1)
    }
    return ChainState(
        record=RECORD,
        parent=ADMITTING,
        round=ROUND,
        height=30,
        cursor=1_000,
        known={member.peer: member for member in known},
        credits=frozenset((ROUND, PEERS[number]) for number in range(4)),
        turns=9 * TURN + 500_000,
        due=due,
    )


def _order(state: ChainState, round_: int, agreement: Agreement) -> list[int]:
    """Members by rank."""
    ranks = {
        number_of(peer): compute_rank(state, peer, round_, agreement)
        for peer in get_member_names(state, agreement)
    }
    return sorted(ranks, key=lambda number: ranks[number] or 0)


def _slots(state: ChainState, round_: int, agreement: Agreement) -> dict[str, int | None]:
    return {
        str(number): compute_slot(state, PEERS[number], round_, agreement) for number in range(11)
    }


def _intervals(
    state: ChainState, agreement: Agreement, rounds: tuple[int, ...]
) -> dict[str, dict[str, list[int]]]:
    run: Manifest = replace(MANIFEST, agreement=agreement)
    dealt: dict[str, dict[str, list[int]]] = {}
    for round_ in rounds:
        of_round = {}
        for number in range(9):
            interval, probation = compute_interval(state, PEERS[number], round_, run)
            if not probation:
                of_round[str(number)] = [interval.first, interval.count]
        dealt[str(round_)] = of_round
    return dealt


def _committee(state: ChainState, agreement: Agreement) -> dict[str, Any]:
    """Rule 19, with contributors drawn: who is asked, and of how many two thirds are needed."""
    committee = get_committee(state, agreement)
    return {"peers": sorted(map(number_of, committee.peers)), "size": committee.size}


def _admission(state: ChainState) -> dict[str, Any]:
    """Five candidates are ready at one record, two of them are let in (rule 6)."""
    record = hashlib.sha256(b"the record that admits two").digest()
    ready = range(10, 15)
    after = advance(
        state,
        record,
        Proposal(
            round=ROUND + 1,
            peer=PEERS[0],
            parent=RECORD,
            parent_digest=bytes(8),
            contributions=(),
            late=(),
            joins=(),
            leaves=(),
        ),
        contributions=[make_header(number, ROUND + 1, RUN_ID).body for number in ready],
        late=(),
        joins=(),
        leaves=(),
        removed=(),
        manifest=MANIFEST,
    )
    admitted = get_member_names(after, MANIFEST.agreement) - get_member_names(
        state, MANIFEST.agreement
    )
    return {
        "record": record.hex(),
        "ready": list(ready),
        "since_round": {str(number): state.known[PEERS[number]].since_round for number in ready},
        "waiting_hash": {
            str(number): compute_waiting_hash(record, PEERS[number]).hex() for number in ready
        },
        "admitted": sorted(map(number_of, admitted)),
    }
