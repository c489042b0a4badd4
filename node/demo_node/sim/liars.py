"""Dishonest nodes: an honest machine whose words are twisted on their way out.

So a liar follows the run as well as anybody and knows when its lies hurt most. It signs with its
own key (whoever's key is known to others is not a liar but a victim); what it hears, it believes.
"""

import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from demo_node.sim.garbling import Garbler
from demo_node.sim.keys import cheap_sign, peer_name
from demo_node.sim.scenario import LIES
from demo_protocol.chain import make_record
from demo_protocol.errors import Reject
from demo_protocol.identity import Kind
from demo_protocol.limits import DIGEST_BYTES
from demo_protocol.messages import (
    Header,
    Membership,
    Proposal,
    Sealed,
    decode_header,
    decode_proposal,
    seal_header,
    seal_membership,
    seal_proposal,
)
from demo_protocol.roster import compute_rank

if TYPE_CHECKING:
    from demo_node.sim.actor import Actor

APART_MS = 300
"""So much later the other half hears what the first half heard."""

TRIES = 30
"""Contents that a grinding proposer makes up before it chooses one."""

SYBILS = 3
"""Identities of one liar, beside its own: dishonest ids stay below a third."""

SYBILS_FROM = 1_000_000
"""Their numbers, far from those of nodes."""

OLD_RECORDS = 12
"""So many records back is what an old chain's head is to its liar."""


def make_dishonest(actor: "Actor", how: str) -> None:
    """Let a node lie from now on, one of LIES."""
    assert how in LIES
    actor.traits.how = how
    match how:
        case "withhold":
            actor.traits.withholds = functools.partial(_withholds, actor, lambda asking: True)
        case "half_serve":
            actor.traits.withholds = functools.partial(_withholds, actor, _is_odd)
        case "garble":
            garbler = Garbler(actor)
            actor.traits.announce, actor.traits.answer = garbler.announce, garbler.answer
        case _:
            actor.traits.announce = _Liar(actor, how).announce


def _withholds(
    actor: "Actor", refuses: Callable[[int], bool], asking: int, payload_hash: bytes
) -> bool:
    """Its own payloads only: of others there are other holders."""
    if not refuses(asking):
        return False
    actor.world.counts["lie.withheld"] += 1
    return True


def _is_odd(asking: int) -> bool:
    return asking % 2 == 1


def _forge_digest(record: bytes) -> bytes:
    """All liars say the same of a state: only then do they look like a majority (rule 20)."""
    return hashlib.sha256(b"forged" + record).digest()[:DIGEST_BYTES]


class _Liar:
    """Twists what one node announces."""

    def __init__(self, actor: "Actor", how: str) -> None:
        self._actor = actor
        self._how = how
        self._world = actor.world
        self._sign = cheap_sign(actor.name)
        self._heard: list[tuple[Kind, bytes]] = []
        self._sybils = [SYBILS_FROM + SYBILS * actor.index + n for n in range(SYBILS)]

    def announce(self, kind: Kind, raw: bytes) -> None:
        """In place of a gossiped message of the machine."""
        match kind:
            case Kind.HEADER:
                self._say_header(raw)
            case Kind.PROPOSAL:
                self._say_proposal(raw)
            case Kind.MEMBERSHIP:
                self._say(kind, raw)

    # --- headers ---------------------------------------------------------------------------------

    def _say_header(self, raw: bytes) -> None:
        header = decode_header(raw, self._world.run_id).body
        match self._how:
            case "equivocate":
                self._say_two(
                    Kind.HEADER, raw, self._seal_header(replace(header, vote=self._old_vote(1)))
                )
            case "forge_digest":
                forged = replace(header, digest=_forge_digest(header.base))
                self._lie_instead(Kind.HEADER, raw, self._seal_header(forged))
            case "forge_parent":
                forged = replace(header, vote=self._made_up())
                self._lie_instead(Kind.HEADER, raw, self._seal_header(forged))
            case "old_chain":
                old = replace(header, vote=self._old_vote(OLD_RECORDS))
                self._lie_instead(Kind.HEADER, raw, self._seal_header(old))
            case "replay":
                self._say(Kind.HEADER, raw)
                self._replay(raw)
            case "sybil_silent" | "sybil_active":
                self._say(Kind.HEADER, raw)
                self._send_sybils(header)
            case _:
                self._say(Kind.HEADER, raw)

    def _replay(self, own: bytes) -> None:
        """Old words once more: everybody's, of rounds that gossip carries and of others."""
        for kind, old in self._heard[-4:] + self._heard[:4]:
            self._lie(kind, old)
        pool = self._actor.view.pool
        newest = [header.raw for header in pool.headers.values()][-3:]
        self._heard += [(Kind.HEADER, raw) for raw in (own, *newest)]
        self._heard += [(Kind.PROPOSAL, p.raw) for p in list(pool.pending.values())[:1]]
        head = self._actor.view.chain[self._actor.view.head].proposal
        if head is not None:
            self._heard.append((Kind.PROPOSAL, head.raw))
        del self._heard[8:-8]

    def _send_sybils(self, header: Header) -> None:
        """Identities without nodes behind them ask to be let in; the active ones vote as well."""
        known = self._actor.view.head_state.known
        for name in map(peer_name, self._sybils):
            sign = cheap_sign(name)
            if name not in known:
                wish = Membership(joins=True, peer=name, round=header.round)
                sealed = seal_membership(wish, self._world.run_id, sign)
                self._lie(Kind.MEMBERSHIP, sealed.raw)
            if self._how == "sybil_active":
                heartbeat = replace(
                    header,
                    peer=name,
                    vote=self._old_vote(1),
                    payload_hash=b"",
                    payload_bytes=0,
                    k=0,
                    samples=0,
                    loss_micronats=0,
                )
                self._lie(Kind.HEADER, seal_header(heartbeat, self._world.run_id, sign).raw)

    # --- proposals -------------------------------------------------------------------------------

    def _say_proposal(self, raw: bytes) -> None:
        proposal = decode_proposal(raw, self._world.run_id).body
        match self._how:
            case "equivocate":
                self._say_two(Kind.PROPOSAL, raw, self._seal(self._drop(proposal, 1)))
            case "censor":
                censored = self._keep_friends(proposal)
                self._lie_instead(Kind.PROPOSAL, raw, self._seal(censored))
            case "grind":
                self._lie_instead(Kind.PROPOSAL, raw, self._grind(proposal))
            case "forge_parent":
                forged = replace(proposal, parent=self._made_up())
                self._lie_instead(Kind.PROPOSAL, raw, self._seal(forged))
            case "forge_digest":
                forged = replace(proposal, parent_digest=_forge_digest(proposal.parent))
                self._lie_instead(Kind.PROPOSAL, raw, self._seal(forged))
            case "old_chain":
                old = replace(proposal, parent=self._old_vote(OLD_RECORDS))
                self._lie_instead(Kind.PROPOSAL, raw, self._seal(old))
            case _:
                self._say(Kind.PROPOSAL, raw)

    def _drop(self, proposal: Proposal, count: int) -> Proposal:
        """Some contributions fewer, drawn at random; one at least stays."""
        listed = list(proposal.contributions)
        for _ in range(min(count, len(listed) - 1)):
            listed.pop(self._actor.rng.randrange(len(listed)))
        return replace(proposal, contributions=tuple(listed), late=())

    def _keep_friends(self, proposal: Proposal) -> Proposal:
        """List dishonest nodes only; one honest one where there are none."""
        headers = self._actor.view.pool.headers
        friends = [name for name in proposal.contributions if self._is_friend(headers[name].body)]
        listed = tuple(friends or proposal.contributions[:1])
        return replace(proposal, contributions=listed, late=(), evidence=())

    def _is_friend(self, header: Header) -> bool:
        author = self._world.find(header.peer)
        return author is None or bool(author.traits.how)

    def _grind(self, proposal: Proposal) -> bytes:
        """Of many contents the one after which the next turn is its own again, if there were any.

        Rule 11 leaves it no choice; then it takes the lowest hash, which an unlucky tie asks for.
        """
        fewer = len(proposal.contributions) // 4
        contents = [self._drop(proposal, self._actor.rng.randint(0, fewer)) for _ in range(TRIES)]
        seals = [decode_proposal(self._seal(content), self._world.run_id) for content in contents]
        return min(seals, key=lambda sealed: (self._next_rank(sealed), sealed.hash)).raw

    def _next_rank(self, proposal: Sealed[Proposal]) -> int:
        """Its own rank in the next round, were this the record of this one."""
        view, world = self._actor.view, self._world
        agreement, parent = world.manifest.agreement, view.chain[proposal.body.parent].state
        try:
            record = make_record(
                world.manifest, world.run_id, parent, proposal, view.pool.headers, world.verify
            )
        except Reject:
            return len(parent.known) + 1  # it dropped what it must list
        rank = compute_rank(record.state, self._actor.name, proposal.body.round + 1, agreement)
        return len(record.members) if rank is None else rank

    # --- saying it -------------------------------------------------------------------------------

    def _say(self, kind: Kind, raw: bytes) -> None:
        self._world.publish(self._actor, kind, raw)

    def _lie(self, kind: Kind, raw: bytes) -> None:
        self._world.counts[f"lie.{self._how}"] += 1
        self._say(kind, raw)

    def _lie_instead(self, kind: Kind, truth: bytes, lie: bytes) -> None:
        """Of two messages for one round, the other one leaks: so the machine forgets its own.

        What it hears of itself then is the lie, as all others do.
        """
        view = self._actor.view
        if kind is Kind.HEADER:
            header = decode_header(truth, self._world.run_id)
            view.pool.headers.pop(header.hash, None)
            view.pool.by_round.get(header.body.round, {}).pop(header.body.peer, None)
            view.pool.add_header(decode_header(lie, self._world.run_id))
        else:
            proposal = decode_proposal(truth, self._world.run_id)
            view.pool.notices.pop((proposal.body.round, proposal.body.peer), None)
            view.pool.pending.pop(proposal.hash, None)
            if proposal.hash in view.chain:
                del view.chain.records[proposal.hash], view.chain.children[proposal.hash]
                view.chain.children[proposal.body.parent].remove(proposal.hash)
            heard: list[tuple[Kind, bytes, bytes]] = [(kind, lie, self._actor.name)]
            self._actor.later(1, functools.partial(self._actor.hear, heard))
        self._lie(kind, lie)

    def _say_two(self, kind: Kind, one: bytes, other: bytes) -> None:
        """Each half hears one first; the other comes later, as it does over any gossip."""
        if one == other:
            self._say(kind, one)
            return
        self._world.counts[f"lie.{self._how}"] += 1
        halves: Sequence[list[int]] = (
            [index for index in self._world.up if index % 2 == 0],
            [index for index in self._world.up if index % 2 == 1],
        )
        for first, second, half in ((one, other, halves[0]), (other, one, halves[1])):
            self._world.publish(self._actor, kind, first, half)
            later = functools.partial(self._world.publish, self._actor, kind, second, half)
            self._actor.later(APART_MS, later)

    def _seal_header(self, header: Header) -> bytes:
        return seal_header(header, self._world.run_id, self._sign).raw

    def _seal(self, proposal: Proposal) -> bytes:
        return seal_proposal(proposal, self._world.run_id, self._sign).raw

    def _old_vote(self, records: int) -> bytes:
        """The head of so many records ago, or the oldest that is remembered."""
        view = self._actor.view
        found = view.head
        for count, step in enumerate(view.chain.ancestors(view.head)):
            found = step.hash
            if count >= records:
                break
        return found

    def _made_up(self) -> bytes:
        return hashlib.sha256(self._actor.rng.randbytes(16)).digest()
