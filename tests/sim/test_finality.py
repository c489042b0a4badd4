"""Final records through cuts, power cuts and a decision of an operator: whole nodes (rule 19)."""

import random

import pytest

from demo_node.sim.keys import peer_name
from demo_node.sim.whole.swarm import SimNode, SimSwarm
from demo_protocol.manifest import Agreement
from tests.builders import manifest
from tests.sim.scenes import assert_agree, height, leaps, play

SOON = Agreement(final_min_records=4)
FORGETFUL = Agreement(
    final_min_records=4, expire_rounds=2, forget_rounds=40, payload_window_rounds=20
)


def final_height(node: SimNode) -> int:
    final = node.view.final
    return final.height if final else 0


def cut_in_two(swarm: SimSwarm, count: int) -> None:
    """The first `count` nodes cannot reach the others."""
    side = {node.name for node in swarm.nodes[:count]}
    swarm.network.is_cut = lambda sender, receiver: (sender in side) != (receiver in side)


def heal(swarm: SimSwarm) -> None:
    swarm.network.is_cut = lambda sender, receiver: False


def seen(node: SimNode, event: str) -> int:
    return sum(name == event for name, _ in node.observer.events)


def test_finality_follows_the_head_and_is_said_once_for_each_record() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4)
        await swarm.run_until_round(20)
        assert_agree(swarm)
        for node in swarm.nodes:
            assert height(node) - final_height(node) == SOON.final_depth
            assert seen(node, "record.finalised") == final_height(node) - SOON.final_min_records + 1

    play(scenario, SimSwarm(manifest(agreement=SOON)))


def test_two_nodes_are_never_final_and_learn_all_the_same() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(2)
        await swarm.run_until_round(90)
        assert_agree(swarm)
        assert height(swarm.nodes[0]) == 90
        for node in swarm.nodes:
            assert node.view.final is None
            assert {r.participants for r in node.observer.rounds} == {2}

    play(scenario)


@pytest.mark.parametrize("seed", range(4))
def test_what_was_final_before_a_power_cut_is_final_after_it(seed: int) -> None:
    """It comes back alone: nobody tells it."""

    async def scenario(swarm: SimSwarm) -> None:
        rng = random.Random(seed)
        await swarm.start(4)
        await swarm.run_until_round(12)
        await swarm.nodes[3].driver.clock.sleep_until_ms(
            swarm.nodes[3].driver.clock.now_ms() + rng.randint(0, 6_000)
        )
        old = swarm.nodes[3]
        said = [fields["height"] for name, fields in old.observer.events if "finalised" in name]
        await swarm.kill(old)
        cut_in_two(swarm, 3)
        back = await swarm.add(3, disk=old.disk.after_power_cut(rng), syncing=True)
        assert back.view.final is not None
        assert back.view.final.height >= max(int(str(h)) for h in said)
        final = back.view.final.record
        await swarm.run_until_round(30)
        assert back.view.chain.is_ancestor(final, back.view.head)
        heal(swarm)
        await swarm.run_until_round(36)
        assert_agree(swarm)
        assert final_height(back) > 20

    play(scenario, SimSwarm(manifest(agreement=SOON)))


@pytest.mark.parametrize("restarted", [0, 1, 2])
def test_of_a_cut_shorter_than_forget_rounds_nobody_remembers_anything(restarted: int) -> None:
    """Halves, longer apart than payloads are kept; some are started again meanwhile."""

    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(6)
        await swarm.run_until_round(10)
        before = max(final_height(node) for node in swarm.nodes)
        cut_in_two(swarm, 3)
        await swarm.run_until_round(38)
        for number in range(restarted):
            old = next(node for node in swarm.nodes if node.name == peer_name(number))
            await swarm.kill(old)
            back = await swarm.add(number, disk=old.disk, syncing=True)
            assert back.view.chain.root.round <= 10  # so it knows where they parted
        await swarm.run_until_round(10 + FORGETFUL.forget_rounds - 4)
        assert max(final_height(node) for node in swarm.nodes) <= before + SOON.final_depth + 1
        heal(swarm)
        await swarm.run_until_round(10 + FORGETFUL.forget_rounds + 10)
        assert_agree(swarm)
        for node in swarm.nodes:
            assert height(node) - final_height(node) <= SOON.final_depth + 1
            assert not seen(node, "final.disputed")

    play(scenario, SimSwarm(manifest(agreement=FORGETFUL)))


def test_after_a_longer_cut_two_chains_are_final_and_only_a_command_joins_them() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(7)
        await swarm.run_until_round(10)
        cut_in_two(swarm, 3)
        await swarm.run_until_round(10 + 2 * FORGETFUL.forget_rounds)
        few, many = swarm.nodes[:3], swarm.nodes[3:]
        assert all(height(node) - final_height(node) == SOON.final_depth for node in swarm.nodes)
        finals = [node.view.final for node in swarm.nodes]
        heal(swarm)
        await swarm.run_until_round(10 + 2 * FORGETFUL.forget_rounds + 30)
        for node, final in zip(swarm.nodes, finals, strict=True):
            assert final is not None  # everybody trains on, on its own side
            assert node.view.head_state.round >= 2 * FORGETFUL.forget_rounds + 38
            assert not leaps(node)
        assert {node.view.head for node in few}.isdisjoint({node.view.head for node in many})
        for node in few:
            assert seen(node, "final.disputed") == 1
            assert node.view.conflict is not None
            assert node.view.conflict.theirs == 4
        for node in many:  # they are more: it is not they who have to decide
            assert not seen(node, "final.disputed")
        with pytest.raises(LookupError, match="nothing to adopt"):
            await many[0].driver.recovering.adopt("00000000")
        with pytest.raises(LookupError, match="demo-node status shows one"):
            await few[0].driver.recovering.adopt("00000000")
        for node in few:
            conflict = node.view.conflict
            assert conflict is not None
            await node.driver.recovering.adopt(conflict.record.hex()[:8])
        await swarm.run_until_round(10 + 2 * FORGETFUL.forget_rounds + 50)
        assert_agree(swarm)
        for node in swarm.nodes:
            assert height(node) - final_height(node) <= SOON.final_depth + 1
            assert node.view.conflict is None
            assert node.view.chain[node.view.head].members == {peer_name(n) for n in range(7)}

    play(scenario, SimSwarm(manifest(agreement=FORGETFUL)))


def test_who_comes_back_among_the_others_alone_does_not_go_to_them_silently() -> None:
    """It was away for a moment, and all who were on its side are gone for good."""

    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(7)
        await swarm.run_until_round(10)
        cut_in_two(swarm, 3)
        last = 10 + 2 * FORGETFUL.forget_rounds
        await swarm.run_until_round(last)
        few = swarm.nodes[:3]
        old = few[0]
        for node in few:
            await swarm.kill(node)
        heal(swarm)
        back = await swarm.add(0, disk=old.disk, syncing=True)
        final = back.view.final
        assert final is not None
        assert final.round > last - 10
        assert final.record not in swarm.nodes[0].view.chain
        await swarm.run_until_round(last + 15)
        assert back.view.chain.is_ancestor(final.record, back.view.head)
        assert not leaps(back)
        assert back.view.conflict is not None
        assert back.view.conflict.theirs == 4
        await back.driver.recovering.adopt(back.view.conflict.record.hex()[:8])
        await swarm.run_until_round(last + 36)
        assert_agree(swarm)

    play(scenario, SimSwarm(manifest(agreement=FORGETFUL)))
