"""What a node answers on the DHT of all runs (--kad), what it keeps for it, and what that costs."""

import contextlib
import os
from collections.abc import Awaitable, Callable

import pytest
import trio
from libp2p.exceptions import BaseLibp2pError
from libp2p.kad_dht.common import PROTOCOL_ID
from libp2p.kad_dht.pb.kademlia_pb2 import Message
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.records.utils import InvalidRecordType
from libp2p.utils.varint import encode_varint_prefixed, read_varint_prefixed_bytes_limited
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from demo_node.mesh import bounds
from demo_node.mesh.kad import Providers
from demo_node.mesh.kad_frames import FRAME_BYTES_MAX, make_key
from demo_node.mesh.kad_host import PROTOCOL
from demo_node.mesh.peer_id import encode_peer_id, encode_peer_id_bytes
from demo_node.ports import Offence
from tests.mesh.dht import PRINTER, WORLD, ask, name, nodes, say, see_at
from tests.mesh.hosts import RUN, Host, on_uvloop


@on_uvloop
async def test_nobody_offers_it_unasked_and_then_by_a_name_of_our_own() -> None:
    for kad, names in ((False, set()), (True, {str(PROTOCOL)})):
        async with nodes(1, kad=kad) as (node,):
            offered = {str(protocol) for protocol in node.mesh._host.get_mux().get_protocols()}
            assert {protocol for protocol in offered if "kad" in protocol} == names
            assert str(PROTOCOL_ID) not in offered


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
