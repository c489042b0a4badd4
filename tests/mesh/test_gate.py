"""Who is let in, and where that ends: as many as may be, and not one more until one has left."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from demo_node.mesh import bounds
from demo_node.mesh.gate import Entry, Gate, find_household, find_network, is_shared
from demo_node.mesh.libp2p import Libp2pMesh
from demo_node.mesh.peer_id import encode_peer_id
from demo_node.ports import DialResult, Refusal, Unreachable
from tests.mesh.hosts import guests, hosts, on_uvloop, seed
from tests.waiting import wait_until

SHAKING, INSIDE = False, True


def admit(gate: Gate, host: str, count: int, is_welcome: bool = INSIDE) -> list[Entry]:
    """That many from there, all let in."""
    entries = []
    for _ in range(count):
        entry = gate.admit(host)
        assert entry is not None, gate.refused
        if is_welcome:
            entry.welcome()
        entries.append(entry)
    return entries


@pytest.mark.parametrize(
    ("host", "network", "household", "is_near"),
    [
        ("203.0.114.9", "203.0.114.0/24", "203.0.114.9/32", False),
        ("2a00:1:2:34ff::9", "2a00:1:2:3400::/56", "2a00:1:2:34ff::/64", False),
        ("::ffff:203.0.114.9", "203.0.114.0/24", "203.0.114.9/32", False),
        ("127.0.0.1", "127.0.0.0/24", "127.0.0.1/32", True),
        ("192.168.1.7", "192.168.1.0/24", "192.168.1.7/32", True),
        ("100.64.3.7", "100.64.3.0/24", "100.64.3.7/32", True),  # of a provider's NAT
        ("fe80::1%eth0", "fe80::/56", "fe80::/64", True),
        ("a-name", "a-name", "a-name", True),
    ],
)
def test_an_address_belongs_to_a_network(
    host: str, network: str, household: str, is_near: bool
) -> None:
    assert (find_network(host), find_household(host)) == (network, household)
    assert is_shared(host) is is_near


@pytest.mark.parametrize(
    ("one", "same", "other", "most"),
    [
        ("8.8.8.8", "8.8.8.9", "8.8.9.8", bounds.INBOUND_PER_NETWORK_MAX),
        ("2a00:1:2:3401::1", "2a00:1:2:34ff::1", "2a00:1:2:35::1", bounds.INBOUND_PER_NETWORK_MAX),
        ("10.1.2.3", "10.1.2.4", "10.1.3.3", bounds.INBOUND_PER_SHARED_NETWORK_MAX),
    ],
)
def test_a_network_has_so_many_places(one: str, same: str, other: str, most: int) -> None:
    gate = Gate()
    entries = admit(gate, one, most)
    assert gate.admit(same) is None
    assert gate.refused == {Refusal.NETWORK: 1}
    admit(gate, other, 1)
    entries[0].leave()
    admit(gate, same, 1)
    assert gate.admit(one) is None


def test_all_together_have_so_many_places() -> None:
    gate = Gate()
    entries = [e for n in range(7) for e in admit(gate, f"8.8.{n}.8", bounds.INBOUND_MAX // 7)]
    assert gate.admit("9.9.9.9") is None
    assert gate.refused == {Refusal.FULL: 1}
    entries[3].leave()
    admit(gate, "9.9.9.9", 1)


@pytest.mark.parametrize(
    ("host", "most"),
    [
        ("8.8.8.8", bounds.HANDSHAKES_PER_NETWORK_MAX),
        ("10.1.2.3", bounds.HANDSHAKES_PER_SHARED_NETWORK_MAX),
    ],
)
@pytest.mark.parametrize("end", [Entry.welcome, Entry.leave])
def test_a_network_has_so_many_handshakes(
    host: str, most: int, end: Callable[[Entry], None]
) -> None:
    gate = Gate()
    entries = admit(gate, host, most, SHAKING)
    assert gate.admit(host) is None
    assert gate.refused == {Refusal.HANDSHAKES: 1}
    admit(gate, "9.9.9.9", 1)
    end(entries[0])
    admit(gate, host, 1)


def test_all_together_have_so_many_handshakes() -> None:
    gate = Gate()
    for n in range(4):
        admit(gate, f"8.8.{n}.8", bounds.HANDSHAKES_MAX // 4, SHAKING)
    assert gate.admit("9.9.9.9") is None
    assert gate.refused == {Refusal.HANDSHAKES: 1}


def test_who_is_banned_does_not_come_in_and_takes_no_place() -> None:
    gate = Gate(lambda host: host == "8.8.8.8")
    assert gate.admit("8.8.8.8") is None
    assert gate.refused == {Refusal.BANNED: 1}
    admit(gate, "8.8.8.9", bounds.INBOUND_PER_NETWORK_MAX)


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["come", "welcome", "leave"]))))
def test_places_are_those_of_who_is_there(steps: list[tuple[int, str]]) -> None:
    gate, there = Gate(), list[tuple[str, Entry]]()
    shaking = set[Entry]()
    for number, step in steps:
        host = f"8.8.{number}.1"
        if step == "come":
            entry = gate.admit(host)
            assert entry is not None
            there.append((host, entry))
            shaking.add(entry)
        elif there:
            name, entry = there[number % len(there)]
            shaking.discard(entry)
            entry.welcome()
            if step == "leave":
                entry.leave()
                entry.leave()
                there.remove((name, entry))
        assert gate.inside.total() == len(there)
        assert gate.shaking.total() == len(shaking)
        assert min(gate.inside.values(), default=0) >= 0
    for _, entry in there:
        entry.leave()
    assert gate.inside.total() == gate.shaking.total() == 0


@contextlib.asynccontextmanager
async def narrow(**most: float) -> AsyncIterator[None]:
    """Other bounds than the real ones, which tests on sockets would be slow to reach."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in most.items():
            patch.setattr(bounds, name, value)
        yield


@on_uvloop
async def test_a_node_takes_so_many_peers_of_one_address_and_another_when_one_has_left() -> None:
    async with (
        narrow(INBOUND_PER_SHARED_NETWORK_MAX=3, INBOUND_GRACE_S=0.1),
        hosts(5, join=False) as (a, *others),
    ):
        for other in others[:3]:
            await other.mesh.connect(a.address)
        with pytest.raises(Unreachable):
            await others[3].mesh.connect(a.address)
        assert a.mesh.counters().refused == {Refusal.NETWORK: 1}
        assert len(a.mesh.peers()) == 3
        await others[0].mesh.stop()
        await wait_until(lambda: a.mesh._tcp.gate.inside.total() == 2)
        await others[3].mesh.connect(a.address)
        assert {p.peer for p in a.mesh.peers()} == {h.mesh.peer for h in others[1:]}


@on_uvloop
async def test_sockets_that_say_nothing_take_no_more_than_their_handshakes() -> None:
    async with (
        narrow(HANDSHAKES_PER_SHARED_NETWORK_MAX=4, INBOUND_GRACE_S=0.1),
        hosts(2, join=False) as (a, other),
    ):
        gate, port = a.mesh._tcp.gate, int(a.address.split("/")[4])
        with contextlib.ExitStack() as silent:
            for _ in range(9):
                silent.enter_context(socket.create_connection(("127.0.0.1", port)))
            await wait_until(lambda: gate.refused[Refusal.HANDSHAKES] == 5)
            assert gate.shaking.total() == 4
            with pytest.raises(Unreachable):
                await other.mesh.connect(a.address)
        await wait_until(lambda: not gate.shaking.total())
        await other.mesh.connect(a.address)
        assert gate.shaking.total() == 0  # it stands: its key is known
        assert gate.inside.total() == 1


@on_uvloop
async def test_so_many_addresses_are_dialled_at_once() -> None:
    under_way, most = 0, 0

    async def hang(*_: object) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        try:
            await trio.sleep_forever()
        finally:
            under_way -= 1

    async with narrow(DIALS_MAX=3, CONNECT_S=0.2), guests() as guest:
        mesh = Libp2pMesh(seed(1), guest=guest)
        await mesh.start()
        try:
            mesh._swarm.dial_addr = hang  # type: ignore[assignment,method-assign]
            names = [encode_peer_id(bytes([n]) * 32) for n in range(7)]
            dials = [mesh.connect(f"/ip4/127.0.0.1/tcp/1/p2p/{name}") for name in names]
            ended = await asyncio.gather(*dials, return_exceptions=True)
            assert all(isinstance(error, Unreachable) for error in ended)
            assert most == 3
            assert mesh.counters().dials == {DialResult.TIMED_OUT: 7}
        finally:
            await mesh.stop()


@on_uvloop
async def test_one_key_has_three_connections() -> None:
    """Of more than that, old ones end."""
    async with hosts(1, join=False) as (a,):
        guest = a.mesh._shared_guest
        most = bounds.CONNECTIONS_PER_PEER_MAX
        twins = [Libp2pMesh(seed(9), guest=guest) for _ in range(most + 2)]
        await asyncio.gather(*(twin.start() for twin in twins))

        def standing() -> int:
            live = [c for conns in a.mesh._swarm.connections.values() for c in conns]
            return sum(not c.is_closed for c in live)

        try:
            for twin in twins:
                with contextlib.suppress(Unreachable):
                    await twin.connect(a.address)
            await wait_until(lambda: standing() == most)
            assert len(a.mesh._tcp.open) <= most
        finally:
            await asyncio.gather(*(twin.stop() for twin in twins))
