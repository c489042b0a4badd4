"""IPv6, alone and beside IPv4 on one socket: connections stand, and are seen where they are."""

import asyncio

import pytest

from demo_node.mesh.libp2p import Libp2pMesh
from demo_node.ports import Topic
from demo_protocol.reach import DialBack
from tests.mesh.hosts import Host, guests, on_uvloop, seed
from tests.waiting import wait_until


@on_uvloop
@pytest.mark.parametrize(
    ("listen", "dialled", "seen"),
    [
        ("/ip6/::1", "/ip6/::1", "/ip6/::1"),
        ("/ip6/::", "/ip6/::1", "/ip6/::1"),
        ("/ip6/::", "/ip4/127.0.0.1", "/ip4/127.0.0.1"),
    ],
)
async def test_who_dials_is_let_in_and_seen(listen: str, dialled: str, seen: str) -> None:
    async with guests() as guest:
        a, b = (Host(Libp2pMesh(seed(n), [f"{listen}/tcp/0"], guest=guest)) for n in (1, 2))
        await asyncio.gather(a.mesh.start(), b.mesh.start())
        try:
            await asyncio.gather(a.join(), b.join())
            port = a.mesh.port()
            await b.mesh.connect(f"{dialled}/tcp/{port}/p2p/{a.address.rpartition('/')[2]}")
            await wait_until(lambda: b.mesh.mesh_peers(Topic.HEADERS) == 1)
            (view,) = a.mesh.peers()
            assert view.peer == b.mesh.peer
            assert view.address.startswith(f"{seen}/tcp/{b.mesh.port()}/")
            found = await a.mesh.dial_back(b.mesh.peer, b.mesh.port())
            assert found == DialBack(f"{seen}/tcp/{b.mesh.port()}", reached=True)
        finally:
            await asyncio.gather(a.mesh.stop(), b.mesh.stop())
