"""Peers that come and go are counted, and for how long they stay is known."""

from collections import Counter
from types import SimpleNamespace
from typing import Any, cast

from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID

from demo_node.mesh.contacts import Contacts
from demo_node.mesh.libp2p import Libp2pMesh
from demo_node.mesh.peer_id import encode_peer_id_bytes
from tests.mesh.hosts import TEST_S, Host, hosts, link, on_uvloop, seed
from tests.waiting import wait_until


def contacts(host: Host) -> Contacts:
    return host.mesh._contacts


@on_uvloop
async def test_each_peer_that_comes_and_goes_is_counted_once() -> None:
    async with hosts(2) as (a, b):
        await link((a, b))
        assert (contacts(a).came, contacts(a).went) == (1, 0)
        for turn in range(1, 4):
            c = Libp2pMesh(seed(9), guest=a.mesh._guest)
            await c.start()
            await c.connect(a.address)
            await c.stop()
            await wait_until(lambda turn=turn: contacts(a).went == turn)  # type: ignore[misc]
            assert contacts(a).came == 1 + turn
        assert [view.peer for view in a.mesh.peers()] == [b.mesh.peer]
        assert (contacts(b).came, contacts(b).went) == (1, 0)


@on_uvloop
async def test_a_second_connection_of_a_peer_is_no_second_peer() -> None:
    async with hosts(2) as (a, b):
        await link((b, a))  # both dial, so that none of the two connections is dropped
        twin = Libp2pMesh(seed(2), guest=a.mesh._guest)
        await twin.start()
        await twin.connect(a.address)
        connections = a.mesh._swarm.connections
        await wait_until(lambda: Counter(map(len, connections.values())) == {2: 1})
        await twin.stop()
        await wait_until(lambda: Counter(map(len, connections.values())) == {1: 1})
        # The notice of that end comes later, and before this one's.
        c = Libp2pMesh(seed(9), guest=a.mesh._guest)
        await c.start()
        await c.connect(a.address)
        await wait_until(lambda: contacts(a).lasted_s(c.peer) > 0)
        await c.stop()
        await wait_until(lambda: contacts(a).lasted_s(c.peer) == 0)
        assert (contacts(a).came, contacts(a).went) == (2, 1)
        assert [view.peer for view in a.mesh.peers()] == [b.mesh.peer]


@on_uvloop
async def test_how_long_a_peer_has_been_connected_is_known() -> None:
    async with hosts(2) as (a, b):
        await link((a, b))
        assert 0 <= contacts(a).lasted_s(b.mesh.peer) < TEST_S
        await wait_until(lambda: all(view.connected_s for view in a.mesh.peers()))
        await b.mesh.stop()
        await wait_until(lambda: contacts(a).lasted_s(b.mesh.peer) == 0)


class Notices:
    """A network that knows connections, and says of them what a test wants, when it wants."""

    def __init__(self) -> None:
        self.connections: list[Any] = []
        self.contacts = Contacts(cast(Swarm, self))

    def register_notifee(self, notifee: Contacts) -> None:
        """Told by hand."""

    def get_connections(self, peer_id: ID) -> list[Any]:
        return self.connections

    def add(self) -> Any:
        """A connection of the one peer."""
        peer_id = ID(encode_peer_id_bytes(bytes(32)))
        connection = SimpleNamespace(muxed_conn=SimpleNamespace(peer_id=peer_id), is_closed=False)
        self.connections.append(connection)
        return connection

    def counts(self) -> tuple[int, int]:
        return self.contacts.came, self.contacts.went


@on_uvloop
async def test_a_connection_that_ended_before_its_notice_came_and_went() -> None:
    net = Notices()
    short = net.add()
    short.is_closed = True
    await net.contacts.connected(cast(Swarm, net), short)
    assert net.counts() == (1, 1)
    await net.contacts.disconnected(cast(Swarm, net), short)
    assert net.counts() == (1, 1)


@on_uvloop
async def test_a_peer_that_is_back_before_the_notice_of_its_end_came_twice() -> None:
    net = Notices()
    first = net.add()
    await net.contacts.connected(cast(Swarm, net), first)
    first.is_closed = True
    again = net.add()
    await net.contacts.connected(cast(Swarm, net), again)
    assert net.counts() == (2, 1)
    await net.contacts.disconnected(cast(Swarm, net), first)
    assert net.counts() == (2, 1)
    again.is_closed = True
    await net.contacts.disconnected(cast(Swarm, net), again)
    assert net.counts() == (2, 2)
