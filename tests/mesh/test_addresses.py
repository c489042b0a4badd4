import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo_node.mesh.addresses import (
    decode_address,
    expand_address,
    hold_port,
    split_address,
    split_circuit,
)
from demo_node.mesh.libp2p import Libp2pMesh
from demo_node.mesh.peer_id import encode_peer_id
from demo_protocol.errors import ConfigError
from tests.mesh.hosts import hosts, on_uvloop, seed
from tests.waiting import wait_until

NAME = encode_peer_id(bytes(32))
OTHER = encode_peer_id(bytes([1]) * 32)


@pytest.mark.parametrize("host", ["ip4/10.0.0.1", "ip6/::1", "dns/example.org", "dns4/a.b"])
def test_a_full_address_is_taken_apart(host: str) -> None:
    assert decode_address(f"/{host}/tcp/4001/p2p/{NAME}") == (f"/{host}/tcp/4001", bytes(32))


@pytest.mark.parametrize("host", ["ip4/10.0.0.1", "ip6/::1", "dns4/a.b"])
def test_an_address_by_way_of_a_relay_names_both_keys(host: str) -> None:
    relay = f"/{host}/tcp/4001/p2p/{OTHER}"
    where, peer = decode_address(f"{relay}/p2p-circuit/p2p/{NAME}")
    assert (where, peer) == (f"{relay}/p2p-circuit", bytes(32))
    assert split_circuit(where) == (f"/{host}/tcp/4001", bytes([1]) * 32)
    assert split_circuit(decode_address(relay)[0]) is None


@pytest.mark.parametrize(
    "address",
    [
        "",
        "/ip4/10.0.0.1/tcp/4001",
        f"/ip4/10.0.0.1/udp/4001/p2p/{NAME}",
        f"/ip4/10.0.0.1/tcp/0/p2p/{NAME}",
        f"/ip4/10.0.0.1/tcp/65536/p2p/{NAME}",
        f"/ip4/10.0.0.1/tcp/-1/p2p/{NAME}",
        f"/ip4//tcp/4001/p2p/{NAME}",
        f"/unix/x/tcp/4001/p2p/{NAME}",
        f"/ip4/10.0.0.1/tcp/4001/p2p/{NAME}/p2p-circuit",
        "/ip4/10.0.0.1/tcp/4001/p2p/12D3KooW",
        f"/dns/{'a' * 300}/tcp/4001/p2p/{NAME}",
        f"/ip4/10.0.0.1/tcp/4001/p2p-circuit/p2p/{NAME}",
        f"/p2p/{OTHER}/p2p-circuit/p2p/{NAME}",
        f"/ip4/10.0.0.1/tcp/4001/p2p/{NAME}/p2p-circuit/p2p/{NAME}",
        f"/ip4/10.0.0.1/tcp/4001/p2p/{OTHER}/p2p-circuit/p2p/{NAME}/p2p-circuit",
        f"/ip4/10.0.0.1/tcp/4001/p2p/{OTHER}/p2p-circuit/p2p/{OTHER}/p2p-circuit/p2p/{NAME}",
        f"/ip4/10.0.0.1/tcp/4001/p2p/{OTHER}/p2p-circuit/tcp/1/p2p/{NAME}",
    ],
)
def test_anything_else_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        decode_address(address)


@pytest.mark.parametrize(
    ("address", "advice"),
    [
        (f"/ip4/localhost/tcp/4001/p2p/{NAME}", "'localhost' is no IP address.*after /dns4/"),
        (f"/ip4/10.0.0.1/tcp/4001/p2p/{NAME[:-3]}", "is no peer id; copy the whole line"),
        (f"/ip4/10.0.0.1/tcp/4001/p2p/{NAME[:-1]}0", "is no peer id; copy the whole line"),
        ("/ip4/10.0.0.1/tcp/4001", "is not like /ip4/<host>/tcp/<port>/p2p/<peer id>"),
        (f"/ip4/10.0.0.1/tcp/99999/p2p/{NAME}", "has no valid port"),
    ],
)
def test_a_slip_is_named_with_what_to_do(address: str, advice: str) -> None:
    with pytest.raises(ValueError, match=advice):
        decode_address(address)


@given(st.text(max_size=300))
def test_garbage_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        decode_address(address)


def test_addresses_to_listen_on() -> None:
    assert split_address("/ip4/0.0.0.0/tcp/4001") == ("0.0.0.0", 4001)
    assert split_address("/ip6/::/tcp/0") == ("::", 0)


@pytest.mark.parametrize(
    "address", ["4001", "/ip4/0.0.0.0/tcp/x", "/ip4/0.0.0.0/tcp/65536", "/dns/a/tcp/1", "/ip4/1/2"]
)
def test_an_address_to_listen_on_that_is_none_names_a_good_one(address: str) -> None:
    with pytest.raises(ConfigError, match=r"write /ip4/0\.0\.0\.0/tcp/4001"):
        split_address(address)


def test_a_port_that_is_held_is_for_libp2p_alone() -> None:
    address, held = hold_port("/ip4/127.0.0.1/tcp/0")
    where = split_address(address)
    with held, socket.socket() as library, socket.socket() as another:
        with pytest.raises(OSError, match="in use"):
            another.bind(where)
        library.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        library.bind(where)
        library.listen()
        for _ in range(20):  # none of them goes to who only holds it
            socket.create_connection(where, 5).close()
            library.accept()[0].close()
        with pytest.raises(ConfigError, match=f"cannot listen on port {where[1]}"):
            hold_port(address)


def test_a_wildcard_becomes_hosts_others_can_dial() -> None:
    assert expand_address("/ip4/10.0.0.1/tcp/4001") == ["/ip4/10.0.0.1/tcp/4001"]
    found = expand_address("/ip4/0.0.0.0/tcp/4001")
    assert found[-1] == "/ip4/127.0.0.1/tcp/4001"
    assert not any("0.0.0.0" in address for address in found)
    assert expand_address("/ip6/::/tcp/4001")[-1] == "/ip6/::1/tcp/4001"


@on_uvloop
async def test_peers_are_told_what_is_announced_and_not_where_we_listen() -> None:
    """A forwarded port: the host that others see, and a port that nobody listens on here."""
    announced = ("/dns4/node.example.org/tcp/4001", "/ip4/127.0.0.1/tcp/4002")
    async with hosts(1) as (a,):
        b = Libp2pMesh(seed(9), ["/ip4/127.0.0.1/tcp/0"], announce=announced, guest=a.mesh._guest)
        await b.start()
        try:
            name = encode_peer_id(b.peer)
            assert b.addresses() == [f"{address}/p2p/{name}" for address in announced]
            await b.connect(a.address)
            expected = f"/ip4/127.0.0.1/tcp/4002/p2p/{name}"
            await wait_until(lambda: [p.address for p in a.mesh.peers()] == [expected])
        finally:
            await b.stop()
