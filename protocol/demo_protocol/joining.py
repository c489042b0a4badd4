"""Whom a joiner among strangers believes (rule 22), and which snapshot it may take (rule 21).

It has no chain of its own yet, so nobody's votes count for it: who is a voter follows from a
record, and which records are the run's is what it asks. What cannot be had for nothing is many
networks. So peers are counted by network until a start is found; from there on rule 18 decides
over all records that were given, as it does for everybody.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from demo_protocol.answers import Link
from demo_protocol.errors import Reject
from demo_protocol.identity import Verify
from demo_protocol.manifest import Agreement
from demo_protocol.messages import Header, Sealed, check_signature
from demo_protocol.networks import NETWORKS_WANTED
from demo_protocol.roster import ChainState, get_committee
from demo_protocol.view import View

SHOWN_DIGITS = 16
"""Of a record's hash, in lines for people: enough to tell two apart and to look one up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one peer says of where it stands.

    `network` is `networks.compute_network` of it. `final` and `snapshot` are empty for none;
    `snapshot` is the record that carries the root of the newest snapshot it holds (rule 21).
    """

    peer: bytes
    network: str
    head: bytes
    final: bytes = b""
    snapshot: bytes = b""
    is_syncing: bool = False


@dataclass(frozen=True, slots=True)
class Offer:
    """A snapshot's record, who holds it, and whether all who are believed stand on it."""

    record: bytes
    holders: tuple[bytes, ...]
    is_common: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Where to go: `head`, whose known ancestors are in `trail`.

    `final` is the newest record on the way there that more than two thirds of the believed networks
    call final, or a record after it.
    `offers`: snapshots to try in this order. `set_aside` were outvoted.
    """

    head: bytes
    final: bytes
    trail: Mapping[bytes, Link]
    offers: tuple[Offer, ...]
    believed: tuple[bytes, ...]
    set_aside: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Nobody can be believed as things are. `reason` is one line that says what to do."""

    reason: str


# --- how many were heard -------------------------------------------------------------------------


def is_enough(answers: Sequence[Answer], known: int) -> bool:
    """Did as many answer as rule 22 asks for, or all of the `known` peers there are?"""
    return _count(answers) >= NETWORKS_WANTED or len(answers) >= known


def explain_trust(answers: Sequence[Answer], known: int, anchor: bytes = b"") -> str:
    """A line for the operator where fewer were heard than rule 22 asks for; else empty."""
    if anchor or not answers or _count(answers) >= NETWORKS_WANTED:
        return ""
    if len(answers) == 1:
        whom = "the only peer" if known <= 1 else f"the only one of {known} peers that answered"
    else:
        whom = f"the {len(answers)} peers that answered, of {_count(answers)} networks"
    return f"believing {whom}; give --anchor <record hash> to be sure"


# --- whom to believe -----------------------------------------------------------------------------


def choose(
    answers: Sequence[Answer], links: Mapping[bytes, Link], genesis: bytes, anchor: bytes = b""
) -> Choice | Refusal:
    """The head to make for. `links` holds every record that anybody gave, by its hash.

    With an `anchor`, whoever's chain lacks it does not count. Where
    peers name finals of which neither descends from the other, those that more than two thirds of
    the networks stand on win, if they are three at least: a lone liar stops nobody. Otherwise
    nothing is guessed. At each fork the branch with most networks is taken.
    """
    level = [answer for answer in answers if not answer.is_syncing] or list(answers)
    paths = {answer.head: _path(answer.head, links) for answer in level}
    if anchor:
        level = [answer for answer in level if anchor in paths[answer.head]]
        if not level:
            return Refusal(
                f"the anchor {_show(anchor)} is on the chain of no peer that answered; copy it"
                " again from a node you trust, or name a peer that holds it with --peers"
            )
    level = [answer for answer in level if _is_consistent(answer, paths[answer.head], genesis)]
    if not level:
        return Refusal("no peer gave a chain that can be followed; try again, or name other peers")
    best = _choose_final(level, paths, links)
    if isinstance(best, Refusal):
        return best
    believed = [
        answer
        for answer in level
        if not _final_of(answer, paths) or _agree(_final_of(answer, paths), best, links)
    ]
    head = _choose_head(believed, paths, links)
    trail = {name: links[name] for name in paths[head] if name in links}
    return Choice(
        head=head,
        final=_find_agreed_final(believed, paths, links, head),
        trail=trail,
        offers=_sort_offers(believed, paths, links, head),
        believed=tuple(answer.peer for answer in believed),
        set_aside=tuple(sorted({a.peer for a in answers} - {a.peer for a in believed})),
    )


def _path(head: bytes, links: Mapping[bytes, Link]) -> dict[bytes, None]:
    """A head and its ancestors as far as they are known, newest first; the last is only named."""
    path: dict[bytes, None] = {head: None}
    while head in links:
        head = links[head].parent
        path[head] = None
    return path


def _is_consistent(answer: Answer, path: Collection[bytes], genesis: bytes) -> bool:
    """Is its final on its own chain? Where the chain was not followed so far, that is open."""
    return not answer.final or answer.final in path or genesis not in path


def _final_of(answer: Answer, paths: Mapping[bytes, Collection[bytes]]) -> bytes:
    """Its final where that can be compared: b"" where it names none, or one out of reach."""
    return answer.final if answer.final in paths[answer.head] else b""


def _agree(one: bytes, other: bytes, links: Mapping[bytes, Link]) -> bool:
    """Does one of two finals descend from the other, or equal it?"""
    return not other or one in _path(other, links) or other in _path(one, links)


def _choose_final(
    level: Sequence[Answer],
    paths: Mapping[bytes, Collection[bytes]],
    links: Mapping[bytes, Link],
) -> bytes | Refusal:
    """The newest final record that is not in dispute; b"" where nobody names one."""
    named = sorted({final for answer in level if (final := _final_of(answer, paths))})
    below = {other for final in named for other in _path(final, links) if other != final}
    newest = [final for final in named if final not in below]
    if len(newest) < 2:
        return newest[0] if newest else b""
    sides = {final: [a for a in level if final in paths[a.head]] for final in newest}
    everybody = len({a.network for side in sides.values() for a in side})
    ranked = sorted(newest, key=lambda final: (-_count(sides[final]), final))
    most = _count(sides[ranked[0]])
    if most >= NETWORKS_WANTED and 3 * most > 2 * everybody:
        return ranked[0]
    shown = [f"{_show(final)} ({_describe(sides[final], links, final)})" for final in ranked[:2]]
    return Refusal(
        f"peers disagree on what is final: {shown[0]} and {shown[1]}; ask somebody you trust for"
        " the right one and start with --anchor <record hash>"
    )


def _find_agreed_final(
    believed: Sequence[Answer],
    paths: Mapping[bytes, dict[bytes, None]],
    links: Mapping[bytes, Link],
    head: bytes,
) -> bytes:
    """One peer may call final what is not: who believed that would never leave it again."""
    everybody = _count(believed)
    finals = [(answer, _final_of(answer, paths)) for answer in believed]
    below = [(answer, _path(final, links)) for answer, final in finals if final]
    for record in paths[head]:
        if 3 * _count(answer for answer, path in below if record in path) > 2 * everybody:
            return record
    return b""


def _describe(side: Sequence[Answer], links: Mapping[bytes, Link], final: bytes) -> str:
    count = f"{len(side)} peer{'s' if len(side) > 1 else ''}"
    return f"round {links[final].round}, {count}" if final in links else count


def _choose_head(
    believed: Sequence[Answer],
    paths: Mapping[bytes, dict[bytes, None]],
    links: Mapping[bytes, Link],
) -> bytes:
    """From the oldest record down, to the child that most networks are on or above.

    A child that fewer follow than stand on its parent is left: one peer may have made it up.
    """
    children: dict[bytes, set[bytes]] = {}
    on: dict[bytes, set[str]] = {}
    newest: dict[bytes, int] = {}
    for answer in believed:
        round_ = links[answer.head].round if answer.head in links else -1
        parent = b""
        for record in reversed(paths[answer.head]):
            children.setdefault(parent, set()).add(record)
            on.setdefault(record, set()).add(answer.network)
            newest[record] = max(round_, newest.get(record, round_))
            parent = record
    current = b""
    while current in children:
        child = min(children[current], key=lambda c: (-len(on[c]), -newest[c], c))
        if _count(a for a in believed if a.head == current) > len(on[child]):
            break
        current = child
    return current


def _sort_offers(
    believed: Sequence[Answer],
    paths: Mapping[bytes, dict[bytes, None]],
    links: Mapping[bytes, Link],
    head: bytes,
) -> tuple[Offer, ...]:
    """Those that all stand on first, then those on the way to `head`, the newest of each first."""
    holders: dict[bytes, list[bytes]] = {}
    for answer in believed:
        if answer.snapshot in links and answer.snapshot in paths[answer.head]:
            holders.setdefault(answer.snapshot, []).append(answer.peer)
    offers = []
    for record, peers in holders.items():
        below = _path(record, links)  # who is behind may come there yet
        is_common = all(record in paths[a.head] or a.head in below for a in believed)
        offers.append(Offer(record, tuple(peers), is_common))
    trail = paths[head]
    offers.sort(
        key=lambda o: (not o.is_common, o.record not in trail, -links[o.record].round, o.record)
    )
    return tuple(offers)


def _count(answers: Iterable[Answer]) -> int:
    """Of how many networks they are."""
    return len({answer.network for answer in answers})


def _show(record: bytes) -> str:
    return record.hex()[:SHOWN_DIGITS]


# --- what is offered to others, and what voters say of it -----------------------------------------


def choose_offer(view: View, held: Iterable[tuple[bytes, bytes]]) -> tuple[bytes, bytes] | None:
    """Which of the snapshots `held` here, named by record and root, a joiner should be given.

    The newest whose root a record carries that is final here, so that two thirds of the voters
    built on it; else the newest with two records on top; else the newest of all.
    """
    heights = {}
    names = set(held)
    for step in view.chain.ancestors(view.head):
        if step.state_root and (step.parent, step.state_root) in names:
            heights[step.parent, step.state_root] = step.state.height
    final = view.final.height if view.final else -1
    for most in (final, view.head_state.height - 2, view.head_state.height):
        settled = [name for name, height in heights.items() if height <= most]
        if settled:
            return max(settled, key=lambda name: heights[name])
    return None


def is_built_on(
    record: bytes,
    state: ChainState,
    links: Mapping[bytes, Link],
    headers: Iterable[Sealed[Header]],
    *,
    agreement: Agreement,
    verify: Verify,
) -> bool:
    """Rule 21: did two thirds of the voters at `state` last vote for `record` or what follows it?

    `state` is the one whose root `record` carries, `headers` are those of all records in `links`.
    Whoever signed two headers for one round counts nowhere (rule 18).
    """
    committee = get_committee(state, agreement)
    newest = _find_newest_votes(headers, committee.peers, verify)
    below = _descendants(record, links)
    return 3 * sum(vote in below for vote in newest.values()) >= 2 * committee.size


def _find_newest_votes(
    headers: Iterable[Sealed[Header]], voters: Collection[bytes], verify: Verify
) -> dict[bytes, bytes]:
    """What each of the `voters` voted for last. Of those who signed twice: nothing."""
    said: dict[bytes, dict[int, dict[bytes, Sealed[Header]]]] = {}
    for header in headers:
        if header.body.peer in voters:
            rounds = said.setdefault(header.body.peer, {})
            rounds.setdefault(header.body.round, {})[header.hash] = header
    newest = {}
    for peer, rounds in said.items():
        vote = b""
        for round_ in sorted(rounds, reverse=True):
            if vote and len(rounds[round_]) < 2:
                continue  # only the newest counts, and checking costs
            signed = [h for h in rounds[round_].values() if _is_signed(h, verify)]
            if len(signed) > 1:
                vote = b""
                break
            if signed and not vote:
                vote = signed[0].body.vote
        if vote:
            newest[peer] = vote
    return newest


def _is_signed(header: Sealed[Header], verify: Verify) -> bool:
    try:
        check_signature(header, verify)
    except Reject:
        return False
    return True


def _descendants(record: bytes, links: Mapping[bytes, Link]) -> set[bytes]:
    """`record` and all that descends from it."""
    found = {record}
    for link in sorted(links.values(), key=lambda link: link.round):
        if link.parent in found:
            found.add(link.record)
    return found
