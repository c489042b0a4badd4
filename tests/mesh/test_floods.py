"""On sockets: what is too much of one peer, what of all together, and what waits instead."""

import asyncio
import contextlib
import functools
from typing import cast

import pytest
import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.exceptions import BaseLibp2pError
from libp2p.io.trio import TrioTCPStream
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.validators import PUBSUB_SIGNING_PREFIX

from demo_node.mesh import bounds
from demo_node.mesh.guard import Guard
from demo_node.mesh.pacing import Pacer
from demo_node.mesh.transport import MeteredStream, MeteredTCP
from demo_node.ports import Offence, Topic
from tests.mesh.hosts import RUN, Host, hosts, link, on_uvloop
from tests.mesh.raw_streams import FORGED, gossip, is_banned, offences, on_stream, saying
from tests.waiting import wait_until


@on_uvloop
async def test_streams_without_end_are_a_flood() -> None:
    async with hosts(2, join=False) as (a, evil):
        await evil.mesh.connect(a.address)

        async def open_all() -> None:
            with contextlib.suppress(BaseLibp2pError):
                for _ in range(bounds.STREAMS_PER_CONNECTION_MAX + 9):
                    await evil.mesh._swarm.new_stream(a.mesh._host.get_id())

        await evil.mesh._guest.call(open_all)
        await wait_until(lambda: offences(a).get(Offence.FLOOD, 0) > 0)
        await wait_until(lambda: not a.mesh.peers())


@pytest.mark.parametrize(
    ("waiting", "who"),
    [
        ([70, 50, 8], None),
        ([70, 50, 9], 0),
        ([50, 70, 9], 1),
        ([128, 0, 0], None),
        ([129, 0, 0], 0),
    ],
)
def test_of_connections_that_hold_too_much_unread_together_the_one_with_the_most_goes(
    waiting: list[int], who: int | None
) -> None:
    tcp = MeteredTCP(Pacer(0), Pacer(0), Guard())
    for size in waiting:
        inner = cast(TrioTCPStream, None)
        stream = MeteredStream(inner, tcp, trio.CancelScope())
        stream.waiting = size << 20
        tcp.open.add(stream)
    found = [s for s in tcp.open if s.has_most_waiting]
    assert [s.waiting >> 20 for s in found] == ([] if who is None else [waiting[who]])


def make_own_message(evil: Host, number: int) -> rpc_pb2.Message:
    return rpc_pb2.Message(
        from_id=evil.mesh._host.get_id().to_bytes(),
        seqno=number.to_bytes(8),
        data=b"x",
        topicIDs=["nobody's"],
    )


@pytest.mark.parametrize(("beyond", "is_flood"), [(0, False), (1, True)])
@on_uvloop
async def test_more_than_a_node_can_have_to_say_is_a_flood(beyond: int, is_flood: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bounds, "OWN_MESSAGES_PER_S", 1e-3)
        patch.setattr(bounds, "OWN_MESSAGES_BURST", 8)
        patch.setattr(bounds, "OWN_MESSAGES_BEYOND", 4)
        async with hosts(2) as (a, evil):
            await link((evil, a))
            count = 8 + 3 + beyond + 1  # the first that is too many is paid for like any other
            said = gossip(*(make_own_message(evil, n) for n in range(count)), FORGED)
            talk = asyncio.create_task(on_stream(evil, a, saying(said)))
            await wait_until(lambda: Offence.MESSAGE in offences(a))  # it has read all of it
            assert offences(a).get(Offence.FLOOD, 0) == is_flood
            talk.cancel()


def has_more(node: Host, offences_before: int) -> bool:
    return sum(offences(node).values()) > offences_before


MEMBERSHIP = f"demo/{RUN.hex()}/{Topic.MEMBERSHIP}"


def make_join(evil: Host, number: int, *, is_author: bool) -> rpc_pb2.Message:
    """One as gossip has it, by whoever hands it over or by somebody else."""
    key = evil.mesh._host.get_private_key() if is_author else create_new_key_pair().private_key
    message = rpc_pb2.Message(
        from_id=ID.from_pubkey(key.get_public_key()).to_bytes(),
        seqno=number.to_bytes(8),
        data=number.to_bytes(2),
        topicIDs=[MEMBERSHIP],
    )
    told = PUBSUB_SIGNING_PREFIX.encode() + message.SerializeToString()
    message.signature = key.sign(told)
    return message


@pytest.mark.parametrize("is_author", [True, False])
@on_uvloop
async def test_of_a_flood_of_joins_a_part_is_taken_and_passed_on_and_who_brings_it_is_banned(
    is_author: bool,
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bounds, "JOINS_PER_S", 1e-3)
        patch.setattr(bounds, "JOINS_BURST", 8)
        patch.setattr(bounds, "JOINS_BEYOND", 4)
        async with hosts(4) as (a, evil, second, good):
            await link((a, evil), (a, second), (a, good))
            joins = [make_join(evil, n, is_author=is_author) for n in range(18)]
            talks = [asyncio.create_task(on_stream(evil, a, saying(gossip(*joins[:15]))))]
            await wait_until(lambda: offences(a) == {Offence.FLOOD: 1})  # 9 are taken, 6 are beyond
            taken = [n.to_bytes(2) for n in range(9)]
            await wait_until(lambda: good.messages() == taken)
            # All together have as much as one. What was taken already costs nothing, said again.
            for who, said in ((second, [joins[15], FORGED]), (evil, [*joins[:9], FORGED])):
                known = sum(offences(a).values())
                talks.append(asyncio.create_task(on_stream(who, a, saying(gossip(*said)))))
                await wait_until(functools.partial(has_more, a, known))
            assert a.messages() == taken
            assert offences(a)[Offence.FLOOD] == 1
            talks.append(asyncio.create_task(on_stream(evil, a, saying(gossip(*joins[16:])))))
            await wait_until(lambda: is_banned(a, evil))
            assert not is_banned(a, second)
            await good.mesh.publish(Topic.HEADERS, b"goes on")
            await wait_until(lambda: b"goes on" in a.messages())
            for talk in talks:
                talk.cancel()


@on_uvloop
async def test_who_says_more_than_is_taken_waits_and_loses_nothing() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bounds, "GOSSIP_FRAMES_PER_S", 50)
        patch.setattr(bounds, "GOSSIP_FRAMES_BURST", 10)
        async with hosts(2) as (a, other):
            await link((a, other))
            begin_s = asyncio.get_running_loop().time()
            for n in range(30):
                await other.mesh.publish(Topic.HEADERS, bytes([n]))
            await wait_until(lambda: len(a.messages()) == 30)
            assert asyncio.get_running_loop().time() - begin_s > 0.5  # 60 frames, 50 a second
            assert offences(a) == {}
