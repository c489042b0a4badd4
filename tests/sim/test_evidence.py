"""Rule 26 with whole nodes: who signs twice for a round is out, and who restarts is not."""

from demo_node.sim.keys import peer_name
from demo_node.sim.whole.swarm import SimNode, SimSwarm
from demo_node.sim.whole.virtual_loop import VirtualClock
from demo_protocol.chain import Record
from demo_protocol.schedule import round_start_ms
from tests.sim.rogue import PROPOSE, TRAIN_END, Rogue
from tests.sim.scenes import assert_agree, height, play


def removing(node: SimNode, peer: bytes) -> list[Record]:
    """Records on the node's chain that remove this peer, newest first."""
    view = node.view
    return [
        step
        for step in view.chain.ancestors(view.head)
        if any(offence.peer == peer for offence in step.offences)
    ]


def test_who_signs_two_headers_for_a_round_is_removed_by_the_next_record() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4)
        rogue = await Rogue.enter_as_member(swarm)
        await rogue.wait_until(4, TRAIN_END)
        await rogue.publish(rogue.header(4))
        await rogue.publish(rogue.header(4, samples=7))
        for round_ in range(5, 10):
            await rogue.wait_until(round_, 10)
            await rogue.join(round_)
            await rogue.wait_until(round_, TRAIN_END)
            await rogue.publish(rogue.header(round_))
        await swarm.run_until_round(12)
        assert_agree(swarm)
        for node in swarm.nodes:
            assert height(node) == 12
            (record,) = removing(node, rogue.name)
            assert record.round == 4  # all had heard both by the propose phase
            assert rogue.name not in record.members
            told = [fields for name, fields in node.observer.events if name == "member.removed"]
            assert told == [{"author": rogue.name.hex(), "round": 4, "evidence": "header"}]
            known = node.view.head_state.known[rogue.name]
            assert known.left
            assert known.removed_until == 4 + swarm.manifest.agreement.forget_rounds
            assert not any(
                h.body.peer == rogue.name
                for step in node.view.chain.ancestors(node.view.head)
                if step.round >= 4
                for h in (*step.contributions, *step.late)
            )

    play(scenario)


def test_who_makes_two_proposals_for_a_round_is_removed_though_each_half_took_another() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4)
        rogue = await Rogue.enter_as_member(swarm)
        for round_ in range(3, 30):
            await rogue.wait_until(round_, TRAIN_END)
            await rogue.publish(rogue.header(round_))
            await rogue.wait_until(round_, PROPOSE)
            if removing(swarm.nodes[0], rogue.name):
                break
            listed = [h.hash for h in rogue.honest.pool.of_round(round_)]
            for names in (listed, listed[1:]):
                await rogue.publish(rogue.proposal(round_, rogue.honest.head, names))
        await swarm.run_until_round(round_ + 2)
        assert_agree(swarm)
        for node in swarm.nodes:
            assert height(node) == round_ + 2
            assert len(removing(node, rogue.name)) == 1
            assert rogue.name not in node.view.chain[node.view.head].members

    play(scenario)


def test_rule_10_a_node_that_dies_and_is_back_in_the_same_round_is_never_accused() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4)
        clock = VirtualClock()
        for round_, ms in ((4, TRAIN_END - 300), (6, TRAIN_END + 60), (8, PROPOSE + 60)):
            await clock.sleep_until_ms(round_start_ms(swarm.manifest.schedule, round_) + ms)
            dead = next(node for node in swarm.nodes if node.name == peer_name(3))
            await swarm.kill(dead)
            await swarm.add(3, disk=dead.disk)
        await swarm.run_until_round(14)
        assert_agree(swarm)
        for node in swarm.nodes:
            assert height(node) == 14
            assert not node.view.pool.offences
            assert not removing(node, peer_name(3))
            assert peer_name(3) in node.view.chain[node.view.head].members

    play(scenario)


def test_the_log_of_what_was_signed_is_what_saves_it() -> None:
    """The same node without it: two headers of one round, and it is out."""

    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4)
        await VirtualClock().sleep_until_ms(
            round_start_ms(swarm.manifest.schedule, 6) + TRAIN_END + 60
        )
        dead = next(node for node in swarm.nodes if node.name == peer_name(3))
        await swarm.kill(dead)
        await swarm.add(3)  # with an empty disk
        await swarm.run_until_round(9)
        (record,) = removing(swarm.nodes[0], peer_name(3))
        told = [f for name, f in swarm.nodes[3].observer.events if name == "key.removed"]
        until = record.round + swarm.manifest.agreement.forget_rounds
        assert told == [{"round": 6, "until": until}]

    play(scenario)
