"""Nodes that lie: honest ones agree all the same (rules 12, 15 to 18 and 20)."""

import asyncio

from demo_node.ports import Offence, Topic
from demo_node.sim.keys import cheap_sign, peer_name
from demo_node.sim.whole.faults import Heard
from demo_node.sim.whole.swarm import SimNode, SimSwarm
from demo_node.sim.whole.virtual_loop import VirtualClock, VirtualLoop
from demo_protocol.manifest import Agreement, carries_root
from demo_protocol.messages import (
    Membership,
    Proposal,
    decode_header,
    seal_membership,
    seal_proposal,
)
from demo_protocol.roster import compute_rank
from demo_protocol.schedule import round_start_ms
from tests.builders import manifest
from tests.protocol.hearing import counted
from tests.sim.rogue import PROPOSE, TRAIN_END, Rogue
from tests.sim.scenes import assert_agree, height, play


def rounds_listing(node: SimNode, author: bytes) -> set[int]:
    """Rounds whose record on the node's chain lists a contribution of this peer."""
    return {
        step.round
        for step in node.view.chain.ancestors(node.view.head)
        if any(h.body.peer == author for h in step.contributions)
    }


def test_an_equivocating_author_is_counted_nowhere_by_anybody() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4)
        rogue = await Rogue.enter_as_member(swarm)
        half = {peer_name(0), peer_name(1)}

        def split(heard: Heard) -> float | None:
            """The first half hears one header first, the second half the other."""
            if heard.topic is not Topic.HEADERS:
                return 0.0
            body = decode_header(heard.message, rogue.honest.run_id).body
            if body.peer != rogue.name:
                return 0.0
            return 0.0 if (heard.receiver in half) == (body.samples == 8) else 0.2

        swarm.faults.held_back_s = split
        for round_ in range(3, 10):
            await rogue.wait_until(round_, TRAIN_END)
            await rogue.publish(rogue.header(round_))
            await rogue.publish(rogue.header(round_, samples=7))
        await swarm.run_until_round(12)
        assert_agree(swarm)
        for node in swarm.nodes:
            assert height(node) == 12
            assert counted(node.view.votes, rogue.name) is None
            assert node.view.votes.newest[rogue.name][0] == 9

    play(scenario)


def test_a_forged_digest_accuses_its_author_and_changes_nothing_else() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4)
        rogue = await Rogue.enter_as_member(swarm)
        for round_ in range(3, 7):
            await rogue.wait_until(round_, TRAIN_END)
            await rogue.publish(rogue.header(round_, digest=b"forged!!"))
        await swarm.run_until_round(8)
        assert_agree(swarm)
        for node in swarm.nodes:
            assert height(node) == 8
            assert rounds_listing(node, rogue.name) == set(range(7))  # its payload is as good
            accused = [f for name, f in node.observer.events if name == "digest.differed"]
            assert {fields["author"] for fields in accused} == {rogue.name.hex()}

    play(scenario)


def test_a_payload_that_is_none_is_never_listed_by_honest_nodes() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4)
        rogue = await Rogue.enter_as_member(swarm)
        length = rogue.header(3).body.payload_bytes
        for round_ in range(3, 8):
            await rogue.wait_until(round_, TRAIN_END)
            await rogue.publish(rogue.header(round_, payload=bytes(length - 1) + b"\x01"))
        await swarm.run_until_round(9)
        assert_agree(swarm)
        for node in swarm.nodes:
            assert height(node) == 9
            assert rounds_listing(node, rogue.name) == {0, 1, 2}
            assert [r.participants for r in node.observer.rounds][3:] == [4] * 5
            rejected = [f for name, f in node.observer.events if name == "payload.rejected"]
            assert {fields["author"] for fields in rejected} == {rogue.name.hex()}
            mesh = swarm.network.find(node.name)
            assert mesh is not None
            assert [(b.peer, b.offence) for b in mesh.bans()] == [(rogue.name, Offence.PAYLOAD)]

    play(scenario)


def test_a_record_that_lists_such_a_payload_is_followed_by_nobody() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4)
        rogue = await Rogue.enter_as_member(swarm)
        made = set()
        for round_ in range(3, 14):
            await rogue.wait_until(round_, TRAIN_END)
            garbage = rogue.header(round_, payload=bytes([round_]) * 63)
            for node in swarm.nodes:  # else it would be banned by now
                mesh = swarm.network.find(node.name)
                assert mesh is not None
                mesh.forgive(peer=rogue.name)
            await rogue.publish(garbage)
            await rogue.wait_until(round_, PROPOSE)
            others = [h.hash for h in rogue.honest.pool.of_round(round_)]
            parent = rogue.honest.head
            sealed = rogue.proposal(round_, parent, {*others, garbage.hash})
            await rogue.publish(sealed)
            made.add(sealed.hash)
        await swarm.run_until_round(15)
        assert_agree(swarm)
        for node in swarm.nodes:
            view = node.view
            assert made & set(view.chain.records)  # valid by content, where it had a slot
            assert not any(step.hash in made for step in view.chain.ancestors(view.head))
            assert height(node) == 15

    play(scenario)


def test_a_proposal_of_headers_that_do_not_exist_is_replaced_in_the_same_round() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4)
        rogue = await Rogue.enter_as_member(swarm)
        for round_ in range(3, 12):
            await rogue.wait_until(round_, TRAIN_END)
            await rogue.publish(rogue.header(round_))
            await rogue.wait_until(round_, PROPOSE)
            listed = [h.hash for h in rogue.honest.pool.of_round(round_)]
            await rogue.publish(
                rogue.proposal(round_, rogue.honest.head, {*listed, bytes([round_]) * 32})
            )
        await swarm.run_until_round(13)
        assert_agree(swarm)
        assert {height(node) for node in swarm.nodes} == {13}
        ranks = [
            compute_rank(s.state, rogue.name, s.round + 1, swarm.manifest.agreement)
            for s in rogue.honest.chain.ancestors(rogue.honest.head)
        ]
        assert 0 in ranks  # it was its turn at least once

    play(scenario)


def test_rule_12_a_strangers_record_below_the_genesis_keeps_nobody_from_proposing() -> None:
    """Under a parent without members everybody has rank 0, and nothing has to be covered."""

    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4)
        rogue = await Rogue.enter(swarm)
        for round_ in range(2, 10):
            await rogue.wait_until(round_, TRAIN_END)
            mine = rogue.header(round_)
            await rogue.publish(mine)
            wish = seal_membership(
                Membership(joins=True, peer=rogue.name, round=round_),
                rogue.honest.run_id,
                rogue.sign,
            )
            genesis = rogue.honest.chain.root.record
            await rogue.wait_until(round_, PROPOSE - 100)
            await rogue.publish(rogue.proposal(round_, genesis, [mine.hash], joins=(wish.raw,)))
        await swarm.run_until_round(11)
        assert_agree(swarm)
        assert {height(node) for node in swarm.nodes} == {11}

    play(scenario)


def test_rule_17_a_stranger_that_proposes_first_does_not_become_the_only_member() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4)
        rogue = await Rogue.enter(swarm)
        await rogue.wait_until(0, TRAIN_END)
        mine = rogue.header(0)
        await rogue.publish(mine)
        wish = Membership(joins=True, peer=rogue.name, round=0)
        sealed = seal_membership(wish, rogue.honest.run_id, rogue.sign)
        genesis = rogue.honest.chain.root.record
        await rogue.wait_until(0, PROPOSE - 50)
        await rogue.publish(rogue.proposal(0, genesis, [mine.hash], joins=(sealed.raw,)))
        await swarm.run_until_round(4)
        assert_agree(swarm)
        names = {node.name for node in swarm.nodes}
        assert names <= set(swarm.nodes[0].view.chain[swarm.nodes[0].view.head].members)

    play(scenario)


def test_rule_12_a_members_record_on_an_old_parent_keeps_nobody_from_proposing() -> None:
    """It lists everybody, but nobody's head is its parent, so nobody will follow it."""

    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4)
        rogue = await Rogue.enter_as_member(swarm)
        old = rogue.honest.head
        for round_ in range(6, 12):
            await rogue.wait_until(round_, PROPOSE - 100)
            listed = [h.hash for h in rogue.honest.pool.of_round(round_)]
            await rogue.publish(rogue.proposal(round_, old, listed))
        await swarm.run_until_round(13)
        assert_agree(swarm)
        assert {height(node) for node in swarm.nodes} == {13}

    play(scenario)


def test_rule_25_a_record_may_come_in_the_step_in_which_its_parent_is_forgotten() -> None:
    """A member signs it on the oldest record, and its message is the first of a round."""

    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4)
        round_, node = 60, swarm.nodes[0]
        begins_ms = round_start_ms(swarm.manifest.schedule, round_ + 1)
        await VirtualClock().sleep_until_ms(begins_ms - 5)
        view = node.view
        liar = next(n.name for n in swarm.nodes if (round_, n.name) not in view.pool.notices)
        body = Proposal(
            round=round_,
            peer=liar,
            parent=view.chain.root.record,
            parent_digest=bytes(8),
            contributions=tuple(sorted(header.hash for header in view.pool.of_round(round_))),
            late=(),
            joins=(),
            leaves=(),
            state_root=bytes(32) if carries_root(short, view.chain.root.height + 1) else b"",
        )
        sealed = seal_proposal(body, view.run_id, cheap_sign(liar))
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.block(0.010)  # the node is busy when the next round begins
        assert node.driver.on_gossip(Topic.PROPOSALS, liar, sealed.raw)
        assert view.round == round_ + 1
        assert sealed.hash not in view.chain
        await swarm.run_until_round(63)
        assert_agree(swarm)

    # Records are kept for `forget_rounds`, so by then the first one is no genesis any more.
    short = Agreement(payload_window_rounds=20, snapshot_every=5, expire_rounds=2, forget_rounds=40)
    play(scenario, SimSwarm(manifest(agreement=short)))
