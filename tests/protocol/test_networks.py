"""Section 3 "Digest and eclipse": how networks are counted."""

import pytest

from demo_protocol.networks import compute_network, is_for

ALICE, BOB = b"a" * 32, b"b" * 32


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("/ip4/8.8.8.8/tcp/4001", "/ip4/8.8.200.1/tcp/9", True),
        ("/ip4/8.8.8.8/tcp/4001", "/ip4/8.9.8.8/tcp/4001", False),
        ("/ip6/2a00:1450:4001::1/tcp/1", "/ip6/2a00:1450:5::9/tcp/1", True),
        ("/ip6/2a00:1450::1/tcp/1", "/ip6/2a00:1451::1/tcp/1", False),
        ("/ip6/::ffff:8.8.8.8/tcp/1", "/ip4/8.8.1.1/tcp/1", True),
        ("/ip4/127.0.0.1/tcp/1", "/ip4/127.0.0.1/tcp/2", False),
        ("/ip4/192.168.1.2/tcp/1", "/ip4/192.168.1.2/tcp/1", False),
        ("/ip6/::1/tcp/1", "/ip6/::1/tcp/1", False),
        ("/ip6/fe80::1%eth0/tcp/1", "/ip6/fe80::1%eth0/tcp/1", False),
        ("/dns4/a.example/tcp/1", "/dns/b.example/tcp/1", True),
        ("/memory/x", "/memory/x", False),
        ("", "", False),
    ],
)
def test_two_peers_are_in_one_network_or_in_two(one: str, other: str, is_same: bool) -> None:
    assert (compute_network(one, ALICE) == compute_network(other, BOB)) is is_same


def test_a_peer_on_a_private_address_is_one_network_however_often_it_is_counted() -> None:
    assert compute_network("/ip4/10.0.0.1/tcp/1", ALICE) == compute_network("", ALICE)


HERE, HOME, WORLD = "/ip4/127.0.0.1/tcp/1", "/ip4/192.168.1.2/tcp/1", "/ip4/8.8.8.8/tcp/1"


@pytest.mark.parametrize(
    ("address", "to_here", "to_home", "to_world"),
    [
        (HERE, True, False, False),
        ("/ip6/::1/tcp/1", True, False, False),
        ("/ip4/0.0.0.0/tcp/1", True, False, False),
        (HOME, True, True, False),
        ("/ip4/100.64.0.9/tcp/1", True, True, False),
        ("/ip6/fd00::9/tcp/1", True, True, False),
        ("/ip6/fe80::1%eth0/tcp/1", True, True, False),
        ("/ip6/::ffff:10.0.0.1/tcp/1", True, True, False),
        (WORLD, True, True, True),
        ("/ip6/2a00:1450::1/tcp/1", True, True, True),
        ("/dns4/node.example.org/tcp/1", True, True, True),
        ("/memory/x", True, True, True),
        (f"{HERE}/p2p/relay/p2p-circuit", True, False, False),
        (f"{HOME}/p2p/relay/p2p-circuit", True, True, False),
        (f"{WORLD}/p2p/relay/p2p-circuit", True, True, True),
    ],
)
def test_whom_an_address_is_for(address: str, to_here: bool, to_home: bool, to_world: bool) -> None:
    assert [is_for(address, seen_at) for seen_at in (HERE, HOME, WORLD)] == [
        to_here,
        to_home,
        to_world,
    ]


def test_who_comes_by_a_relay_next_door_may_be_far_away() -> None:
    seen_at = f"{HOME}/p2p/relay/p2p-circuit/p2p/peer"
    assert not is_for(HOME, seen_at)
    assert is_for(WORLD, seen_at)


def test_keys_behind_one_relay_are_one_network_with_it() -> None:
    behind = f"{WORLD}/p2p/relay/p2p-circuit/p2p/"
    networks = {compute_network(behind + name, name.encode()) for name in ("alice", "bob")}
    assert networks == {compute_network(WORLD, ALICE)}


def test_who_is_seen_nowhere_is_told_what_everybody_may_know() -> None:
    assert not is_for(HOME, "")
    assert is_for(WORLD, "")
