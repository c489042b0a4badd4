"""Section 3 "Digest and eclipse": how networks are counted."""

import pytest

from demo_protocol.networks import compute_network

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
