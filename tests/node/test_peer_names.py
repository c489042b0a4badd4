"""Peers whose addresses are names: where a name may lead, and when it is looked up again."""

import asyncio
from pathlib import Path

from demo_node.bootstrap import READ_AGAIN_S
from demo_node.mesh.peer_id import encode_peer_id
from tests.node.internet import Scene, address, at_work, on_virtual_time, peer


def named(host: str, number: int) -> str:
    return f"/dns4/{host}/tcp/4001/p2p/{encode_peer_id(peer(number))}"


@on_virtual_time
async def test_a_name_from_a_stranger_does_not_lead_to_our_neighbours(tmp_path: Path) -> None:
    public = f"/ip4/8.8.8.1/tcp/4001/p2p/{encode_peer_id(peer(1))}"
    trap, honest = named("trap.example", 2), named("honest.example", 3)
    scene = Scene(tmp_path, [public], [])
    scene.names.hosts = {"trap.example": ["192.0.2.2"], "honest.example": ["192.0.2.3", "9.9.9.3"]}
    reached = f"/ip4/9.9.9.3/tcp/4001/p2p/{encode_peer_id(peer(3))}"
    scene.net.up.update({public, address(2), address(3), reached})
    scene.net.tells[peer(1)] = [trap, honest]
    async with at_work(scene):
        await asyncio.sleep(30)
    assert {a for _, a in scene.net.dials} == {public, reached}
    assert set(scene.on_disk()) == {public, honest, reached}


@on_virtual_time
async def test_a_name_from_a_neighbour_or_the_operator_may_lead_home(tmp_path: Path) -> None:
    own, neighbours = named("nas.home", 1), named("den.home", 2)
    scene = Scene(tmp_path, [own], [])
    scene.names.hosts = {"nas.home": ["192.0.2.1"], "den.home": ["192.0.2.2"]}
    scene.net.up = {address(1), address(2)}
    scene.net.tells[peer(1)] = [neighbours]
    async with at_work(scene):
        await asyncio.sleep(30)
        assert scene.net.connected == {peer(1): address(1), peer(2): address(2)}


@on_virtual_time
async def test_a_name_that_was_met_is_trusted_no_more_after_a_restart(tmp_path: Path) -> None:
    """Its owner may have let it lead elsewhere since; the number it led to was met, too."""
    scene = Scene(tmp_path, [], [named("moved.example", 2), address(3)])
    scene.names.hosts = {"moved.example": ["192.0.2.2"]}
    scene.net.up = {address(2), address(3)}
    async with at_work(scene):
        await asyncio.sleep(30)
        assert scene.net.tried(address(2)) == 0
        assert scene.net.connected == {peer(3): address(3)}


@on_virtual_time
async def test_a_name_is_looked_up_again_for_each_dial(tmp_path: Path) -> None:
    scene = Scene(tmp_path, [named("home.example", 5)], [])
    scene.names.hosts = {"home.example": ["192.0.2.4"]}
    scene.net.up = {address(5)}
    async with at_work(scene):
        await asyncio.sleep(10)
        assert not scene.net.connected
        del scene.names.hosts["home.example"]
        await asyncio.sleep(60)
        assert "home.example: no such host" in scene.peering.explain()
        scene.names.hosts["home.example"] = ["192.0.2.4", "192.0.2.5"]
        await asyncio.sleep(61)
        assert scene.net.connected == {peer(5): address(5)}


@on_virtual_time
async def test_whom_a_list_names_is_dialled_and_the_list_read_again_when_nobody_answers(
    tmp_path: Path,
) -> None:
    scene = Scene(tmp_path, ["/dnsaddr/run.example"], [])
    assert scene.peering.knows_others
    assert await scene.peering.connect_named() == []
    assert scene.peering.explain() == "/dnsaddr/run.example: no TXT records"
    scene.names.lists = {"/dnsaddr/run.example": [address(1)]}
    await asyncio.sleep(5)
    assert await scene.peering.connect_named() == []
    assert "Connection refused" in scene.peering.explain()
    async with at_work(scene):
        await asyncio.sleep(READ_AGAIN_S / 2)
        scene.names.lists = {"/dnsaddr/run.example": [address(2)]}
        scene.net.up = {address(2)}
        await asyncio.sleep(READ_AGAIN_S)
        assert scene.net.connected == {peer(2): address(2)}
        read = len(scene.names.read)
        await asyncio.sleep(10 * READ_AGAIN_S)
        assert len(scene.names.read) == read, "who is connected asks nobody for names"
        assert read <= 4
