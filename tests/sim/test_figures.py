"""What the parts of a node have for the metrics, in whole swarms over virtual time."""

from collections.abc import Iterable
from pathlib import Path

from demo_node.observe.meter import Meter
from demo_node.observer import Figure
from demo_node.sim.keys import peer_name
from demo_node.sim.whole.faults import Asked
from demo_node.sim.whole.swarm import SimNode, SimSwarm
from demo_node.snapshotting import Snapshotting
from demo_node.store.snapshots import SnapshotStore
from tests.observe.test_metrics import exposition
from tests.sim.rogue import TRAIN_END, Rogue
from tests.sim.scenes import height, is_payload_of, leave, play, rank_0_comes_late, rolled_back
from tests.sim.test_cuts import cut_off


def totals(figures: Iterable[Figure], name: str) -> dict[str, float]:
    """One label's values of a metric that counts."""
    return {figure.labels[0]: figure.value for figure in figures if figure.name == name}


def payloads(node: SimNode) -> dict[str, float]:
    """What became of the payloads of others."""
    return totals(node.driver.fetcher.figures(), "demo_payloads_total")


def test_each_sound_payload_of_another_node_is_counted_once_and_measured() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4)
        await swarm.run_until_round(6)
        for node in swarm.nodes:
            assert payloads(node) == {"accepted": 3 * 6}
            listed = [
                header.body.payload_bytes
                for step in node.view.chain.ancestors(node.view.head)
                for header in step.contributions
                if header.body.peer != node.name
            ]
            assert len(set(listed)) > 1  # T8: of one k, and yet of many lengths
            sizes = node.observer.measured["demo_payload_bytes", "received"]
            assert sorted(sizes) == sorted(listed)

    play(scenario)


def test_a_payload_that_is_none_is_counted_as_rejected() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4)
        rogue = await Rogue.enter_as_member(swarm)
        length = rogue.header(3).body.payload_bytes
        before = [payloads(node) for node in swarm.nodes]
        for round_ in range(3, 6):
            await rogue.wait_until(round_, TRAIN_END)
            await rogue.publish(rogue.header(round_, payload=bytes(length - 1) + b"\x01"))
        await swarm.run_until_round(7)
        assert all("rejected" not in counted for counted in before)
        assert [payloads(node)["rejected"] for node in swarm.nodes] == [3] * 4

    play(scenario)


def test_a_payload_is_missing_once_nobody_wants_it_any_more() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4)

        def answered(asked: Asked) -> float | None:
            withheld = is_payload_of(asked, swarm, 0, range(2, 4))
            return None if withheld and asked.asking != peer_name(1) else 0.0

        swarm.faults.answered_s = answered
        late_rounds = swarm.manifest.agreement.late_rounds
        await swarm.run_until_round(2 + late_rounds)
        assert all("missing" not in payloads(node) for node in swarm.nodes)  # still wanted
        await swarm.run_until_round(6 + late_rounds)
        missing = [payloads(node).get("missing", 0) for node in swarm.nodes]
        assert missing == [0, 0, 2, 2]

    play(scenario)


def test_the_size_of_the_newest_snapshot_is_that_of_its_file() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(1)
        await swarm.run_until_round(2)
        node = swarm.nodes[0]
        folder = Path("/") / node.name.hex()[:8] / "snapshots"
        snapshots = SnapshotStore(node.disk, folder, node.view.run_id)
        kept = Snapshotting(node.driver, node.learner, snapshots, node.observer, None)
        assert list(kept.figures()) == [Figure("demo_snapshot_bytes", 0)]
        saved = await kept.save_head()
        assert list(kept.figures()) == [Figure("demo_snapshot_bytes", node.disk.size(saved.path))]
        assert len(node.observer.ops["snapshot"]) == 1
        await kept.save_head()  # it is there already
        assert len(node.observer.ops["snapshot"]) == 1

    play(scenario)


def records(node: SimNode) -> dict[str, float]:
    """Records by what became of them here."""
    return totals(node.driver.history.figures(), "demo_records_total")


def members(node: SimNode) -> dict[str, float]:
    """Members that came and went."""
    return totals(node.driver.history.figures(), "demo_membership_changes_total")


def test_records_applied_less_those_rolled_back_are_the_chains_height() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4)
        swarm.faults.held_back_s = rank_0_comes_late(swarm, range(4, 14))
        await swarm.run_until_round(16)
        assert any(rolled_back(node) for node in swarm.nodes)
        for node in swarm.nodes:
            counted = records(node)
            assert counted["rolled_back"] == sum(rolled_back(node))
            assert counted["applied"] - counted["rolled_back"] == height(node) == 16
            assert counted["replayed"] == 0
            # Members of a branch that was left have not gone.
            assert members(node) == {"joined": 4}

    play(scenario)


def test_every_record_of_a_deep_rollback_is_counted() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4)
        swarm.network.is_cut = cut_off(swarm, 1, range(5, 12))
        await swarm.run_until_round(16)
        lone, others = swarm.nodes[0], swarm.nodes[1:]
        assert rolled_back(lone) == [records(lone)["rolled_back"]]
        assert records(lone)["rolled_back"] > 1
        assert records(lone)["applied"] - records(lone)["rolled_back"] == height(lone)
        assert [records(node)["rolled_back"] for node in others] == [0] * 3

    play(scenario)


def test_headers_and_inclusion_of_a_round_that_is_shown_again_count_once() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(5)
        swarm.network.is_cut = cut_off(swarm, 2, range(5, 8))
        await swarm.run_until_round(16)
        node = swarm.nodes[0]  # of two that follow the other three afterwards
        views = node.observer.rounds
        assert len(views) > len({view.round for view in views})
        meter = Meter()
        for view in views:
            meter.on_round(view)
        meter.on_figures(node.driver.history.figures())
        series = exposition(meter)
        included = {view.round for view in views if view.included}
        assert series["demo_rounds_included_total"] == len(included)
        agreeing = {view.round: 0 for view in views}
        for view in views:
            agreeing[view.round] = max(agreeing[view.round], view.agreeing)
        counted = series['demo_digests_total{verdict="equal"}']
        assert counted == sum(agreeing.values()) < sum(view.agreeing for view in views)

    play(scenario)


def test_a_joiner_counts_what_it_replays_apart_and_the_others_count_it_once() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(3)
        await swarm.run_until_round(6)
        joiner = await swarm.add(3, syncing=True)
        await swarm.run_until_round(12)
        counted = records(joiner)
        assert counted["replayed"] == joiner.driver.history.replayed_total == 6
        assert counted["applied"] + counted["replayed"] == height(joiner) == 12
        assert members(joiner) == {"joined": 1}  # itself; who was there before had not just come
        assert [members(node) for node in swarm.nodes[:3]] == [{"joined": 4}] * 3

    play(scenario)


def test_a_leaver_has_left_and_a_dead_node_expires() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4)
        await swarm.run_until_round(6)
        leaver = swarm.nodes[3]
        await leave(leaver)
        await swarm.run_until_round(8)
        assert [members(node) for node in swarm.nodes] == [{"joined": 4, "left": 1}] * 4
        await swarm.kill(leaver)
        await swarm.kill(swarm.nodes[2])
        expire_rounds = swarm.manifest.agreement.expire_rounds
        await swarm.run_until_round(12 + expire_rounds)
        expected = {"joined": 4, "left": 1, "expired": 1}
        assert [members(node) for node in swarm.nodes] == [expected] * 2

    play(scenario)
