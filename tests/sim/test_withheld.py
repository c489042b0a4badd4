"""Payloads that some nodes do not get, for a while or from some of the others (rule 16)."""

import itertools
from collections.abc import AsyncIterator

import pytest

from demo_node.ports import Blob
from demo_node.sim.keys import peer_name
from demo_node.sim.whole.faults import Asked
from demo_node.sim.whole.model_learner import ModelLearner
from demo_node.sim.whole.swarm import SimNode, SimSwarm
from tests.builders import manifest
from tests.sim.scenes import (
    assert_agree,
    has_slot,
    height,
    is_payload_of,
    leaps,
    play,
    resyncs,
    rolled_back,
)

THESE = {peer_name(2), peer_name(3)}
"""Who does not get it."""


def test_an_author_that_serves_only_half_of_the_nodes_is_served_by_them() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4)

        def answered(asked: Asked) -> float | None:
            refuses = asked.holder == peer_name(0) and asked.asking in THESE
            return None if refuses and is_payload_of(asked, swarm, 0, range(4, 12)) else 0.0

        swarm.faults.answered_s = answered
        await swarm.run_until_round(16)
        assert_agree(swarm)
        for node in swarm.nodes:
            assert height(node) == 16
            assert [r.participants for r in node.observer.rounds] == [4] * 15

    play(scenario)


def test_an_author_that_hangs_does_not_keep_others_from_asking_who_has_it() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4)

        def answered(asked: Asked) -> float | None:
            hangs = asked.holder == peer_name(0) and asked.asking in THESE
            return 1e9 if hangs and is_payload_of(asked, swarm, 0, range(4, 100)) else 0.0

        swarm.faults.answered_s = answered
        await swarm.run_until_round(16)
        assert_agree(swarm)
        assert height(swarm.nodes[0]) >= 15

    play(scenario)


def round_proposed_by_others(swarm: SimSwarm) -> int:
    """A round whose proposers, in both slots, are not of THESE: they hold every payload.

    It is one after which a snapshot is made within L rounds.
    """
    these = [node for node in swarm.nodes if node.name in THESE]
    agreement = swarm.manifest.agreement
    return next(
        round_
        for round_ in itertools.count(swarm.nodes[0].view.round + 1)
        if 0 < -(round_ + 1) % agreement.snapshot_every <= agreement.late_rounds
        and not any(has_slot(node, round_) for node in these)
    )


def find_follower(swarm: SimSwarm, round_: int) -> SimNode:
    """One beside node 0 that may not propose: what others propose lists what it does not get."""
    return next(node for node in swarm.nodes[1:] if not has_slot(node, round_))


@pytest.mark.parametrize("length", [3, 10], ids=["within L rounds", "longer than L rounds"])
def test_a_payload_nobody_gives_to_a_minority_ends_in_equal_digests(length: int) -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(5)  # of four, the two without it might win
        await swarm.run_until_round(4)
        withheld = round_proposed_by_others(swarm)
        until = withheld + length

        def answered(asked: Asked) -> float | None:
            refuses = asked.holder not in THESE and asked.asking in THESE
            if refuses and swarm.nodes[0].view.round < until:
                is_it = is_payload_of(asked, swarm, 0, range(withheld, withheld + 1))
                return None if is_it else 0.0
            return 0.0

        swarm.faults.answered_s = answered
        await swarm.run_until_round(withheld + 1)
        views = {node.name: node.view for node in swarm.nodes}
        rounds = {name: view.head_state.round for name, view in views.items()}
        assert {rounds[name] for name in THESE} == {withheld - 1}  # they stayed on the parent
        assert {r for name, r in rounds.items() if name not in THESE} == {withheld}
        await swarm.run_until_round(until + 4)
        assert_agree(swarm)
        assert height(swarm.nodes[0]) >= until + 2
        came_back = {node.name for node in swarm.nodes if rolled_back(node) or leaps(node)}
        assert came_back == THESE
        # Rule 16: within L rounds the payload is waited for, after that a snapshot will do.
        leapt = {node.name for node in swarm.nodes if leaps(node)}
        assert leapt == (THESE if length > swarm.manifest.agreement.late_rounds else set())

    play(scenario)


def test_rule_16_who_misses_a_payload_for_l_rounds_goes_on_from_a_snapshot() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4)
        await swarm.run_until_round(4)
        behind = find_follower(swarm, 4)
        swarm.faults.answered_s = lambda asked: (
            None
            if asked.asking == behind.name and is_payload_of(asked, swarm, 0, range(4, 5))
            else 0.0
        )
        await swarm.run_until_round(11)  # the first snapshot is of the tenth record
        assert behind.view.head != swarm.nodes[0].view.head
        assert not leaps(behind)
        await swarm.run_until_round(14)
        assert leaps(behind) == 1
        assert_agree(swarm)
        await swarm.run_until_round(20)
        assert_agree(swarm)
        assert [r.participants for r in swarm.nodes[0].observer.rounds[-4:]] == [4] * 4

    play(scenario)


def test_rule_16_a_snapshot_whose_digest_most_headers_deny_is_not_taken() -> None:
    class Forger(ModelLearner):
        """Node 0's snapshots are of a state that nobody has."""

        async def snapshot(self, record: bytes) -> AsyncIterator[bytes]:
            true = self.states[record]
            if self._name == peer_name(0):
                self.states[record] = bytes(len(true))
            async for piece in super().snapshot(record):
                yield piece
            self.states[record] = true

    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4)
        await swarm.run_until_round(4)
        behind = find_follower(swarm, 4)

        def answered(asked: Asked) -> float | None:
            if asked.asking != behind.name:
                return 0.0
            if asked.request.kind is Blob.STATE_CHUNK and asked.holder != peer_name(0):
                return None
            return None if is_payload_of(asked, swarm, 0, range(4, 5)) else 0.0

        swarm.faults.answered_s = answered
        await swarm.run_until_round(18)
        assert not leaps(behind)

    play(scenario, SimSwarm(manifest(), make_learner=Forger))


@pytest.mark.parametrize("until", [7, 10], ids=["at once", "just before L rounds"])
def test_one_node_that_misses_a_payload_trains_alone_and_follows_once_it_is_served(
    until: int,
) -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4)
        await swarm.run_until_round(4)
        behind = find_follower(swarm, 4)

        def answered(asked: Asked) -> float | None:
            if asked.asking == behind.name and swarm.nodes[0].view.round < until:
                return None if is_payload_of(asked, swarm, 0, range(4, 5)) else 0.0
            return 0.0

        swarm.faults.answered_s = answered
        await swarm.run_until_round(until)
        assert behind.view.head != swarm.nodes[0].view.head
        assert len({node.view.head for node in swarm.nodes if node is not behind}) == 1
        trained = [round_ for round_ in range(until) if behind.machine.ordered_round >= round_]
        assert len(trained) == until  # it never waited
        await swarm.run_until_round(until + 3)
        assert_agree(swarm)
        assert height(swarm.nodes[0]) >= until + 2

    play(scenario)


def test_payloads_that_do_not_arrive_in_their_round_are_not_listed() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4)

        def answered(asked: Asked) -> float | None:
            return 5.0 if is_payload_of(asked, swarm, 0, range(4, 8)) else 0.0

        swarm.faults.answered_s = answered
        await swarm.run_until_round(16)
        assert_agree(swarm)
        view, author = swarm.nodes[1].view, swarm.nodes[0]
        listing = {
            step.round
            for step in view.chain.ancestors(view.head)
            for listed in step.contributions
            if listed.body.peer == author.name
        }
        # Its own proposals may list it; all others list it late.
        late = {
            listed.body.round
            for step in view.chain.ancestors(view.head)
            for listed in step.late
            if listed.body.peer == author.name
        }
        assert late
        assert late == set(range(4, 8)) - listing
        assert isinstance(author.learner, ModelLearner)
        assert set(author.learner.restored) >= late  # rule 24
        assert set(author.learner.released) >= {0, 1, 2, 3, 8}
        assert not any(resyncs(node) for node in swarm.nodes)

    play(scenario)
