"""Rule 26 with whole nodes: who has not worked, or is not listed, never gets in."""

from demo_node.ports import Topic
from demo_node.sim.keys import peer_name
from demo_node.sim.whole.swarm import SimSwarm
from demo_protocol.admission import is_admitted
from demo_protocol.manifest import Agreement, join_allowed
from demo_protocol.messages import Membership, seal_membership
from tests.builders import manifest
from tests.sim.rogue import TRAIN_END, Rogue
from tests.sim.scenes import assert_agree, height, play

STAMPED = Agreement(admission="stamp", stamp_bits=12)
LISTED = Agreement(admission="allowlist", allowlist=join_allowed(map(peer_name, range(4))))


async def push_in(swarm: SimSwarm) -> None:
    """Somebody wants in, round after round, and contributes as if it were."""
    rogue = await Rogue.enter(swarm)
    for round_ in range(2, 9):
        await rogue.wait_until(round_, 10)
        wish = Membership(joins=True, peer=rogue.name, round=round_, nonce=2**40)
        assert not is_admitted(wish, swarm.manifest, rogue.honest.run_id)
        sealed = seal_membership(wish, rogue.honest.run_id, rogue.sign)
        await rogue.mesh.publish(Topic.MEMBERSHIP, sealed.raw)
        await rogue.wait_until(round_, TRAIN_END)
        await rogue.publish(rogue.header(round_))
    await swarm.run_until_round(10)
    assert_agree(swarm)
    for node in swarm.nodes:
        state = node.view.head_state
        assert height(node) >= 8
        assert set(state.known) == {peer_name(number) for number in range(4)}
        assert rogue.name not in node.view.pool.wishes
        rejected = [f["reason"] for name, f in node.observer.events if name == "message.rejected"]
        assert "a join of who is not admitted" in rejected


def test_who_has_not_worked_for_it_is_kept_out_and_who_has_is_in() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4)
        await push_in(swarm)
        for node in swarm.nodes:
            assert [name for name, _ in node.observer.events].count("stamp.made") == 1

    play(scenario, SimSwarm(manifest(agreement=STAMPED)))


def test_who_is_not_listed_is_kept_out() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4)
        await push_in(swarm)

    play(scenario, SimSwarm(manifest(agreement=LISTED)))
