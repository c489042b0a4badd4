"""How long after their boundary the headers and proposals of others come, over virtual time."""

import asyncio

from demo_node.ports import Topic
from demo_node.sim.whole.faults import Heard
from demo_node.sim.whole.swarm import LINK_S, SimNode, SimSwarm
from demo_node.sim.whole.virtual_loop import VirtualLoop
from tests.sim.rogue import TRAIN_END, Rogue
from tests.sim.scenes import play

HELD_S = 0.1
"""It comes before the moment at which nodes ask each other what is missing (rule 23)."""


def arrivals(node: SimNode, topic: Topic) -> list[float]:
    """Seconds, in the order of coming."""
    return node.observer.measured.get(("demo_gossip_arrival_seconds", topic), [])


def test_every_header_and_proposal_of_another_node_is_measured_once() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4)
        await swarm.run_until_round(6)
        for node in swarm.nodes:
            accepted = node.observer.messages
            headers, proposals = (
                arrivals(node, topic) for topic in (Topic.HEADERS, Topic.PROPOSALS)
            )
            assert len(headers) == accepted[Topic.HEADERS, "accepted"] == 3 * 6
            path = node.view.chain.ancestors(node.view.head)
            by_others = [s for s in path if s.proposal and s.proposal.body.peer != node.name]
            assert len(proposals) == accepted[Topic.PROPOSALS, "accepted"] >= len(by_others) > 0
            assert all(LINK_S <= late_s <= 4 * LINK_S for late_s in headers + proposals)

    play(scenario)


def hold_one_up(swarm: SimSwarm, delay_s: float) -> None:
    """The next header that anybody hears, by so much."""
    held_up: list[Heard] = []

    def held_back_s(heard: Heard) -> float:
        if heard.topic is not Topic.HEADERS or held_up:
            return 0.0
        held_up.append(heard)
        return delay_s

    swarm.faults.held_back_s = held_back_s


def test_one_that_was_held_up_is_late_by_the_clock_and_one_that_is_early_is_in_time() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4)
        rogue = await Rogue.enter(swarm)
        await swarm.run_until_round(1)
        before = [len(arrivals(node, Topic.HEADERS)) for node in swarm.nodes]
        await rogue.wait_until(1, TRAIN_END - 500)
        await rogue.publish(rogue.header(1))
        await rogue.wait_until(1, TRAIN_END - 100)
        hold_one_up(swarm, HELD_S)
        await swarm.run_until_round(2)
        found = [
            sorted(arrivals(node, Topic.HEADERS)[count:])
            for node, count in zip(swarm.nodes, before, strict=True)
        ]
        assert [late_s[0] for late_s in found] == [0.0] * 4
        assert sorted(late_s[-1] for late_s in found) == [0.01, 0.01, 0.01, 0.11]

    play(scenario)


def test_what_a_comparison_brings_sooner_is_no_arrival_by_gossip() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4)
        await swarm.run_until_round(1)
        before = [len(arrivals(node, Topic.HEADERS)) for node in swarm.nodes]
        hold_one_up(swarm, 0.4)
        await swarm.run_until_round(2)
        found = [
            arrivals(node, Topic.HEADERS)[count:]
            for node, count in zip(swarm.nodes, before, strict=True)
        ]
        assert sorted(map(len, found)) == [2, 3, 3, 3]
        assert {late_s for of_node in found for late_s in of_node} == {0.01}
        for node in swarm.nodes:  # it is here all the same
            assert len(node.view.pool.by_round[1]) == 4

    play(scenario)


def test_a_header_is_its_authors_where_ours_is_signed_in_the_same_step() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(3)
        rogue = await Rogue.enter_as_member(swarm)
        node = swarm.nodes[0]
        node.driver.machine.paused = True  # its heartbeat is due at the train boundary
        await rogue.wait_until(5, TRAIN_END - 5)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.block(0.010)
        assert node.driver.on_gossip(Topic.HEADERS, rogue.name, rogue.header(5).raw)
        came = node.driver.history.arrivals
        assert came[5, rogue.name] == came[5, node.name]

    play(scenario)
