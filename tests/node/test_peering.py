"""Whom a node dials, how often, and what it remembers of it: on virtual time."""

import asyncio
import itertools
from pathlib import Path

from demo_node.mesh.peer_id import encode_peer_id
from demo_node.peering import ENOUGH_DIRECT, FAILURES_MAX, HEAD_START_S, SAVE_S, SAVE_TIMES_S
from tests.node.internet import (
    BLACK_HOLE_S,
    ME,
    Scene,
    address,
    at_work,
    by_relay,
    on_virtual_time,
    peer,
)


@on_virtual_time
async def test_a_dead_bootstrap_peer_does_not_keep_a_node_from_whom_it_met(tmp_path: Path) -> None:
    scene = Scene(tmp_path, [address(1)], [address(n) for n in range(2, 6)])
    scene.net.holes = {address(1), address(2)}
    scene.net.up = {address(n) for n in range(3, 6)}

    async with at_work(scene):
        await asyncio.sleep(1)
        assert scene.net.connected.keys() == {peer(n) for n in range(3, 6)}


@on_virtual_time
async def test_before_a_run_is_known_the_named_are_asked_then_those_met_before(
    tmp_path: Path,
) -> None:
    scene = Scene(tmp_path, [address(1), address(2)], [address(3)])
    scene.net.up = {address(3)}

    assert await scene.peering.connect_named() == [peer(3)]
    scene.net.up.add(address(2))
    assert await scene.peering.connect_named() == [peer(2)]


@on_virtual_time
async def test_the_first_answer_is_enough_to_begin_with(tmp_path: Path) -> None:
    scene = Scene(tmp_path, [address(1), address(2)], [address(3), address(4)])
    scene.net.holes = {address(1), address(3)}
    scene.net.up = {address(2), address(4)}
    loop = asyncio.get_running_loop()
    begin_s = loop.time()
    assert await scene.peering.connect_named() == [peer(2)]
    assert loop.time() - begin_s < 1
    scene.net.up.discard(address(2))
    scene.net.holes.add(address(2))
    begin_s = loop.time()
    assert await scene.peering.connect_named() == [peer(4)]
    assert loop.time() - begin_s < HEAD_START_S + 1
    scene.net.holes.add(address(4))
    assert await scene.peering.connect_named() == []
    assert len(asyncio.all_tasks()) == 1


@on_virtual_time
async def test_why_nobody_answered_is_said_of_each_named_address(tmp_path: Path) -> None:
    scene = Scene(tmp_path, [address(1), address(2)], [])
    scene.net.holes = {address(2)}
    await scene.peering.connect_named()
    assert scene.peering.explain() == (
        f"{address(1)}: Connection refused; {address(2)} did not answer in 15 s"
    )


@on_virtual_time
async def test_a_peer_that_was_down_for_five_seconds_is_dialled_again_within_five(
    tmp_path: Path,
) -> None:
    scene = Scene(tmp_path, [address(1)], [])
    scene.net.up = {address(1)}

    async with at_work(scene):
        await asyncio.sleep(60)
        scene.net.drop(1)
        await asyncio.sleep(5)
        scene.net.up = {address(1)}
        await asyncio.sleep(5)
        assert scene.net.connected


@on_virtual_time
async def test_a_peer_that_answers_again_begins_with_short_pauses_again(tmp_path: Path) -> None:
    scene = Scene(tmp_path, [address(1)], [])

    async with at_work(scene):
        await asyncio.sleep(600)
        scene.net.up = {address(1)}
        await asyncio.sleep(65)
        assert scene.net.connected
        tried = scene.net.tried(address(1))
        scene.net.drop(1)
        await asyncio.sleep(20)
        assert scene.net.tried(address(1)) - tried >= 4


@on_virtual_time
async def test_each_peer_is_dialled_at_one_address_at_a_time_and_at_all_in_turn(
    tmp_path: Path,
) -> None:
    ports = [address(1, port) for port in (1, 2, 3)]
    scene = Scene(tmp_path, [], ports)
    scene.net.holes = {ports[0], ports[1]}
    scene.net.up = {ports[2]}

    async with at_work(scene):
        await asyncio.sleep(BLACK_HOLE_S - 1)
        assert [a for _, a in scene.net.dials] == [ports[0]]
        await asyncio.sleep(2 * BLACK_HOLE_S)
        assert scene.net.connected == {peer(1): ports[2]}


@on_virtual_time
async def test_nobody_is_dialled_by_a_relay_before_it_was_without(tmp_path: Path) -> None:
    scene = Scene(tmp_path, [by_relay(1)], [address(1)])
    scene.net.up = {by_relay(1)}

    async with at_work(scene):
        await asyncio.sleep(0.1)
        assert [a for _, a in scene.net.dials] == [address(1)]
        await asyncio.sleep(2)
        assert scene.net.connected == {peer(1): by_relay(1)}
        dials = scene.net.tried(by_relay(1))
        scene.net.up.add(address(1))  # the router forwards the port now
        await asyncio.sleep(70)
        assert scene.net.connected == {peer(1): address(1)}
        assert scene.net.tried(by_relay(1)) == dials == 1


@on_virtual_time
async def test_with_peers_enough_nobody_is_dialled_by_a_relay(tmp_path: Path) -> None:
    direct = [address(n) for n in range(1, 1 + ENOUGH_DIRECT)]
    hidden = [by_relay(n) for n in range(20, 24)]
    scene = Scene(tmp_path, hidden, direct)
    scene.net.up = {*direct, *hidden}

    async with at_work(scene):
        await asyncio.sleep(5)
        dialled = len(scene.net.connected)
        for number in range(20, 24):
            scene.net.connected.pop(peer(number), None)
        before = [scene.net.tried(a) for a in hidden]
        assert dialled > ENOUGH_DIRECT - 1
        await asyncio.sleep(60)
        assert [scene.net.tried(a) for a in hidden] == before
        for number in range(1, 1 + ENOUGH_DIRECT):
            scene.net.drop(number)
        scene.net.up = set(hidden)
        await asyncio.sleep(10)
        assert set(scene.net.connected) == {peer(n) for n in range(20, 24)}


@on_virtual_time
async def test_hearsay_that_never_answers_is_forgotten_what_was_named_or_met_is_not(
    tmp_path: Path,
) -> None:
    scene = Scene(tmp_path, [address(1)], [address(2)])
    scene.net.up = {address(9)}
    scene.book.add(address(9), 2000)
    scene.peering._consider(address(9))
    scene.net.tells = {peer(9): [address(3)]}

    async with at_work(scene):
        await asyncio.sleep(30)
        scene.net.tells = {}
        await asyncio.sleep(3600)
        assert scene.net.tried(address(3)) == FAILURES_MAX
        before = scene.net.tried(address(1)), scene.net.tried(address(2))
        assert address(3) not in scene.peering._candidates
        await asyncio.sleep(600)
        assert scene.net.tried(address(1)) > before[0]
        assert scene.net.tried(address(2)) > before[1]
        assert address(3) not in scene.on_disk()  # nobody answered there


@on_virtual_time
async def test_a_killed_node_has_saved_whom_it_met(tmp_path: Path) -> None:
    scene = Scene(tmp_path, [address(1)], [])
    scene.net.up = {address(1), address(2)}
    scene.net.tells = {peer(1): [address(2), address(3)]}

    async with at_work(scene):
        await asyncio.sleep(2 * SAVE_S)
        assert set(scene.on_disk()) == {address(1), address(2)}


@on_virtual_time
async def test_the_book_is_written_at_a_pace(tmp_path: Path) -> None:
    scene = Scene(tmp_path, [address(1)], [])
    scene.net.up = {address(n) for n in range(1, 12)}
    scene.net.tells = {peer(1): [address(1)]}
    saves: list[float] = []
    save = scene.book.save

    def counted() -> None:
        saves.append(asyncio.get_event_loop().time())
        save()

    scene.book.save = counted  # type: ignore[method-assign]

    async with at_work(scene):
        for n in range(2, 10):  # somebody new every three seconds
            scene.net.tells[peer(1)].append(address(n))
            await asyncio.sleep(3)
        assert 2 <= len(saves) <= 4
        assert all(b - a >= SAVE_S for a, b in itertools.pairwise(saves))
        await asyncio.sleep(3 * SAVE_S)
        settled = len(saves)
        await asyncio.sleep(SAVE_TIMES_S * 1.5)  # the times change, the addresses do not
        assert len(saves) - settled <= 2


@on_virtual_time
async def test_our_own_address_is_not_dialled(tmp_path: Path) -> None:
    own = f"/ip4/192.0.2.77/tcp/4001/p2p/{encode_peer_id(ME)}"
    scene = Scene(tmp_path, [own], [])
    assert not scene.peering.knows_others

    async with at_work(scene):
        await asyncio.sleep(30)
        assert not scene.net.dials


@on_virtual_time
async def test_how_many_addresses_there_are_to_dial_is_known(tmp_path: Path) -> None:
    scene = Scene(tmp_path, [address(1)], [address(2), address(1)])
    scene.net.up = {address(1)}
    scene.net.tells = {peer(1): [address(n) for n in range(1, 6)]}
    assert [(f.name, f.value) for f in scene.peering.figures()] == [("demo_peers_known", 2)]

    async with at_work(scene):
        await asyncio.sleep(1)
        assert [f.value for f in scene.peering.figures()] == [5]


@on_virtual_time
async def test_rule_22_peers_that_may_still_be_heard_are_counted(tmp_path: Path) -> None:
    scene = Scene(tmp_path, named=[address(1)], met=[])
    scene.net.up = {address(1), address(2)}
    scene.net.tells = {peer(1): [address(2), address(3)], peer(2): []}
    assert scene.peering.count_known() == 1
    await scene.peering.connect_named()
    assert scene.peering.count_known() == 2, "the one that was named may know others"
    async with at_work(scene):
        await asyncio.sleep(0.5)
        assert scene.peering.count_known() >= 3
        await asyncio.sleep(10)
        assert scene.net.tried(address(3)) >= 2
        assert scene.peering.count_known() == 2, "the third was tried in vain"


@on_virtual_time
async def test_nobody_on_the_internet_has_us_dial_our_neighbours(tmp_path: Path) -> None:
    public = f"/ip4/8.8.8.1/tcp/4001/p2p/{encode_peer_id(peer(1))}"
    neighbour, honest = address(2), f"/ip4/9.9.9.3/tcp/4001/p2p/{encode_peer_id(peer(3))}"
    scene = Scene(tmp_path, [public], [])
    scene.net.up.update({public, neighbour, honest})
    scene.net.tells[peer(1)] = [neighbour, honest]
    async with at_work(scene):
        await asyncio.sleep(10)
    assert scene.net.tried(neighbour) == 0
    assert scene.net.tried(honest) == 1


@on_virtual_time
async def test_nodes_of_another_run_take_no_place_and_name_nobody(tmp_path: Path) -> None:
    scene = Scene(tmp_path, [address(n) for n in range(1, 13)], [])
    scene.net.up = {address(n) for n in range(1, 20)}
    scene.net.elsewhere = {peer(n) for n in range(1, 13)}
    scene.net.tells = {peer(1): [address(17)], peer(13): [address(18)]}
    async with at_work(scene):
        await asyncio.sleep(5)
        assert len(scene.net.connected) == 12
        assert scene.peering.count_known() == 0
        scene.peering.hear(address(13))
        await asyncio.sleep(5)
        assert scene.net.connected.keys() >= {peer(13), peer(18)}
        assert scene.net.tried(address(17)) == 0


@on_virtual_time
async def test_who_was_only_heard_of_is_dialled_when_asked_for(tmp_path: Path) -> None:
    scene = Scene(tmp_path, [address(1)], [])
    scene.net.up = {address(1), address(2)}
    assert await scene.peering.connect_named() == [peer(1)]
    assert await scene.peering.connect_heard() == []
    scene.peering.hear(address(2))
    scene.peering.hear(address(3))
    assert await scene.peering.connect_heard() == [peer(2)]
