"""Cuts of the network and their healing (rules 16, 18 and 25)."""

from collections.abc import Callable

import pytest

from demo_node.sim.keys import peer_name
from demo_node.sim.whole.swarm import SimSwarm
from demo_protocol.limits import STATES_KEPT
from demo_protocol.manifest import Agreement
from tests.builders import manifest
from tests.sim.scenes import assert_agree, height, leaps, play, resyncs, rolled_back


def cut_off(swarm: SimSwarm, lone: int, rounds: range) -> Callable[[bytes, bytes], bool]:
    """Nodes below `lone` hear nothing of the others in these rounds."""
    apart = {peer_name(number) for number in range(lone)}

    def is_cut(sender: bytes, receiver: bytes) -> bool:
        return swarm.nodes[-1].view.round in rounds and (sender in apart) != (receiver in apart)

    return is_cut


@pytest.mark.parametrize("lone", [1, 2], ids=["3 to 1", "2 to 2"])
@pytest.mark.parametrize("length", [2, 7])
def test_after_a_cut_all_nodes_are_on_one_chain_within_two_rounds(lone: int, length: int) -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4)
        swarm.network.is_cut = cut_off(swarm, lone, range(5, 5 + length))
        await swarm.run_until_round(5 + length)
        parts = (swarm.nodes[:lone], swarm.nodes[lone:])
        sides = [{node.view.head for node in part} for part in parts]
        assert [len(side) for side in sides] == [1, 1]
        assert sides[0] != sides[1]  # both went on, apart
        await swarm.run_until_round(7 + length)
        assert_agree(swarm)
        # A half has no record of a round in which both who may propose are on the other side.
        assert height(swarm.nodes[-1]) >= 5 + length
        assert not any(resyncs(node) for node in swarm.nodes)

    play(scenario)


def test_at_least_four_records_are_rolled_back_from_kept_states() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4)
        swarm.network.is_cut = cut_off(swarm, 1, range(5, 12))
        await swarm.run_until_round(16)
        assert_agree(swarm)
        lone = swarm.nodes[0]
        assert 4 <= max(rolled_back(lone)) <= STATES_KEPT
        assert resyncs(lone) == 0
        assert not any(rolled_back(node) for node in swarm.nodes[1:])

    play(scenario)


@pytest.mark.parametrize("length", [20, 60])
def test_a_deeper_rollback_goes_through_a_snapshot(length: int) -> None:
    """60 rounds: longer than members stay members without a word, on either side."""

    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4)
        swarm.network.is_cut = cut_off(swarm, 1, range(5, 5 + length))
        await swarm.run_until_round(8 + length)
        assert_agree(swarm)
        lone = swarm.nodes[0]
        assert max(rolled_back(lone)) > STATES_KEPT
        assert resyncs(lone) >= 1
        assert height(swarm.nodes[1]) == 8 + length

    play(scenario)


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("length", [30, 60])
def test_halves_apart_for_longer_than_payloads_are_kept_become_one_run(
    count: int, length: int
) -> None:
    """Neither can replay the other's records, but both have them: so both choose alike."""

    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(count)
        swarm.network.is_cut = cut_off(swarm, count // 2, range(5, 5 + length))
        await swarm.run_until_round(5 + length)
        await swarm.run_until_round(5 + length + swarm.manifest.agreement.late_rounds + 6)
        assert_agree(swarm)
        moved = [leaps(node) > 0 for node in swarm.nodes]
        assert sum(moved) == count // 2
        assert height(swarm.nodes[0]) >= length

    play(scenario, SimSwarm(manifest(agreement=Agreement(payload_window_rounds=20))))


def test_everybody_alone_for_a_while_comes_together_again() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(5)
        swarm.network.is_cut = lambda sender, receiver: swarm.nodes[0].view.round in range(6, 12)
        await swarm.run_until_round(12)
        assert len({node.view.head for node in swarm.nodes}) == 5
        await swarm.run_until_round(16)
        assert_agree(swarm)

    play(scenario)


def test_two_halves_that_started_apart_under_one_manifest_become_one_run() -> None:
    """A fork at the genesis has no voters: work decides."""

    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(5)
        swarm.network.is_cut = cut_off(swarm, 2, range(-1, 6))
        await swarm.run_until_round(6)
        assert {len(node.view.head_state.known) for node in swarm.nodes} == {2, 3}
        await swarm.run_until_round(10)
        assert_agree(swarm)
        assert len(swarm.nodes[0].view.head_state.known) == 5

    play(scenario)


def test_a_cut_longer_than_expiry_leaves_the_majoritys_members_in_office() -> None:
    agreement = Agreement(expire_rounds=6, forget_rounds=120)

    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(5)
        swarm.network.is_cut = cut_off(swarm, 2, range(5, 25))
        await swarm.run_until_round(25)
        view = swarm.nodes[-1].view
        assert view.chain[view.head].members == {peer_name(n) for n in (2, 3, 4)}
        await swarm.run_until_round(32)
        assert_agree(swarm)
        view = swarm.nodes[0].view
        assert view.chain[view.head].members == {peer_name(n) for n in range(5)}
        majority = swarm.nodes[-1]
        assert rolled_back(majority) == []

    play(scenario, SimSwarm(manifest(agreement=agreement)))


def test_rule_18_the_votes_of_a_majority_that_died_still_decide() -> None:
    """Three of five die on their side of a cut but for one, which shows what they had decided."""

    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(5)
        swarm.network.is_cut = cut_off(swarm, 2, range(5, 22))
        await swarm.run_until_round(12)
        for node in swarm.nodes[3:]:
            await swarm.kill(node)
        await swarm.run_until_round(22)  # dead for longer than L rounds
        survivor = swarm.nodes[2]
        trunk = survivor.view.head
        assert swarm.nodes[0].view.head != trunk
        await swarm.run_until_round(26)
        assert_agree(swarm)
        assert survivor.view.chain.is_ancestor(trunk, survivor.view.head)

    play(scenario)
