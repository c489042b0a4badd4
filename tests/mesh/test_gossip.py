import asyncio
import os

import pytest
import trio
from libp2p.exceptions import BaseLibp2pError
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11
from libp2p.pubsub.pb import rpc_pb2
from libp2p.utils.varint import encode_varint_prefixed

from demo_node.mesh import bounds
from demo_node.ports import Topic, Unreachable
from demo_protocol.errors import LocalFault
from demo_protocol.limits import GOSSIP_BYTES_MAX, HEADER_BYTES_MAX
from tests.mesh.hosts import RUN, hosts, link, link_all, on_uvloop
from tests.waiting import wait_until


@on_uvloop
async def test_every_message_reaches_everybody_else_once() -> None:
    async with hosts(4) as made:
        await link_all(made)
        sent = {h.mesh.peer: [os.urandom(300) for _ in range(10)] for h in made}
        for host in made:
            for message in sent[host.mesh.peer]:
                await host.mesh.publish(Topic.HEADERS, message)
        await wait_until(lambda: all(len(h.heard) >= 30 for h in made))
        for host in made:
            others = {m for peer, ms in sent.items() if peer != host.mesh.peer for m in ms}
            assert sorted(host.messages()) == sorted(others)
            assert {topic for topic, _, _ in host.heard} == {Topic.HEADERS}


@on_uvloop
async def test_topics_are_kept_apart_and_carry_messages_up_to_their_limit() -> None:
    async with hosts(2) as (a, b):
        await link((a, b))
        await a.mesh.publish(Topic.PROPOSALS, bytes(GOSSIP_BYTES_MAX))
        await a.mesh.publish(Topic.MEMBERSHIP, b"join")
        await wait_until(lambda: len(b.heard) == 2)
        assert set(b.heard) == {
            (Topic.PROPOSALS, a.mesh.peer, bytes(GOSSIP_BYTES_MAX)),
            (Topic.MEMBERSHIP, a.mesh.peer, b"join"),
        }


@on_uvloop
async def test_publishing_too_much_is_our_fault_and_said_so() -> None:
    async with hosts(1) as (a,):
        with pytest.raises(LocalFault, match="1025 bytes, at most 1024"):
            await a.mesh.publish(Topic.HEADERS, bytes(HEADER_BYTES_MAX + 1))


@on_uvloop
async def test_the_verdict_decides_what_is_forwarded() -> None:
    async with hosts(3) as (a, b, c):
        b.verdict = lambda message: message.startswith(b"good")
        await link((a, b), (b, c))
        for message in (b"bad 1", b"good 1", b"bad 2", b"good 2"):
            await a.mesh.publish(Topic.HEADERS, message)
        await wait_until(lambda: len(b.heard) == 4 and len(c.heard) == 2)
        assert sorted(c.messages()) == [b"good 1", b"good 2"]
        assert {peer for _, peer, _ in c.heard} == {b.mesh.peer}  # who handed it over


@on_uvloop
async def test_a_refused_message_is_judged_once_however_often_it_comes() -> None:
    async with hosts(4) as made:
        for host in made:
            host.verdict = lambda message: message.startswith(b"end")
        made[1].verdict = made[2].verdict = lambda message: True  # both forward it to made[3]
        await link_all(made)
        await made[0].mesh.publish(Topic.HEADERS, b"x")
        await made[0].mesh.publish(Topic.HEADERS, b"end")
        await wait_until(lambda: b"end" in made[3].messages())
        assert made[3].messages().count(b"x") == 1


@on_uvloop
async def test_equal_bytes_published_again_are_heard_again() -> None:
    async with hosts(2) as (a, b):
        await link((a, b))
        for _ in range(2):
            await a.mesh.publish(Topic.MEMBERSHIP, b"join")
        await wait_until(lambda: len(b.heard) == 2)


@on_uvloop
async def test_a_burst_is_not_dropped() -> None:
    """Traps 6 and 17: the default spam limit is 10 a second, a subscription holds 32."""
    async with hosts(3) as (a, b, c):
        await link((a, b), (b, c))
        for i in range(200):
            await a.mesh.publish(Topic.HEADERS, i.to_bytes(2))
        await wait_until(lambda: len(c.heard) == 200)


@on_uvloop
async def test_a_run_may_be_joined_after_connecting() -> None:
    async with hosts(2, join=False) as (a, b):
        await b.mesh.connect(a.address)
        await a.join()
        await wait_until(lambda: a.mesh.peers() and b.mesh.peers())
        await b.join()
        await link((a, b))
        await a.mesh.publish(Topic.HEADERS, b"from a")
        await b.mesh.publish(Topic.HEADERS, b"from b")
        await wait_until(lambda: a.messages() == [b"from b"] and b.messages() == [b"from a"])


@on_uvloop
async def test_one_run_only_and_none_before_joining() -> None:
    async with hosts(1, join=False) as (a,):
        with pytest.raises(LocalFault, match="no run"):
            await a.mesh.publish(Topic.HEADERS, b"")
        await a.join()
        with pytest.raises(LocalFault, match="joined before"):
            await a.join()


@on_uvloop
async def test_oversize_and_foreign_messages_stop_at_the_first_honest_peer() -> None:
    async with hosts(2) as (a, evil):
        await link((a, evil))
        pubsub = evil.mesh._gossip.pubsub
        name = {t: f"demo/{RUN.hex()}/{t}" for t in Topic}
        publish = evil.mesh._guest.call
        await publish(pubsub.publish, name[Topic.HEADERS], bytes(HEADER_BYTES_MAX + 1))
        await publish(pubsub.publish, [name[Topic.HEADERS], name[Topic.MEMBERSHIP]], b"two topics")
        await publish(pubsub.publish, [name[Topic.HEADERS]] * 2, b"twice the same")
        await publish(pubsub.publish, "demo/other/headers", b"another run")
        await publish(pubsub.publish, name[Topic.HEADERS], b"end")
        await wait_until(lambda: a.messages())
        assert a.messages() == [b"end"]


@on_uvloop
async def test_what_is_no_message_ends_a_stream_and_nothing_else() -> None:
    async with hosts(2) as (a, evil):
        await link((a, evil))
        host = evil.mesh._host

        async def babble(frame: bytes) -> None:
            stream = await host.new_stream(a.mesh._host.get_id(), [PROTOCOL_ID_V11])
            await stream.write(frame)
            with trio.fail_after(10), pytest.raises(BaseLibp2pError):
                await stream.read(9)  # nothing is ever said there

        for frame in (encode_varint_prefixed(b"\xff" * 20), b"\xff" * 11):
            await evil.mesh._guest.call(babble, frame)
        assert [view.peer for view in a.mesh.peers()] == [evil.mesh.peer]
        await wait_until(lambda: evil.mesh.mesh_peers(Topic.HEADERS))
        await evil.mesh.publish(Topic.HEADERS, b"honest after all")
        await wait_until(lambda: b"honest after all" in a.messages())


@on_uvloop
async def test_a_flood_in_one_frame_does_not_hurt() -> None:
    """The library starts a task per message, and allows a thousand children to a task."""
    async with hosts(3) as (a, b, evil):
        await link((a, b), (a, evil))
        rpc = rpc_pb2.RPC(
            publish=[
                rpc_pb2.Message(
                    data=b"flood",
                    topicIDs=[f"demo/{RUN.hex()}/headers"],
                    from_id=evil.mesh._host.get_id().to_bytes(),
                    seqno=i.to_bytes(8),
                )
                for i in range(5000)
            ]
        )

        async def send() -> None:
            queue = evil.mesh._gossip.pubsub.peer_queues[a.mesh._host.get_id()]
            assert queue.push(rpc)

        await evil.mesh._guest.call(send)
        await b.mesh.publish(Topic.HEADERS, b"honest")
        await wait_until(lambda: b"honest" in a.messages())
        assert b"flood" not in a.messages()  # not signed


@on_uvloop
async def test_an_error_in_our_handler_ends_the_mesh_and_wait_tells() -> None:
    async with hosts(2) as (a, b):

        def broken(message: bytes) -> bool:
            raise ZeroDivisionError("our bug")

        b.verdict = broken
        await link((a, b))
        await a.mesh.publish(Topic.HEADERS, b"x")
        with pytest.raises(ZeroDivisionError, match="our bug"):
            await b.mesh.wait()
        await wait_until(lambda: not a.mesh.peers())
        with pytest.raises(Unreachable):
            await b.mesh.connect(a.address)


@on_uvloop
async def test_an_empty_mesh_shows() -> None:
    async with hosts(2) as (a, b):
        assert a.mesh.mesh_peers(Topic.HEADERS) == 0
        await link((a, b))
        assert a.mesh.mesh_peers(Topic.HEADERS) == 1
        await b.mesh.stop()
        await wait_until(lambda: a.mesh.mesh_peers(Topic.HEADERS) == 0)


@on_uvloop
async def test_a_graft_that_crosses_a_prune_makes_no_link_of_one_side() -> None:
    async with hosts(2) as (a, b):
        await a.mesh.connect(b.address)
        await wait_until(lambda: all(h.mesh.mesh_peers(Topic.HEADERS) == 1 for h in (a, b)))
        router, other = a.mesh._gossip.router, b.mesh._host.get_id()
        name = f"demo/{RUN.hex()}/{Topic.HEADERS}"

        async def prune_and_be_grafted() -> None:
            router.mesh[name].discard(other)
            await router._emit_control_msgs({}, {other: [name]}, {})
            await router.handle_graft(rpc_pb2.ControlGraft(topicID=name), other)

        await a.mesh._guest.call(prune_and_be_grafted)
        assert not a.mesh.mesh_peers(Topic.HEADERS)
        await wait_until(lambda: not b.mesh.mesh_peers(Topic.HEADERS))


@on_uvloop
async def test_pruning_and_grafting_leave_a_mesh_that_both_sides_agree_on() -> None:
    """Traps 4 and 32: more links than the upper degree; nobody may end outside."""
    beats = 0

    def beat() -> None:
        nonlocal beats
        beats += 1

    with pytest.MonkeyPatch.context() as patch:
        for name, value in [("", 3), ("_LOW", 2), ("_HIGH", 4)]:
            patch.setattr(bounds, f"GOSSIP_DEGREE{name}", value)
        patch.setattr(bounds, "GOSSIP_HEARTBEAT_S", 0.05)
        patch.setattr(bounds, "GOSSIP_PRUNE_BACK_OFF_S", 1)
        async with hosts(8) as made:
            pairs = [(a, b) for i, a in enumerate(made) for b in made[:i]]
            await asyncio.gather(*(a.mesh.connect(b.address) for a, b in pairs))
            routers = {h.mesh._host.get_id(): h.mesh._gossip.router for h in made}
            name = f"demo/{RUN.hex()}/{Topic.HEADERS}"

            def agreed() -> bool:
                links = {(a, b) for a, r in routers.items() for b in r.mesh[name]}
                return all((b, a) in links for a, b in links)

            patch.setattr(made[0].mesh._gossip.router.mcache, "shift", beat)
            await wait_until(lambda: beats > 30 and agreed())
            assert all(1 <= h.mesh.mesh_peers(t) <= 7 for h in made for t in Topic)
            for host in made:
                await host.mesh.publish(Topic.HEADERS, host.mesh.peer)
            await wait_until(lambda: all(len(h.heard) == 7 for h in made))
