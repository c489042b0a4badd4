"""The DHT of all runs (--kad): who is found by it, whom it has us dial, and what it may cost."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import trio
from libp2p.abc import INetStream
from libp2p.exceptions import BaseLibp2pError
from libp2p.kad_dht.common import PROTOCOL_ID
from libp2p.kad_dht.pb.kademlia_pb2 import Message
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.records.utils import InvalidRecordType
from libp2p.utils.varint import encode_varint_prefixed, read_varint_prefixed_bytes_limited
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from demo_node.mesh import bounds, kad_host
from demo_node.mesh.kad import Providers
from demo_node.mesh.kad_frames import (
    ADDRESSES_MAX,
    FRAME_BYTES_MAX,
    PEERS_MAX,
    make_key,
    take_reply,
)
from demo_node.mesh.kad_host import PROTOCOL
from demo_node.mesh.libp2p import Libp2pMesh
from demo_node.mesh.peer_id import encode_peer_id, encode_peer_id_bytes
from demo_node.ports import BlobRequest, Offence, Unreachable
from tests.mesh.hosts import RUN, Host, guests, on_uvloop, seed
from tests.waiting import wait_until

OTHER_RUN = bytes(32)
WORLD = "/ip4/8.8.8.8/tcp/4001"
PRINTER = "/ip4/192.168.1.9/tcp/631"


@contextlib.asynccontextmanager
async def nodes(count: int, *, kad: bool = True) -> AsyncIterator[list[Host]]:
    async with guests() as guest:
        made = [Host(Libp2pMesh(seed(i + 1), guest=guest, kad=kad)) for i in range(count)]
        await asyncio.gather(*(h.mesh.start() for h in made))
        try:
            yield made
        finally:
            await asyncio.gather(*(h.mesh.stop() for h in made))


def name(number: int) -> bytes:
    """A key that nobody has."""
    return number.to_bytes(32)


def say(key: bytes, *addresses: str) -> Message.Peer:
    """What a message of the DHT says of a peer."""
    where = [Multiaddr(address).to_bytes() for address in addresses]
    return Message.Peer(id=encode_peer_id_bytes(key), addrs=where)


def answer(node: Host, *peers: Message.Peer, raw: bytes | None = None) -> None:
    """Let a node say this, whatever it is asked of the DHT, instead of what is true."""

    async def reply(stream: INetStream) -> None:
        with contextlib.suppress(BaseLibp2pError):
            asked = Message.FromString(await read_varint_prefixed_bytes_limited(stream, 1 << 16))
            said = Message(type=asked.type, key=asked.key, closerPeers=peers, providerPeers=peers)
            frame = said.SerializeToString() if raw is None else raw
            await stream.write(encode_varint_prefixed(frame))

    node.mesh._host.set_stream_handler(PROTOCOL, reply)


def see_at(node: Host, address: str) -> None:
    """All that are connected to it are seen there."""
    node.mesh._places.address_of = (  # type: ignore[method-assign]
        lambda peer_id, connection: address
    )


def note_dials(node: Host) -> list[str]:
    """Where it dials from now on; nobody answers."""
    dialled: list[str] = []

    async def dial(where: str, peer: bytes) -> None:
        dialled.append(where)
        raise Unreachable(where)

    node.mesh._dial = dial  # type: ignore[method-assign]
    return dialled


async def ask(node: Host, to: Host, *messages: Message | bytes) -> list[Message]:
    """Say these on one stream; the answers, as many as there were before it ended."""
    answers: list[Message] = []

    async def talk() -> None:
        stream = await node.mesh._host.new_stream(to.mesh._host.get_id(), [PROTOCOL])
        with contextlib.suppress(BaseLibp2pError), trio.fail_after(20):
            for said in messages:
                raw = said if isinstance(said, bytes) else said.SerializeToString()
                await stream.write(encode_varint_prefixed(raw))
                reply = await read_varint_prefixed_bytes_limited(stream, 1 << 20)
                answers.append(Message.FromString(reply))
        await stream.reset()

    await node.mesh._guest.call(talk)
    return answers


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
async def test_nobody_offers_it_unasked_and_then_by_a_name_of_our_own() -> None:
    for kad, names in ((False, set()), (True, {str(PROTOCOL)})):
        async with nodes(1, kad=kad) as (node,):
            offered = {str(protocol) for protocol in node.mesh._host.get_mux().get_protocols()}
            assert {protocol for protocol in offered if "kad" in protocol} == names
            assert str(PROTOCOL_ID) not in offered


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


@pytest.mark.parametrize(
    "said",
    [
        Message(type=Message.PUT_VALUE, key=make_key(RUN), record={"key": make_key(RUN)}),
        Message(type=Message.GET_VALUE, key=make_key(RUN)),
        Message(type=Message.PING),
        Message(type=Message.GET_PROVIDERS, key=b"/other/" + bytes(32)),
        Message(type=Message.ADD_PROVIDER, key=b"/demo/" + bytes(31)),
        b"\xff" * 99,
        bytes(FRAME_BYTES_MAX + 1),
    ],
    ids=["put", "get", "ping", "foreign key", "short key", "garbage", "oversize"],
)
@on_uvloop
async def test_what_is_not_for_finding_members_is_refused(said: Message | bytes) -> None:
    async with nodes(2) as (evil, node):
        await evil.mesh.connect(node.address)
        assert await ask(evil, node, said) == []
        assert node.mesh.counters().offences[Offence.GARBAGE] == 1
        assert node.mesh._kad is not None
        assert node.mesh._kad.dht.get_value_store_size() == 0
        assert node.mesh.kad_counters().records == 0


@pytest.mark.parametrize("key", ["plain", "/other/x", "/demo/x"])
@on_uvloop
async def test_a_strict_validator_takes_no_value(key: str) -> None:
    async with nodes(1) as (node,):
        kad = node.mesh._kad
        assert kad is not None
        with pytest.raises((ValueError, InvalidRecordType)):
            await node.mesh._guest.call(kad.dht.put_value, key, b"x")


@on_uvloop
async def test_a_peer_speaks_for_itself_only_and_is_told_what_is_for_it() -> None:
    async with nodes(3) as (evil, good, node):
        await evil.mesh.connect(node.address)
        await good.mesh.connect(node.address)
        claim = [say(good.mesh.peer, WORLD), say(evil.mesh.peer, PRINTER, WORLD)]
        telling = Message(type=Message.ADD_PROVIDER, key=make_key(RUN), providerPeers=claim)
        asking = Message(type=Message.GET_PROVIDERS, key=make_key(RUN))
        _, told = await ask(evil, node, telling, asking)
        (provider,) = told.providerPeers
        assert provider.id == encode_peer_id_bytes(evil.mesh.peer)
        assert {str(Multiaddr(raw)) for raw in provider.addrs} == {PRINTER, WORLD}
        see_at(node, WORLD)
        (told,) = await ask(good, node, asking)
        assert [str(Multiaddr(raw)) for p in told.providerPeers for raw in p.addrs] == [WORLD]
        _, told = await ask(evil, node, telling, asking)
        assert [str(Multiaddr(raw)) for p in told.providerPeers for raw in p.addrs] == [WORLD]


@on_uvloop
async def test_a_peer_asks_on_so_many_streams_and_for_so_long() -> None:
    async with nodes(2) as (evil, node):
        await evil.mesh.connect(node.address)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(bounds, "KAD_SERVE_S", 3.0)
            asking = Message(type=Message.GET_PROVIDERS, key=make_key(RUN))
            peer_id = node.mesh._host.get_id()

            async def hold() -> list[bool]:
                """Whether each of three streams, all held open, got an answer."""
                streams, got = [], []
                for _ in range(bounds.KAD_STREAMS_PER_PEER_MAX + 1):
                    try:
                        stream = await evil.mesh._host.new_stream(peer_id, [PROTOCOL])
                        streams.append(stream)
                        await stream.write(encode_varint_prefixed(asking.SerializeToString()))
                        await read_varint_prefixed_bytes_limited(stream, 1 << 16)
                        got.append(True)
                    except BaseLibp2pError:
                        got.append(False)
                with trio.fail_after(20), contextlib.suppress(BaseLibp2pError):
                    while await streams[0].read(1):  # until it is reset, for it says nothing
                        pass
                return got

            got = await evil.mesh._guest.call(hold)
        assert got == [True] * bounds.KAD_STREAMS_PER_PEER_MAX + [False]
        assert len(await ask(evil, node, asking)) == 1, "later there is room again"


@on_uvloop
async def test_who_asks_without_end_waits() -> None:
    async with nodes(2) as (evil, node):
        await evil.mesh.connect(node.address)
        asking = Message(type=Message.GET_PROVIDERS, key=make_key(RUN))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(bounds, "KAD_MESSAGES_BURST", 4)
            patch.setattr(bounds, "KAD_MESSAGES_PER_S", 0.001)
            patch.setattr(bounds, "KAD_SERVE_S", 3.0)
            answers = await ask(evil, node, *[asking] * 9)
        assert len(answers) == 5  # the last one overdraws


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


async def in_trio(node: Host, work: Callable[[], Awaitable[None]]) -> None:
    """Run a part of the mesh, which has trio's clock."""
    await node.mesh._guest.call(work)


@on_uvloop
async def test_what_is_remembered_has_a_bound() -> None:
    async with nodes(1) as (node,):
        kad = node.mesh._kad
        assert kad is not None
        book, dht = kad.around.book, kad.dht

        async def hear() -> None:
            book.hear(name(1), [f"{WORLD}/p2p/{encode_peer_id(name(1))}"], met=True)
            for number in range(2, bounds.KAD_PEERS_MAX + 500):
                book.hear(name(number), [f"/ip4/8.8.8.8/tcp/{number}/p2p/x"] * 9)
                assert len(book) <= bounds.KAD_PEERS_MAX
            assert book.has_met(name(1)), "hearsay goes first"
            for number in range(1200):
                peer = os.urandom(32)
                place = f"/ip4/9.{number % 250}.{number // 250}.1/tcp/1"
                book.hear(peer, [f"{place}/p2p/{encode_peer_id(peer)}"], met=True)
                await dht.add_peer(ID(encode_peer_id_bytes(peer)))
            assert 100 < dht.get_routing_table_size() <= 20 * bounds.KAD_BUCKETS_MAX

        await in_trio(node, hear)


@on_uvloop
async def test_records_have_bounds_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "KAD_RECORDS_MAX", 300)
    async with nodes(1) as (node,):
        kad = node.mesh._kad
        assert kad is not None
        store = kad.dht.provider_store
        assert isinstance(store, Providers)
        far = {name(n): f"/ip4/{20 + n // 250}.{n % 250}.0.1/tcp/1" for n in range(1, 400)}
        near = {name(n): f"/ip4/8.8.{n % 250}.1/tcp/1" for n in range(1000, 1200)}
        where = {ID(encode_peer_id_bytes(key)): at for key, at in (far | near).items()}
        store._find_address = where.__getitem__

        def tell(run: int, key: bytes) -> bool:
            peer_id = ID(encode_peer_id_bytes(key))
            store.add_provider(make_key(name(run)), PeerInfo(peer_id, [Multiaddr(where[peer_id])]))
            return str(peer_id) in store.providers.get(make_key(name(run)), ())

        crowd, others = list(near), list(far)
        assert [tell(0, key) for key in crowd[:6]] == [True] * 5 + [False], "of a run and network"
        assert sum(tell(1 + n, crowd[n]) for n in range(199)) == 128 - 5, "of a network"
        assert [tell(900 + n, others[0]) for n in range(5)] == [True] * 4 + [False], "of a peer"
        assert sum(tell(7777, key) for key in others[10:50]) == 20, "of a run"
        assert not all([tell(2000 + n, key) for n, key in enumerate(others[50:])])
        assert store.size() == bounds.KAD_RECORDS_MAX
        assert len(store._networks) <= 2 * bounds.KAD_RECORDS_MAX
        for records in store.providers.values():
            for record in records.values():
                record.timestamp -= bounds.KAD_RECORD_S + 1
        assert tell(5, others[1])
        assert store.size() == 1


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
