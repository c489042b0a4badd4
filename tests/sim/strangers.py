"""Peers that show a chain of their own making, and peers that hang."""

import asyncio
from collections.abc import Sequence

from demo_node.ports import Blob, BlobRequest
from demo_node.sim.keys import peer_name
from demo_node.sim.whole.swarm import SimSwarm
from demo_node.sim.whole.virtual_loop import VirtualClock
from demo_protocol.answers import (
    HeadAnswer,
    encode_bundle,
    encode_head,
    encode_records,
    encode_time,
)
from demo_protocol.chain import make_bundle
from demo_protocol.limits import RECORDS_PER_REPLY_MAX
from demo_protocol.manifest import compute_run_id
from tests.builders import Tree


def forge(swarm: SimSwarm, rounds: int, authors: Sequence[int]) -> tuple[Tree, list[bytes]]:
    """A chain from the genesis, one record a round, of voters that nobody else has heard of."""
    tree = Tree(swarm.manifest)
    records = [tree.grow(tree.genesis, 0, authors, joins=authors)]
    for round_ in range(1, rounds):
        records.append(tree.grow(records[-1], round_, authors))
    return tree, records


class Stranger:
    """A peer that answers with this chain, and without one with nothing."""

    def __init__(self, swarm: SimSwarm, number: int) -> None:
        self.swarm = swarm
        self.name = peer_name(number)
        self.mesh = swarm.network.add(self.name)
        self.tree: Tree | None = None
        self.head = self.final = b""
        self.hangs: frozenset[Blob] = frozenset()
        self.asked: list[Blob] = []

    async def enter(self) -> None:
        """Connect to everybody."""
        run_id = compute_run_id(self.swarm.manifest)
        await self.mesh.join(run_id, lambda topic, sender, message: True, self._serve)
        self.swarm.network.connect_all()

    async def _serve(self, asking: bytes, request: BlobRequest) -> bytes | None:
        self.asked.append(request.kind)
        if request.kind in self.hangs:
            await asyncio.sleep(3_600)
        if request.kind is Blob.TIME:
            return encode_time(VirtualClock().now_ms())
        if self.tree is None:
            return None
        match request.kind:
            case Blob.HEAD:
                return encode_head(self._answer(self.tree))
            case Blob.RECORDS if request.key in self.tree.chain:
                steps = [s for s in self.tree.chain.ancestors(request.key) if s.proposal]
                bundles = [make_bundle(step) for step in steps[:RECORDS_PER_REPLY_MAX]]
                return encode_records(encode_bundle(b) for b in reversed(bundles))
        return None

    def _answer(self, tree: Tree) -> HeadAnswer:
        state = tree.state(self.head)
        return HeadAnswer(
            head=self.head,
            round=state.round,
            snapshot_record=b"",
            height=state.height,
            syncing=False,
            final=self.final,
        )
