"""A joiner's snapshot comes in chunks from everybody at once (rule 21): who lies, who leaves."""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

import pytest

from demo_node.chunks import AT_ONCE
from demo_node.ports import Blob, BlobRequest, OnBlob
from demo_node.pull import ASKED_AT_ONCE
from demo_node.sim.keys import peer_name
from demo_node.sim.whole.faults import Faults
from demo_node.sim.whole.model_learner import ModelLearner
from demo_node.sim.whole.swarm import SimNode, SimSwarm
from demo_node.snapshotting import Snapshotting
from demo_node.store.snapshots import SnapshotStore
from demo_protocol.answers import decode_head
from demo_protocol.manifest import Agreement, Model
from demo_protocol.schema import compute_schema
from demo_protocol.state_root import count_leaves
from tests.builders import manifest
from tests.sim.scenes import assert_agree, height, play

RUN = replace(
    manifest(agreement=Agreement(payload_window_rounds=40)),
    model=Model(layers=2, width=192, hidden=768, heads=2, context=16),
)
CHUNKS = count_leaves(compute_schema(RUN.model).parameters)
JOINER = peer_name(9)
CHUNK_S = 0.05
"""What a chunk takes: all of them as long as half a round."""


@dataclass(slots=True)
class Served(Faults):
    """Counts the chunks that each holder gave the joiner; `liar` gives other bytes."""

    chunk_s: float = CHUNK_S
    liar: bytes = b""
    given: Counter[bytes] = field(default_factory=Counter)
    lies: int = 0
    gave: asyncio.Event = field(default_factory=asyncio.Event)

    def wrap_blob(self, holder: bytes, on_blob: OnBlob) -> OnBlob:
        """See `Faults.wrap_blob`."""
        answer = Faults.wrap_blob(self, holder, on_blob)

        async def count(asking: bytes, request: BlobRequest) -> bytes | None:
            raw = await answer(asking, request)
            if raw is None or asking != JOINER or request.kind is not Blob.STATE_CHUNK:
                return raw
            await asyncio.sleep(self.chunk_s)  # it was read, and is on its way
            if holder == self.liar:
                self.lies += 1
                return raw[:-1] + bytes([raw[-1] ^ 1])
            self.given[holder] += 1
            self.gave.set()
            return raw

        return count

    async def until(self, enough: Callable[[], bool]) -> None:
        """Return when as much was given."""
        while not enough():
            self.gave.clear()
            await self.gave.wait()

    @property
    def largest_share(self) -> float:
        """Of all chunks, by one holder."""
        return max(self.given.values()) / self.given.total()


def fetched(node: SimNode) -> dict[str, object]:
    """What it said of the snapshot that it got."""
    (fields,) = [fields for name, fields in node.observer.events if name == "snapshot.fetched"]
    return fields


def test_a_joiner_gets_its_snapshot_from_three_peers_and_none_gives_over_sixty_percent() -> None:
    faults = Served()

    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(3)
        await swarm.run_until_round(26)
        joiner = await swarm.add(9, syncing=True)
        assert joiner.view.chain.root.height == 19  # the record of height 20 carries its root
        await swarm.run_until_round(36)
        assert_agree(swarm)
        assert len(faults.given) == fetched(joiner)["peers"] == 3
        # What the chain says was asked for before, of all three: it tells who the voters are.
        assert faults.given.total() == CHUNKS + ASKED_AT_ONCE
        assert faults.largest_share < 0.6
        share = fetched(joiner)["largest_share"]
        assert isinstance(share, float)
        assert share < 0.6

    play(scenario, SimSwarm(RUN, faults=faults))


def test_neither_one_that_lies_nor_one_that_leaves_keeps_a_joiner_from_its_snapshot() -> None:
    faults = Served(liar=peer_name(0))

    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4)
        await swarm.run_until_round(26)
        leaver = swarm.nodes[1]
        joiner = await swarm.add(9, syncing=True)
        await faults.until(lambda: faults.given[leaver.name] >= 3)
        await swarm.kill(leaver)
        await swarm.run_until_round(38)
        assert_agree(swarm)
        rejected = sum(name == "answer.rejected" for name, _ in joiner.observer.events)
        assert 1 <= rejected <= AT_ONCE  # what was under way when it was found out
        assert rejected <= faults.lies <= AT_ONCE + 1
        assert 3 <= faults.given[leaver.name] < CHUNKS / 2
        assert fetched(joiner)["peers"] == 3

    play(scenario, SimSwarm(RUN, faults=faults))


@pytest.mark.parametrize("cut", [False, True], ids=["killed", "power cut"])
def test_a_joiner_that_dies_over_it_goes_on_where_it_was(cut: bool) -> None:
    faults = Served()

    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(3)
        await swarm.run_until_round(26)
        first = await swarm.add(9, syncing=True)
        await faults.until(lambda: faults.given.total() >= CHUNKS // 2)
        await swarm.kill(first)
        here = faults.given.total()
        faults.given.clear()
        left = first.disk.after_power_cut(Random(1)) if cut else first.disk
        await swarm.run_until_round(45)  # newer ones have been taken: it stays with what it has
        joiner = await swarm.add(9, syncing=True, disk=left)
        await swarm.run_until_round(58)
        assert_agree(swarm)
        # What the chain says, from all three each time, and what was on its way when it died.
        again = CHUNKS if cut else CHUNKS - (here - ASKED_AT_ONCE) + 3 * AT_ONCE
        assert faults.given.total() <= ASKED_AT_ONCE + again
        assert int(str(fetched(joiner)["bytes_before"])) > 0 or cut
        assert fetched(joiner)["round"] == 18 or cut

    play(scenario, SimSwarm(RUN, faults=faults))


def test_whoever_is_fetched_from_keeps_the_snapshot_for_as_long() -> None:
    """Three more are taken meanwhile: with only the usual two it would be gone."""
    faults = Served(chunk_s=25.0)

    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(3)
        await swarm.run_until_round(26)
        joiner = await swarm.add(9, syncing=True)
        assert joiner.view.chain.root.height == 19
        await swarm.run_until_round(50)
        assert not any(name == "snapshot.fetched" for name, _ in joiner.observer.events)
        await swarm.run_until_round(75)
        assert fetched(joiner)["round"] == 18
        assert_agree(swarm)

    run = replace(RUN, agreement=replace(RUN.agreement, payload_window_rounds=80))
    play(scenario, SimSwarm(run, faults=faults))


class WrongRoots(ModelLearner):
    """Node 0 computes other roots than everybody else, of the same states."""

    async def leaves(self, record: bytes) -> tuple[bytes, ...]:
        """See `Learner.leaves`."""
        true = await super().leaves(record)
        return (bytes(32), *true[1:]) if self._name == peer_name(0) else true


def test_a_record_with_a_root_that_others_did_not_compute_is_followed_by_nobody_else() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4)
        await swarm.run_until_round(35)
        liar, *honest = swarm.nodes
        assert len({node.view.head for node in honest}) == 1
        chain = [step for step in honest[0].view.chain.ancestors(honest[0].view.head)]
        carriers = [step for step in chain if step.state_root]
        assert [step.state.height for step in carriers] == [30, 20, 10]
        assert all(step.proposal and step.proposal.body.peer != liar.name for step in carriers)
        assert all(
            (step.parent, step.state_root) in node.view.roots.items()
            for node in honest
            for step in carriers
        )
        assert height(honest[0]) >= 33
        # For that node all others are wrong, and it says so.
        assert any(name == "root.differed" for name, _ in liar.observer.events)

    play(scenario, SimSwarm(manifest(), make_learner=WrongRoots))


def test_with_a_root_in_every_record_the_swarm_goes_on_and_comes_back_from_its_disks() -> None:
    """All nodes die at once: each has to compute a root before anybody can propose."""

    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(3)
        await swarm.run_until_round(12)
        assert height(swarm.nodes[0]) >= 11
        disks = [node.disk for node in swarm.nodes]
        for node in list(swarm.nodes):
            await swarm.kill(node)
        joining = [swarm.add(i, syncing=True, disk=disk) for i, disk in enumerate(disks)]
        await asyncio.gather(*joining)
        before = height(swarm.nodes[0])
        await swarm.run_until_round(20)
        assert_agree(swarm)
        assert height(swarm.nodes[0]) >= before + 5

    play(scenario, SimSwarm(manifest(agreement=Agreement(snapshot_every=1))))


def test_after_a_start_from_its_own_last_state_a_node_gives_the_one_that_a_root_names() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(2)
        await swarm.run_until_round(25)
        node = swarm.nodes[0]
        folder = Path("/") / node.name.hex()[:8] / "snapshots"
        snapshots = SnapshotStore(node.disk, folder, node.view.run_id, window=40)
        saving = Snapshotting(node.driver, node.learner, snapshots, node.observer, None)
        saved = await saving.save_head()
        assert saved.info.height > 20
        await swarm.kill(node)
        again = await swarm.add(0, syncing=True, disk=node.disk)
        (loaded,) = [fields for name, fields in again.observer.events if name == "state.loaded"]
        assert loaded["round"] == saved.info.round
        mesh = swarm.network.find(swarm.nodes[0].name)
        assert mesh is not None
        request = BlobRequest(Blob.HEAD)
        raw = await mesh.request(again.name, request, bytes_max=10_000, timeout_s=5)
        given = decode_head(raw).snapshot_record
        assert swarm.nodes[0].view.chain[given].state.height in (9, 19)

    play(scenario, SimSwarm(RUN))
