"""What `ListSwarm` says, in a whole swarm over virtual time."""

from demo_node.sim.whole.swarm import SimNode, SimSwarm
from demo_node.swarm_peers import show_swarm
from demo_node.views import DigestVerdict, Standing, SwarmPeerView
from demo_protocol.schedule import contribute_end_ms, train_end_ms
from tests.sim.rogue import TRAIN_END, Rogue
from tests.sim.scenes import play


def look(node: SimNode, now_ms: int = 0) -> dict[bytes, SwarmPeerView]:
    history = node.driver.history
    shown = show_swarm(node.view, history.arrivals, node.driver.mesh.peers(), now_ms)
    return {peer.peer: peer for peer in shown.peers}


def test_every_node_sees_all_in_step_and_when_their_headers_came() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4)
        await swarm.run_until_round(10)
        schedule = swarm.manifest.schedule
        for node in swarm.nodes:
            peers = look(node)
            assert peers.keys() == {other.name for other in swarm.nodes}
            assert next(iter(peers)) == node.name
            for peer in peers.values():
                assert peer.standing is Standing.MEMBER
                assert peer.digest is DigestVerdict.EQUAL
                assert peer.connected == (peer.peer != node.name)
                assert peer.held
                assert peer.k
                assert peer.heard_round == 9
                assert train_end_ms(schedule, 9) <= peer.heard_ms < contribute_end_ms(schedule, 9)
            assert abs(sum(peer.share for peer in peers.values()) - 1) < 1e-9

    play(scenario)


def test_a_header_with_another_digest_is_seen_by_all() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(3)
        rogue = await Rogue.enter_as_member(swarm)
        await rogue.wait_until(4, TRAIN_END)
        await rogue.publish(rogue.header(4, digest=b"another."))
        await swarm.run_until_round(5)
        for node in swarm.nodes:
            verdicts = {peer.digest for peer in look(node).values() if peer.peer == rogue.name}
            assert verdicts == {DigestVerdict.DIFFERENT}
            others = [peer.digest for peer in look(node).values() if peer.peer != rogue.name]
            assert others == [DigestVerdict.EQUAL] * 3

    play(scenario)
