"""What a peer says of the links of gossip counts for our topics only."""

from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2

from demo_node.mesh.peer_id import encode_peer_id_bytes
from tests.mesh.hosts import hosts, link, on_uvloop
from tests.waiting import wait_until


@on_uvloop
async def test_foreign_topics_are_not_remembered_and_nobody_is_dialled_for_a_prune() -> None:
    async with hosts(3) as (a, b, c):
        await link((a, b))
        ours = next(iter(a.mesh._gossip.pubsub.topic_ids))
        here = ID(encode_peer_id_bytes(c.mesh.peer)).to_bytes()
        exchanged: list[object] = []
        router, queue = a.mesh._gossip.router, b.mesh._gossip.pubsub.peer_queues
        begin = router.handle_prune

        async def watch(prune_msg: rpc_pb2.ControlPrune, sender_peer_id: ID) -> None:
            exchanged.append((prune_msg.topicID, list(prune_msg.peers)))
            await begin(prune_msg, sender_peer_id)

        router.handle_prune = watch  # type: ignore[method-assign]
        peers = [rpc_pb2.PeerInfo(peerID=here, signedPeerRecord=b"x")]
        prunes = [
            rpc_pb2.ControlPrune(topicID=topic, peers=peers, backoff=60)
            for topic in ("theirs", ours)
        ]
        control = rpc_pb2.ControlMessage(
            prune=prunes,
            graft=[rpc_pb2.ControlGraft(topicID="theirs")],
            ihave=[rpc_pb2.ControlIHave(topicID="theirs", messageIDs=[b"m"])],
        )
        queue[ID(encode_peer_id_bytes(a.mesh.peer))].push(rpc_pb2.RPC(control=control))
        await wait_until(lambda: bool(exchanged))
        assert exchanged == [(ours, [])]
        assert "theirs" not in router.back_off
