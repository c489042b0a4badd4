"""Vectors: fork choices (rule 18) and final records (rule 19), on trees of made-up records."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from demo_protocol.chain import Chain, Record
from demo_protocol.finality import find_final
from demo_protocol.forkchoice import Votes, choose_head
from demo_protocol.identity import compute_key
from demo_protocol.manifest import Manifest
from demo_protocol.roster import ChainState, Member, genesis_state
from tests.protocol_vectors.making import MANIFEST, PEERS, RUN_ID, make_header

Vote = tuple[int, int, str]
"""(voter, round of its newest header, record that it names)."""

Born = tuple[str, str, int, int, int]
"""(record, parent, round, rank, contributions that it lists)."""

BEFORE_SIX = [("P", "genesis", 1, 0, 6), ("a", "P", 2, 0, 6), ("b", "P", 2, 1, 6)]


def name_of(label: str) -> bytes:
    """A made-up record's hash."""
    return hashlib.sha256(label.encode()).digest()


def build(
    born: Sequence[Born],
    members: Sequence[int],
    run: Manifest = MANIFEST,
    *,
    former: Sequence[int] = (),
    due: Mapping[int, Sequence[int]] | None = None,
) -> Chain:
    """A tree with the same `members` everywhere but at the genesis; `former` are voters as well."""
    chain = Chain(run, RUN_ID, replace(genesis_state(RUN_ID), record=name_of("genesis")))
    known = {PEERS[n]: _known(n, -2) for n in members}
    known |= {PEERS[n]: replace(_known(n, 0), credited_turns=-(10**9)) for n in former}
    for label, parent, round_, rank, count in born:
        above = chain[name_of(parent)]
        state = ChainState(
            record=name_of(label),
            parent=above.hash,
            round=round_,
            height=above.state.height + 1,
            cursor=0,
            known=known,
            credits=frozenset(),
            due={r: frozenset(PEERS[n] for n in names) for r, names in (due or {}).items()},
        )
        chain.records[state.record] = Record(
            hash=state.record,
            parent=above.hash,
            round=round_,
            rank=rank,
            proposal=None,
            contributions=tuple(make_header(n, round_, above.hash) for n in range(count)),
            late=(),
            offences=(),
            state=state,
            members=frozenset(PEERS[n] for n in members),
        )
        chain.children[state.record] = []
        chain.children[above.hash].append(state.record)
    return chain


def _known(number: int, member_round: int) -> Member:
    return Member(
        peer=PEERS[number],
        key=compute_key(b"", PEERS[number]),
        admitted_by=name_of("genesis"),
        since_round=0,
        credited_round=0,
        included=9,
        left=False,
        samples=(),
        member_round=member_round,
    )


def count_votes(cast: Sequence[Vote], equivocators: Collection[int] = ()) -> Votes:
    """The newest vote of everybody."""
    votes = Votes()
    for voter, round_, label in cast:
        votes.add(PEERS[voter], round_, name_of(label))
    for voter in equivocators:
        votes.add_equivocation(PEERS[voter], 1)
    return votes


def _tell(born: Sequence[Born]) -> list[dict[str, Any]]:
    names = ("record", "parent", "round", "rank", "contributions")
    return [dict(zip(names, row, strict=True)) for row in born]


def _fork_case(
    sentence: str,
    born: Sequence[Born],
    cast: Sequence[Vote],
    *,
    head: str,
    members: Sequence[int] = range(6),
    equivocators: Sequence[int] = (),
    unusable: Sequence[str] = (),
    uncovered: Sequence[str] = (),
    final: str | None = None,
    overlap: int = 0,
) -> dict[str, Any]:
    run = replace(MANIFEST, agreement=replace(MANIFEST.agreement, overlap_rounds=overlap))
    chain = build(born, members, run)
    labels = {name_of(label): label for label in ("genesis", *(row[0] for row in born))}
    chosen = choose_head(
        chain,
        name_of(head),
        count_votes(cast, equivocators),
        usable=lambda record: labels[record] not in unusable,
        covered=lambda record: labels[record.hash] not in uncovered,
        final=name_of(final) if final else None,
    )
    return {
        "sentence": sentence,
        "members": list(members),
        "overlap_rounds": overlap,
        "records": _tell(born),
        "votes": [list(vote) for vote in cast],
        "equivocators": list(equivocators),
        "unusable": list(unusable),
        "uncovered": list(uncovered),
        "final": final,
        "head_before": head,
        "head": labels[chosen],
    }


def forkchoice_case() -> dict[str, Any]:
    """Each named after the sentence of rule 18 that decides it."""
    six = BEFORE_SIX
    grown = [*six, ("a2", "a", 3, 0, 2), ("b2", "b", 3, 0, 3), ("b3", "b2", 4, 0, 3)]
    lone = [("x", "genesis", 0, 0, 2), ("y", "genesis", 0, 0, 2), ("y1", "y", 1, 0, 2)]
    for n in range(1, 6):
        lone.append((f"x{n}", "x" if n == 1 else f"x{n - 1}", n, 0, 2))
    settled = [*lone, ("y2", "y1", 2, 0, 2), ("y3", "y2", 3, 0, 2)]
    to_a = [(0, 3, "a"), (1, 3, "a"), (2, 3, "b")]
    staying = [(voter, 3, "P") for voter in range(4)]
    cases = [
        _fork_case("the child with most members of P in its subtree", six, to_a, head="b"),
        _fork_case(
            "a vote for a descendant is in the subtree",
            grown,
            [(0, 5, "a"), (1, 5, "b2"), (2, 5, "b3")],
            head="a2",
        ),
        _fork_case(
            "votes of who is no member of P do not count",
            six,
            [(0, 3, "a"), *((voter, 3, "b") for voter in range(6, 12))],
            head="a",
        ),
        _fork_case(
            "who signed two headers counts nowhere", six, to_a, equivocators=[0, 1], head="a"
        ),
        _fork_case("newborn siblings: covered first", six, [], uncovered=["a"], head="P"),
        _fork_case("then lower rank", six, [(0, 3, "a"), (1, 3, "b")], head="P"),
        _fork_case(
            "then lower hash",
            [six[0], ("a", "P", 2, 0, 6), ("c", "P", 2, 0, 6)],
            [],
            head="P",
        ),
        _fork_case(
            "a tie where any has descendants: most contributions, coverage is not asked",
            grown,
            [(0, 5, "a2"), (1, 5, "b3")],
            uncovered=["b"],
            head="a2",
        ),
        _fork_case("what is not usable is not there", six, to_a, unusable=["a"], head="P"),
        _fork_case("a child nobody votes for loses to P", six[:2], staying, head="P"),
        _fork_case(
            "with overlap a vote of the next round does not count for P",
            six[:2],
            staying,
            overlap=1,
            head="P",
        ),
        _fork_case(
            "the walk begins at the last final record",
            grown,
            [(voter, 5, "b3") for voter in range(6)],
            final="a",
            head="a2",
        ),
        _fork_case("under a parent without members work decides", lone, [(0, 6, "x5")], head="y1"),
        _fork_case(
            "until `final_min_records` are built on a node's own child there",
            settled,
            [(0, 6, "x5")],
            head="y3",
        ),
    ]
    return {
        "peers": [peer.hex() for peer in PEERS[:12]],
        "hash": "of a record: SHA-256 of its label",
        "cases": cases,
    }


def _final_case(
    sentence: str,
    length: int,
    cast: Sequence[Vote],
    *,
    members: Sequence[int] = range(6),
    former: Sequence[int] = (),
    equivocators: Sequence[int] = (),
    contributors: int = 0,
    due: Mapping[int, Sequence[int]] | None = None,
) -> dict[str, Any]:
    run = replace(MANIFEST, agreement=replace(MANIFEST.agreement, contributors=contributors))
    born = [
        (str(height), str(height - 1) if height > 1 else "genesis", height - 1, 0, 1)
        for height in range(1, length + 1)
    ]
    chain = build(born, members, run, former=former, due=due)
    votes = count_votes(cast, equivocators)
    found = find_final(chain, name_of(str(length)), votes, None)
    return {
        "sentence": sentence,
        "members": list(members),
        "former_members": list(former),
        "contributors": contributors,
        "due": {str(r): list(names) for r, names in (due or {}).items()},
        "head": str(length),
        "votes": [list(vote) for vote in cast],
        "equivocators": list(equivocators),
        "final": None if found is None else str(found.height),
    }


def finality_case() -> dict[str, Any]:
    """Chains without forks: record h has height h and round h - 1, its label is its height."""
    all_at = [(voter, 20, "10") for voter in range(6)]
    drawn = {round_: [round_ % 6, (round_ + 1) % 6] for round_ in range(2, 10)}
    cases = [
        _final_case("`final_depth` descendants up to the head", 10, all_at),
        _final_case("height `final_min_records` at least", 5, [(v, 20, "5") for v in range(6)]),
        _final_case(
            "two thirds of the voters in the subtree of its child there",
            10,
            [*((v, 20, "6") for v in range(3)), (3, 20, "5"), (4, 20, "4"), (5, 20, "4")],
        ),
        _final_case("voters that are members no more count", 10, all_at, former=range(6, 10)),
        _final_case("`final_min_peers` at least", 10, all_at[:2], members=range(2)),
        _final_case("who signed twice is a voter all the same", 10, all_at, equivocators=[0, 1, 2]),
        _final_case(
            "drawn: two thirds of those due in the last 8 rounds",
            10,
            all_at[1:5],
            contributors=2,
            due=drawn,
        ),
        _final_case(
            "drawn: scaled up by voters over members",
            10,
            all_at,
            contributors=2,
            due=drawn,
            former=range(6, 10),
        ),
    ]
    agreement = MANIFEST.agreement
    return {
        "peers": [peer.hex() for peer in PEERS[:12]],
        "final_depth": agreement.final_depth,
        "final_min_records": agreement.final_min_records,
        "final_min_peers": agreement.final_min_peers,
        "cases": cases,
    }
