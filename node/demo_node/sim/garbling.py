"""A dishonest node that talks nonsense: bytes that are no message, and messages that cannot be.

What it signs is well-formed as often as not, so that receivers come to their last question before
they refuse it. Half of the time it says the truth as well.
"""

import random
from collections.abc import Callable
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from demo_node.sim.keys import cheap_sign, peer_name
from demo_protocol.identity import Kind
from demo_protocol.limits import GOSSIP_BYTES_MAX, HASH_BYTES, K_MAX
from demo_protocol.messages import (
    Evidence,
    Header,
    Membership,
    Proposal,
    decode_header,
    decode_membership,
    decode_proposal,
    seal_header,
    seal_membership,
    seal_proposal,
)

if TYPE_CHECKING:
    from demo_node.sim.actor import Actor

STRANGERS_FROM = 2_000_000
"""Numbers of nodes that do not exist, far from those of nodes."""

LARGE = 2**32 - 1


class Garbler:
    """Twists whatever one node says, and whatever it answers."""

    def __init__(self, actor: "Actor") -> None:
        self._actor = actor
        self._world = actor.world
        self._rng = actor.rng
        self._sign = cheap_sign(actor.name)

    def announce(self, kind: Kind, raw: bytes) -> None:
        """In place of a gossiped message of the machine, or beside it."""
        if self._rng.random() < 0.5:
            self._world.publish(self._actor, kind, raw)
        lie = garble(raw, self._rng) if self._rng.random() < 0.3 else self._contradict(kind, raw)
        if lie != raw:
            self._count()
            self._world.publish(self._actor, kind, lie)

    def answer(self, raw: bytes) -> bytes:
        """In place of an answer, half of the time."""
        if self._rng.random() < 0.5:
            return raw
        lie = garble(raw, self._rng)
        if lie != raw:
            self._count()
        return lie

    def _count(self) -> None:
        self._world.counts["lie.garble"] += 1

    def _contradict(self, kind: Kind, raw: bytes) -> bytes:
        """The same message, signed anew, with something in it that cannot be."""
        run_id, sign = self._world.run_id, self._sign
        match kind:
            case Kind.HEADER:
                header = decode_header(raw, run_id).body
                return seal_header(self._twist(header, self._header_lies(header)), run_id, sign).raw
            case Kind.MEMBERSHIP:
                wish = decode_membership(raw, run_id).body
                return seal_membership(self._twist(wish, _wish_lies(wish)), run_id, sign).raw
            case Kind.PROPOSAL:
                proposal = decode_proposal(raw, run_id).body
                lies = self._proposal_lies(proposal)
                return seal_proposal(self._twist(proposal, lies), run_id, sign).raw

    def _twist(self, body: Any, lies: list[dict[str, object]]) -> Any:
        """One of these lies, or the length of one of its hashes is wrong."""
        if self._rng.random() < 0.2:
            hashes = [f.name for f in fields(body) if isinstance(getattr(body, f.name), bytes)]
            name = self._rng.choice(hashes)
            return replace(body, **{name: self._rng.randbytes(self._rng.randrange(64))})
        return replace(body, **self._rng.choice(lies))

    def _header_lies(self, header: Header) -> list[dict[str, Any]]:
        return [
            {"round": header.round + 3},
            {"round": max(header.round - 9, 0)},
            {"peer": peer_name(STRANGERS_FROM)},
            {"vote": self._rng.randbytes(HASH_BYTES)},
            {"base": self._rng.randbytes(HASH_BYTES)},
            {"k": 0},
            {"k": K_MAX + 1, "payload_hash": self._rng.randbytes(HASH_BYTES)},
            {"k": K_MAX, "payload_hash": self._rng.randbytes(HASH_BYTES), "payload_bytes": 1},
            {"payload_bytes": 2 * header.payload_bytes + 4_096},
            {"payload_bytes": LARGE},
            {"samples": LARGE, "loss_micronats": LARGE},
        ]

    def _proposal_lies(self, proposal: Proposal) -> list[dict[str, Any]]:
        """Lists that are no lists, and what cannot stand in a record on this parent."""
        view, round_ = self._actor.view, proposal.round
        listed = proposal.contributions
        old = tuple(sorted(h.hash for h in view.pool.headers.values() if h.body.round < round_))
        gone = tuple(sorted(view.pool.hashes_of_round(round_ - 1)))
        join, leave = self._wish(joins=True), self._wish(joins=False)
        pairs = [h.raw for h in list(view.pool.headers.values())[:2]]
        return [
            {"contributions": ()},
            {"contributions": listed[::-1], "late": listed[:1]},
            {"contributions": (*listed, *listed)},
            {"contributions": tuple(sorted((*listed, self._rng.randbytes(HASH_BYTES))))},
            {"contributions": old or listed},
            {"late": listed},
            {"late": old},
            {"late": gone},
            {"joins": (join,)},
            {"joins": (leave,)},
            {"joins": (join, join)},
            {"joins": (self._rng.randbytes(40),)},
            {"leaves": (leave,)},
            {"joins": (join,), "leaves": (leave,)},
            {"evidence": (Evidence(Kind.HEADER, pairs[0], pairs[-1]),) if pairs else ()},
            {"evidence": (Evidence(Kind.HEADER, proposal.peer, b""),)},
            {"state_root": b"" if proposal.state_root else self._rng.randbytes(HASH_BYTES)},
            {"state_root": self._rng.randbytes(HASH_BYTES)},
            {"round": round_ + 3},
            {"parent": view.chain.root.record},
            {"parent_digest": self._rng.randbytes(len(proposal.parent_digest))},
        ]

    def _wish(self, *, joins: bool) -> bytes:
        """Of a node that does not exist."""
        name = peer_name(STRANGERS_FROM + self._rng.randrange(100))
        wish = Membership(joins=joins, peer=name, round=max(self._actor.view.round, 0))
        return seal_membership(wish, self._world.run_id, cheap_sign(name)).raw


def _wish_lies(wish: Membership) -> list[dict[str, Any]]:
    return [
        {"round": wish.round + 3},
        {"round": max(wish.round - 9, 0)},
        {"peer": peer_name(STRANGERS_FROM)},
        {"joins": False, "never_drawn": True},
        {"joins": not wish.joins},
        {"nonce": LARGE},
    ]


def garble(raw: bytes, rng: random.Random) -> bytes:
    """These bytes with something wrong: cut, changed, longer, others, none at all."""
    where = rng.randrange(len(raw) + 1)
    ways: list[Callable[[], bytes]] = [
        lambda: raw[:where],
        lambda: raw[:where] + bytes([rng.randrange(256)]) + raw[where + 1 :],
        lambda: raw[:where] + rng.randbytes(8) + raw[where:],
        lambda: raw + raw,
        lambda: rng.randbytes(len(raw)),
        lambda: rng.randbytes(GOSSIP_BYTES_MAX + 1),
        lambda: b"",
    ]
    return rng.choice(ways)()
