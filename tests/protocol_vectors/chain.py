"""Vectors: a chain of a dozen records, and what it says after each of them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from demo_node.store.key import verify
from demo_protocol.answers import encode_bundle, encode_chain_state
from demo_protocol.chain import Chain, make_bundle
from demo_protocol.evidence import make_offence
from demo_protocol.manifest import carries_root, encode_manifest
from demo_protocol.merkle import compute_leaf
from demo_protocol.messages import Evidence, Header, Membership, Proposal, Sealed
from demo_protocol.roster import compute_rank, compute_slot, genesis_state, get_member_names
from demo_protocol.state_root import compute_state_root
from tests.protocol_vectors.making import (
    MANIFEST,
    PEERS,
    RUN_ID,
    digest_after,
    make_header,
    make_wish,
    number_of,
    sign_proposal,
)

WHOLE = ("0", "3", "13")
"""Records of which the state is there as a whole; of the others its hash."""


@dataclass(slots=True)
class Grower:
    """A tree of records that is grown by hand; each has a label."""

    chain: Chain = field(init=False)
    labels: dict[str, bytes] = field(init=False)
    headers: dict[bytes, Sealed[Header]] = field(init=False, default_factory=dict)
    cases: list[dict[str, Any]] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.chain = Chain(MANIFEST, RUN_ID, genesis_state(RUN_ID))
        self.labels = {"genesis": RUN_ID}

    def header(self, author: int, round_: int, base: str, **changes: int) -> Sealed[Header]:
        """A header on a record, remembered."""
        sealed = make_header(author, round_, self.labels[base], **changes)
        self.headers[sealed.hash] = sealed
        return sealed

    def grow(
        self,
        label: str,
        parent: str,
        round_: int,
        contributions: Sequence[Sealed[Header]],
        *,
        why: str,
        slot: int = 0,
        late: Sequence[Sealed[Header]] = (),
        joins: Sequence[Sealed[Membership]] = (),
        leaves: Sequence[Sealed[Membership]] = (),
        evidence: Sequence[Evidence] = (),
    ) -> None:
        """One more record; its author is the first member with that slot, or a contributor."""
        above = self.chain[self.labels[parent]].state
        author = contributions[0].body.peer
        for peer in sorted(get_member_names(above, MANIFEST.agreement)):
            if compute_slot(above, peer, round_, MANIFEST.agreement) == slot:
                author = peer
                break
        due = carries_root(MANIFEST.agreement, above.height + 1)
        leaves_of_parameters = (compute_leaf(b"parameters after " + above.record),)
        sealed = sign_proposal(
            number_of(author),
            Proposal(
                round=round_,
                peer=author,
                parent=above.record,
                parent_digest=digest_after(above.record),
                state_root=compute_state_root(above, leaves_of_parameters) if due else b"",
                contributions=tuple(sorted(h.hash for h in contributions)),
                late=tuple(sorted(h.hash for h in late)),
                joins=tuple(w.raw for w in sorted(joins, key=lambda w: w.body.peer)),
                leaves=tuple(w.raw for w in sorted(leaves, key=lambda w: w.body.peer)),
                evidence=tuple(evidence),
            ),
        )
        record = self.chain.add(sealed, self.headers, verify)
        self.labels[label] = record.hash
        state = encode_chain_state(record.state)
        members = get_member_names(record.state, MANIFEST.agreement)
        case = {
            "label": label,
            "parent": parent,
            "round": round_,
            "why": why,
            "record": record.hash.hex(),
            "author": number_of(author),
            "rank": compute_rank(above, author, round_, MANIFEST.agreement),
            "members": sorted(map(number_of, members)),
            "known": sorted(map(number_of, record.state.known)),
            "bundle": encode_bundle(make_bundle(record)).hex(),
            "state_sha256": hashlib.sha256(state).hexdigest(),
        }
        if label in WHOLE:
            case["state"] = state.hex()
        self.cases.append(case)


def chain_case() -> dict[str, Any]:
    """Joins, a heartbeat, late headers, an empty round, siblings, a leave, evidence, expiry."""
    tree = Grower()
    grow, header = tree.grow, tree.header
    everybody = [header(a, 0, "genesis") for a in range(3)]
    grow(
        "0",
        "genesis",
        0,
        everybody,
        joins=[make_wish(a, 0) for a in range(3)],
        why="below `probation` joins are members at once; any contributor proposes (6, 14)",
    )
    beats = [header(0, 1, "0"), header(1, 1, "0"), header(2, 1, "0", k=0)]
    grow("1", "0", 1, beats, why="2 sends a heartbeat: it counts for no samples (T4)")
    fresh = [header(0, 2, "1"), header(1, 2, "1", samples=40), header(3, 2, "1")]
    missed = header(2, 2, "1")
    joins = [make_wish(3, 2), make_wish(4, 2)]
    grow("2", "1", 2, fresh, joins=joins, why="candidates 3 and 4; 3 contributes at once (6, 15)")
    third = [header(a, 3, "2") for a in (0, 1, 3)]
    grow(
        "3",
        "2",
        3,
        third,
        late=[missed],
        why="2 is credited late; 3 is admitted; a root is due (8, 6, 21)",
    )
    skipped = [header(a, 4, "3") for a in (0, 3)]
    fifth = [header(a, 5, "3") for a in (0, 1, 2, 3)]
    grow(
        "5",
        "3",
        5,
        fifth,
        late=skipped,
        slot=1,
        why="no record of 4: slot = rank >> 1 (12); 4 was silent, is forgotten (6)",
    )
    sixth = [header(a, 6, "5") for a in (0, 1, 2, 3)]
    grow("6", "5", 6, sixth, why="the child of 5 that this chain goes on with")
    grow("6b", "5", 6, sixth[:2], slot=1, why="a sibling of 6, of the next slot")
    leave, never = make_wish(1, 7, joins=False), make_wish(5, 7, never_drawn=True)
    seventh = [header(a, 7, "6") for a in (0, 2, 3)]
    grow(
        "7", "6", 7, seventh, leaves=[leave], joins=[never], why="1 leaves; 5 will follow only (7)"
    )
    offence = make_offence(seventh[1], make_header(2, 7, tree.labels["6b"]))
    eighth = [header(a, 8, "7") for a in (0, 3)]
    grow(
        "8",
        "7",
        8,
        eighth,
        evidence=[offence.evidence],
        slot=1,
        why="2 is removed: two headers of 7 (26)",
    )
    ninth = [header(a, 9, "8") for a in (0, 1, 3)]
    back, gone = make_wish(1, 9), make_wish(5, 9, joins=False)
    grow(
        "9", "8", 9, ninth, joins=[back], leaves=[gone], why="1 is a candidate again; 5 leaves (6)"
    )
    tenth = [header(a, 10, "9") for a in (0, 1)]
    grow("10", "9", 10, tenth, why="1 is admitted again; 3 is silent from now on")
    for round_ in (11, 12, 13):
        again = [header(a, round_, str(round_ - 1)) for a in (0, 1)]
        why = (
            "3 has expired: a voter, no member (7); 5 is forgotten (6)"
            if round_ == 12
            else "0 and 1"
        )
        grow(str(round_), str(round_ - 1), round_, again, why=why)
    return {
        "manifest": encode_manifest(MANIFEST).decode(),
        "run_id": RUN_ID.hex(),
        "peers": [peer.hex() for peer in PEERS[:6]],
        "records": tree.cases,
    }
