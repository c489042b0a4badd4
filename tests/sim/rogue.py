"""A peer without a round machine: it signs, sends and serves whatever a test wants."""

import hashlib
from collections.abc import Iterable
from typing import Self

from demo_node.ports import Blob, BlobRequest, Topic
from demo_node.sim.keys import cheap_sign, peer_name
from demo_node.sim.whole.model_learner import ModelLearner
from demo_node.sim.whole.swarm import SimSwarm
from demo_node.sim.whole.virtual_loop import VirtualClock
from demo_protocol.messages import (
    Header,
    Membership,
    Proposal,
    Sealed,
    seal_header,
    seal_membership,
    seal_proposal,
)
from demo_protocol.payload import encode_payload
from demo_protocol.schedule import round_start_ms

TRAIN_END, PROPOSE = 1_650, 2_250
"""Milliseconds into a round (tests.builders.schedule)."""


class Rogue:
    """A liar in a swarm whose node 0 is honest and up."""

    def __init__(self, swarm: SimSwarm, number: int = 9) -> None:
        self.swarm = swarm
        self.name = peer_name(number)
        self.sign = cheap_sign(self.name)
        self.honest = swarm.nodes[0].view
        self.payloads: dict[bytes, bytes] = {}
        self.mesh = swarm.network.add(self.name)
        self._learner = ModelLearner(swarm.manifest, VirtualClock(), self.name)

    @classmethod
    async def enter(cls, swarm: SimSwarm, number: int = 9) -> Self:
        """One that is connected to everybody, hears and forwards everything."""
        rogue = cls(swarm, number)
        await rogue.mesh.join(
            rogue.honest.run_id, lambda topic, sender, message: True, rogue._serve
        )
        swarm.network.connect_all()
        return rogue

    @classmethod
    async def enter_as_member(cls, swarm: SimSwarm, number: int = 9) -> Self:
        """One that has been honest in rounds 0 to 2, while joins are members at once."""
        rogue = await cls.enter(swarm, number)
        for round_ in range(3):
            await rogue.wait_until(round_, 10)
            await rogue.join(round_)
            await rogue.wait_until(round_, TRAIN_END)
            await rogue.publish(rogue.header(round_))
        await rogue.wait_until(3, 0)
        assert rogue.name in rogue.honest.chain[rogue.honest.head].members
        return rogue

    async def wait_until(self, round_: int, ms: int) -> None:
        """Let time pass."""
        await VirtualClock().sleep_until_ms(
            round_start_ms(self.swarm.manifest.schedule, round_) + ms
        )

    async def join(self, round_: int) -> None:
        """Ask to be let in."""
        wish = Membership(joins=True, peer=self.name, round=round_)
        sealed = seal_membership(wish, self.honest.run_id, self.sign)
        await self.mesh.publish(Topic.MEMBERSHIP, sealed.raw)

    def header(
        self,
        round_: int,
        *,
        payload: bytes | None = None,
        digest: bytes | None = None,
        samples: int = 8,
    ) -> Sealed[Header]:
        """A contribution that looks like any other, whatever its payload is."""
        view = self.honest
        raw = encode_payload(self._learner._payload(2, round_)) if payload is None else payload
        name = hashlib.sha256(raw).digest()
        self.payloads[name] = raw
        body = Header(
            round=round_,
            peer=self.name,
            base=view.head,
            digest=view.digests[view.head] if digest is None else digest,
            vote=view.head,
            payload_hash=name,
            payload_bytes=len(raw),
            k=2,
            samples=samples,
            loss_micronats=1,
        )
        return seal_header(body, view.run_id, self.sign)

    def proposal(
        self, round_: int, parent: bytes, listed: Iterable[bytes], joins: tuple[bytes, ...] = ()
    ) -> Sealed[Proposal]:
        """A proposal that lists these header hashes."""
        body = Proposal(
            round=round_,
            peer=self.name,
            parent=parent,
            parent_digest=bytes(8),
            contributions=tuple(sorted(listed)),
            late=(),
            joins=joins,
            leaves=(),
        )
        return seal_proposal(body, self.honest.run_id, self.sign)

    async def publish(self, sealed: Sealed[Header] | Sealed[Proposal]) -> None:
        """Send it to everybody."""
        topic = Topic.HEADERS if isinstance(sealed.body, Header) else Topic.PROPOSALS
        await self.mesh.publish(topic, sealed.raw)

    async def _serve(self, asking: bytes, request: BlobRequest) -> bytes | None:
        return self.payloads.get(request.key) if request.kind is Blob.PAYLOAD else None
