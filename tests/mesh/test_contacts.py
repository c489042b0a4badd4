"""Peers that come and go are counted, and for how long they stay is known."""

from collections import Counter

from demo_node.mesh.contacts import Contacts
from demo_node.mesh.libp2p import Libp2pMesh
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
        await link((a, b))
        twin = Libp2pMesh(seed(2), guest=a.mesh._guest)
        await twin.start()
        await twin.connect(a.address)
        connections = a.mesh._swarm.connections
        await wait_until(lambda: Counter(map(len, connections.values())) == {2: 1})
        await twin.stop()
        await wait_until(lambda: Counter(map(len, connections.values())) == {1: 1})
        assert (contacts(a).came, contacts(a).went) == (1, 0)
        assert [view.peer for view in a.mesh.peers()] == [b.mesh.peer]


@on_uvloop
async def test_how_long_a_peer_has_been_connected_is_known() -> None:
    async with hosts(2) as (a, b):
        await link((a, b))
        assert 0 <= contacts(a).lasted_s(b.mesh.peer) < TEST_S
        await wait_until(lambda: all(view.connected_s for view in a.mesh.peers()))
        await b.mesh.stop()
        await wait_until(lambda: contacts(a).lasted_s(b.mesh.peer) == 0)
