"""How a run ends, how a node pauses, and what the chain says that each has contributed."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from demo_node.operations import (
    NodeOperations,
    NothingToTrain,
    NotRunningYet,
)
from demo_node.ports import LearnerLost
from demo_node.sim.keys import peer_name
from demo_node.sim.whole.model_learner import ModelLearner
from demo_node.sim.whole.swarm import SimSwarm
from demo_node.snapshotting import Snapshotting
from demo_node.stopping import Stopping
from demo_node.store.snapshots import SnapshotStore
from demo_node.swarm_peers import show_contributors
from demo_node.views import Standing
from demo_protocol.errors import Reject
from tests.builders import Tree, manifest
from tests.sim.scenes import assert_agree, height, leave, play


def test_a_run_of_so_many_rounds_has_records_of_these_and_goes_silent() -> None:
    run = replace(manifest(), rounds_total=12)

    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4)
        await swarm.run_until_round(13)
        assert_agree(swarm)
        assert {node.view.head_state.round for node in swarm.nodes} == {11}
        assert {height(node) for node in swarm.nodes} == {12}
        await swarm.run_until_round(40)
        last_heard = {max(node.machine.view.votes.newest.values())[0] for node in swarm.nodes}
        assert last_heard == {12 + run.agreement.late_rounds - 1}
        joiner = await swarm.add(4, syncing=True)
        await swarm.run_until_round(45)
        assert_agree(swarm)
        assert height(joiner) == 12

    play(scenario, SimSwarm(run))


class Forgetful(ModelLearner):
    """Dies twice while it gives a snapshot."""

    deaths = 2

    async def snapshot(self, record: bytes) -> AsyncIterator[bytes]:
        async for piece in super().snapshot(record):
            yield piece[:8]
            if self.deaths:
                self.deaths -= 1
                raise LearnerLost("it died meanwhile")
            yield piece[8:]


def test_what_a_run_came_to_is_saved_though_the_trainer_dies_meanwhile() -> None:
    run = replace(manifest(), rounds_total=7)

    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4)
        node = swarm.nodes[0]
        folder = Path("/") / node.name.hex()[:8] / "snapshots"
        snapshots = SnapshotStore(node.disk, folder, node.view.run_id)
        kept = Snapshotting(node.driver, node.learner, snapshots, node.observer, None)
        ending = asyncio.create_task(kept.run_end(node.clock))
        await swarm.run_until_round(8)
        assert snapshots.newest()[0] is None
        await swarm.run_until_round(12)
        ending.cancel()
        saved, _reasons = snapshots.newest()
        assert saved is not None
        assert (saved.info.record, saved.info.round) == (node.view.head, 6)
        assert saved.info.digest == node.digest
        assert [n for n, _ in node.observer.events].count("snapshot.missed") == 2

    play(scenario, SimSwarm(run, make_learner=Forgetful))


def test_a_record_after_the_runs_last_round_is_rejected_by_content() -> None:
    run = replace(manifest(), rounds_total=3)
    tree = Tree(run)
    parent = tree.start(1)
    parent = tree.grow(parent, 2, [0])
    with pytest.raises(Reject, match="ended"):
        tree.grow(parent, 3, [0])


def test_a_paused_node_stays_a_member_votes_and_trains_nothing_until_it_is_resumed() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4)
        await swarm.run_until_round(6)
        idler = swarm.nodes[3]
        idler.machine.paused = True
        await swarm.run_until_round(40)  # longer than expire_rounds
        assert_agree(swarm)
        view = idler.view
        assert idler.name in view.chain[view.head].members
        listed = [h.body for r in view.chain.ancestors(view.head) for h in r.contributions]
        idle = [h for h in listed if h.peer == idler.name and h.round > 6]
        assert len(idle) > 25
        assert all(h.k == 0 for h in idle)
        assert height(idler) == 40
        idler.machine.paused = False
        await swarm.run_until_round(43)
        newest = view.chain[view.head].contributions
        assert [h.body.k > 0 for h in newest if h.body.peer == idler.name] == [True]

    play(scenario)


def test_a_node_that_will_never_train_again_says_so_when_it_is_to_resume() -> None:
    run = replace(manifest(), rounds_total=5)

    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(2)
        node = swarm.nodes[0]
        mesh = swarm.network.find(node.name)
        assert mesh is not None
        operations = NodeOperations(clock=node.clock, mesh=mesh, stopping=Stopping())
        with pytest.raises(NotRunningYet, match="ask again when demo-node status says active"):
            operations.pause()
        operations.driver, operations.learner = node.driver, node.learner
        operations.pause()
        assert node.machine.paused
        operations.resume()
        assert not node.machine.paused
        node.machine.contributes = False
        with pytest.raises(NothingToTrain, match="this node does not train"):
            operations.resume()
        node.machine.contributes = True
        await swarm.run_until_round(6)
        with pytest.raises(NothingToTrain, match="is over"):
            operations.resume()

    play(scenario, SimSwarm(run))


def test_what_each_has_contributed_is_counted_over_the_whole_chain_and_across_leaves() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(3)
        await swarm.run_until_round(10)
        leaver = swarm.nodes[2]
        await leave(leaver)
        await swarm.run_until_round(12)
        await swarm.kill(leaver)
        await swarm.run_until_round(20)
        await swarm.add(2, disk=leaver.disk, syncing=True)
        await swarm.run_until_round(30)
        view = swarm.nodes[0].view
        listed = [
            h.body for r in view.chain.ancestors(view.head) for h in r.contributions if h.body.k
        ]
        shown = show_contributors(view.head_state, swarm.manifest.agreement)
        assert len(shown) == 3
        for contributor in shown:
            own = [h for h in listed if h.peer == contributor.peer]
            assert contributor.rounds == len(own)
            assert contributor.samples == sum(h.samples for h in own)
            assert contributor.first_round == own[-1].round
            assert contributor.last_round == own[0].round
            assert contributor.standing is Standing.MEMBER
        assert sum(c.share for c in shown) == pytest.approx(1)
        back = next(c for c in shown if c.peer == peer_name(2))
        assert 10 < back.rounds < 24

    play(scenario)
