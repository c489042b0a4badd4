"""What is found by the DHT of all runs (--kad), whom it has us dial, what a question may cost."""

import asyncio
import contextlib

import pytest
from libp2p.abc import INetStream
from libp2p.exceptions import BaseLibp2pError
from libp2p.kad_dht.pb.kademlia_pb2 import Message
from libp2p.peer.id import ID

from demo_node.mesh import bounds, kad_host
from demo_node.mesh.kad_frames import (
    ADDRESSES_MAX,
    FRAME_BYTES_MAX,
    PEERS_MAX,
    make_key,
    take_reply,
)
from demo_node.mesh.kad_host import PROTOCOL
from demo_node.mesh.peer_id import encode_peer_id, encode_peer_id_bytes
from demo_node.ports import BlobRequest, Offence, Unreachable
from tests.mesh.dht import OTHER_RUN, PRINTER, WORLD, answer, name, nodes, say, see_at
from tests.mesh.hosts import RUN, Host, on_uvloop
from tests.waiting import wait_until


def note_dials(node: Host) -> list[str]:
    """Where it dials from now on; nobody answers."""
    dialled: list[str] = []

    async def dial(where: str, peer: bytes) -> None:
        dialled.append(where)
        raise Unreachable(where)

    node.mesh._dial = dial  # type: ignore[method-assign]
    return dialled


@on_uvloop
async def test_members_are_found_over_a_node_that_only_others_know() -> None:
    """The bootstrap peer knows no member; who keeps their records is one hop further."""
    async with nodes(5) as (first, second, keeper, bootstrap, joiner):
        for member in (first, second):
            await member.mesh.connect(keeper.address)
            await member.mesh.tell_member(RUN)
        await bootstrap.mesh.connect(keeper.address)
        await bootstrap.mesh.tell_member(OTHER_RUN)
        told = {first.address, second.address}
        assert await first.mesh.find_members(RUN) == [second.address], "itself it knows"
        await asyncio.gather(first.mesh.stop(), second.mesh.stop())
        await joiner.mesh.connect(bootstrap.address)
        assert set(await joiner.mesh.find_members(RUN)) == told
        assert joiner.mesh.kad_counters().records == 0, "hearsay is not told on"
        await wait_until(lambda: [v.peer for v in joiner.mesh.peers()] == [bootstrap.mesh.peer])


@on_uvloop
async def test_who_is_found_by_it_can_be_dialled() -> None:
    async with nodes(3) as (member, keeper, joiner):
        await member.mesh.connect(keeper.address)
        await member.mesh.tell_member(RUN)
        await joiner.mesh.connect(keeper.address)
        (address,) = await joiner.mesh.find_members(RUN)
        assert await joiner.mesh.connect(address) == member.mesh.peer
        assert await joiner.mesh.find_members(OTHER_RUN) == []


@on_uvloop
async def test_without_it_nothing_is_asked() -> None:
    async with nodes(2, kad=False) as (a, b):
        await a.mesh.connect(b.address)
        await a.mesh.tell_member(RUN)
        assert await a.mesh.find_members(RUN) == []


@on_uvloop
async def test_who_is_seen_on_the_internet_has_us_dial_no_private_place() -> None:
    async with nodes(2) as (evil, victim):
        await victim.mesh.connect(evil.address)
        me = say(victim.mesh.peer, WORLD)
        named = say(name(9), PRINTER, "/ip4/127.0.0.1/tcp/22", "/ip6/fd00::1/tcp/80")
        odd = say(name(10), "/ip4/8.8.4.4/udp/4001", "/ip4/8.8.4.4/tcp/0", "/ip4/8.8.4.4")
        garbage = Message.Peer(id=encode_peer_id_bytes(name(11)), addrs=[b"\xff" * 9, b"", b"\x04"])
        answer(evil, me, named, odd, garbage, Message.Peer(id=b"\x12\x20" + bytes(32)))
        see_at(victim, WORLD)
        dialled = note_dials(victim)
        assert await victim.mesh.find_members(RUN) == []
        assert dialled == []
        see_at(victim, "/ip4/192.168.1.2/tcp/4001")
        found = await victim.mesh.find_members(RUN)
        assert f"{PRINTER}/p2p/{encode_peer_id(name(9))}" in found, "of a neighbour we believe it"


@on_uvloop
async def test_of_a_liars_inventions_few_are_dialled_and_few_found() -> None:
    async with nodes(2) as (evil, victim):
        await victim.mesh.connect(evil.address)
        many = [say(name(n), *(f"/ip4/8.8.{n}.{m}/tcp/1" for m in range(6))) for n in range(1, 60)]
        answer(evil, *many)
        dialled = note_dials(victim)
        found = await victim.mesh.find_members(RUN)
        assert len(found) == bounds.KAD_FOUND_MAX
        assert len({place.split(".")[2] for place in dialled}) == bounds.KAD_DIALS_MAX
        assert victim.mesh._kad is not None
        assert victim.mesh.kad_counters().table == 1, "whom we have not met is in no table"


@on_uvloop
async def test_who_is_banned_is_not_dialled() -> None:
    async with nodes(3) as (evil, banned, victim):
        await victim.mesh.connect(evil.address)
        answer(evil, say(banned.mesh.peer, banned.address.rpartition("/p2p/")[0]))
        victim.mesh.ban(banned.mesh.peer, 60)
        opened = dict(victim.mesh.counters().dials)
        await victim.mesh.find_members(RUN)
        assert victim.mesh.counters().dials == opened
        victim.mesh.forgive(banned.mesh.peer)
        await victim.mesh.find_members(RUN)
        assert victim.mesh.counters().dials != opened, "else it is"


@pytest.mark.parametrize(
    "raw",
    [
        b"\xff" * 99,
        bytes(FRAME_BYTES_MAX + 1),
        Message(type=Message.PUT_VALUE, key=make_key(RUN)).SerializeToString(),
        Message(type=Message.FIND_NODE, key=b"another").SerializeToString(),
    ],
)
@on_uvloop
async def test_an_answer_that_is_none_finds_nobody_and_is_held_against_it(raw: bytes) -> None:
    async with nodes(2) as (evil, victim):
        await victim.mesh.connect(evil.address)
        answer(evil, raw=raw)
        assert await victim.mesh.find_members(RUN) == []
        assert victim.mesh.counters().offences[Offence.GARBAGE] >= 1


def test_of_a_long_answer_the_first_are_taken() -> None:
    places = [f"/ip4/8.8.8.8/tcp/{port}" for port in range(1, 2 + ADDRESSES_MAX)]
    peers = [say(name(n), *places) for n in range(2 + PEERS_MAX)]
    said = Message(type=Message.FIND_NODE, closerPeers=peers).SerializeToString()
    heard: dict[bytes, list[str]] = {}
    shown = Message.FromString(take_reply(said, Message.FIND_NODE, WORLD, heard.__setitem__))
    assert [len(peer.addrs) for peer in shown.closerPeers] == [ADDRESSES_MAX] * PEERS_MAX
    assert list(heard) == [name(n) for n in range(PEERS_MAX)]
    assert {len(addresses) for addresses in heard.values()} == {ADDRESSES_MAX}


def test_a_question_asks_and_dials_so_many() -> None:
    query = kad_host.Query()
    for number in range(bounds.KAD_ASKED_MAX):
        query.take_stream()
        if number < bounds.KAD_DIALS_MAX:
            query.take_dial(ID(name(number)))
    with pytest.raises(Unreachable):
        query.take_stream()
    with pytest.raises(Unreachable):
        query.take_dial(ID(name(99)))


@on_uvloop
async def test_questions_wait_for_each_other_and_end_in_time() -> None:
    async with nodes(2) as (silent, node):
        await node.mesh.connect(silent.address)
        open_ = most = 0

        async def hold(stream: INetStream) -> None:
            nonlocal open_, most
            open_ += 1
            most = max(most, open_)
            with contextlib.suppress(BaseLibp2pError):
                while await stream.read(99):
                    pass
            open_ -= 1

        silent.mesh._host.set_stream_handler(PROTOCOL, hold)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(bounds, "KAD_QUERY_S", 1.0)
            begin_s = asyncio.get_running_loop().time()
            await asyncio.gather(*(node.mesh.find_members(RUN) for _ in range(3)))
            lasted_s = asyncio.get_running_loop().time() - begin_s
        assert most == 1
        assert lasted_s >= 3.0
        await wait_until(lambda: open_ == 0)


@on_uvloop
async def test_who_takes_part_in_another_run_is_known_by_that() -> None:
    async with nodes(3) as (a, b, other):
        joining = other.mesh.join(OTHER_RUN, lambda *_: True, refuse)
        await asyncio.gather(a.join(), b.join(), joining)
        await a.mesh.connect(b.address)
        await a.mesh.connect(other.address)
        await wait_until(
            lambda: (
                {v.peer: v.elsewhere for v in a.mesh.peers()}
                == {b.mesh.peer: False, other.mesh.peer: True}
            )
        )


async def refuse(peer: bytes, request: BlobRequest) -> bytes | None:
    """Holds nothing."""
    return None
