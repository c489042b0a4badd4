"""Names in addresses: what they lead to, and what strangers may have us dial by one."""

import asyncio
import socket
from pathlib import Path

import dns.asyncresolver
import pytest

from demo_node.mesh import names
from demo_node.mesh.names import LISTED_MAX, PLACES_MAX, QUESTIONS_MAX, Names, NameUnknown
from demo_node.mesh.peer_id import encode_peer_id
from demo_node.peering import Peering
from demo_node.store.addresses import AddressBook
from demo_node.store.disk import FileDisk
from demo_node.system_clock import SystemClock
from tests.mesh.hosts import hosts, on_uvloop
from tests.mesh.name_server import name_server

A, B = encode_peer_id(bytes(32)), encode_peer_id(bytes([1]) * 32)
WORLD, HOME, HERE = "/ip4/8.8.8.8/tcp/1", "/ip4/192.168.1.2/tcp/1", "/ip4/127.0.0.1/tcp/1"


def lead(patch: pytest.MonkeyPatch, *numbers: str) -> None:
    """Let every host name lead to these."""

    async def look_up(self: Names, host: str, port: int, family: int) -> list[str]:
        return list(numbers)

    patch.setattr(Names, "look_up", look_up)


@pytest.mark.parametrize("family", ["dns", "dns4"])
@on_uvloop
async def test_a_host_may_be_named(family: str) -> None:
    places = await Names().find_places(f"/{family}/localhost/tcp/4001/p2p/{A}", None)
    assert f"/ip4/127.0.0.1/tcp/4001/p2p/{A}" in places


@on_uvloop
async def test_a_number_stays_what_it_is() -> None:
    address = f"/ip4/192.168.1.2/tcp/4001/p2p/{A}"
    assert await Names().find_places(address, WORLD) == [address]


@on_uvloop
async def test_a_host_that_is_not_there_is_one_line() -> None:
    for host in ("no.such.host.invalid", "a" * 70 + ".example.org"):
        with pytest.raises(NameUnknown, match=f"^{host}: no such host") as raised:
            await Names().find_places(f"/dns4/{host}/tcp/1/p2p/{A}", None)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("seen_at", "allowed"),
    [
        (None, ["127.0.0.1", "192.168.1.9", "8.8.4.4"]),
        (HERE, ["127.0.0.1", "192.168.1.9", "8.8.4.4"]),
        (HOME, ["192.168.1.9", "8.8.4.4"]),
        (WORLD, ["8.8.4.4"]),
        ("", ["8.8.4.4"]),
    ],
)
def test_a_name_leads_where_who_told_of_it_may_have_us_dial(
    seen_at: str | None, allowed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lead(monkeypatch, "127.0.0.1", "192.168.1.9", "8.8.4.4")
    places = asyncio.run(Names().find_places(f"/dns4/x.example/tcp/7/p2p/{A}", seen_at))
    assert places == [f"/ip4/{host}/tcp/7/p2p/{A}" for host in allowed]


@pytest.mark.parametrize(
    "number", ["10.1.2.3", "::1", "fd00::1", "169.254.169.254", "::ffff:10.0.0.1"]
)
def test_a_name_that_leads_to_private_places_only_is_refused(
    number: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lead(monkeypatch, number)
    with pytest.raises(NameUnknown, match="leads to a private address"):
        asyncio.run(Names().find_places(f"/dns/x.example/tcp/7/p2p/{A}", WORLD))


def test_a_name_with_hundreds_of_numbers_is_dialled_at_a_few(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lead(monkeypatch, *(f"8.8.8.{n}" for n in range(200)))
    places = asyncio.run(Names().find_places(f"/dns4/x.example/tcp/7/p2p/{A}", WORLD))
    assert len(places) == PLACES_MAX


@on_uvloop
async def test_a_list_names_peers_and_other_lists() -> None:
    first, second = f"/ip4/192.0.2.1/tcp/1/p2p/{A}", f"/dns4/b.example/tcp/2/p2p/{B}"
    records = {
        "_dnsaddr.run.example": [
            "dnsaddr=/dnsaddr/more.example",
            f"dnsaddr={first}",
            f"dnsaddr=/ip4/192.0.2.1/udp/1/quic-v1/p2p/{A}",
            "dnsaddr=/ip4/192.0.2.1/tcp/1/p2p/QmFoo",
            "v=spf1 -all",
        ],
        "_dnsaddr.more.example": [f"dnsaddr={second}"],
    }
    async with name_server(records) as (_, resolver):
        reader = Names(resolver)
        assert await reader.read_list("/dnsaddr/run.example") == [first, second]
        assert await reader.read_list(f"/dnsaddr/run.example/p2p/{B}") == [second]


@on_uvloop
async def test_lists_in_a_circle_or_without_end_are_left() -> None:
    endless = {f"_dnsaddr.{n}.example": [f"dnsaddr=/dnsaddr/{n + 1}.example"] for n in range(1000)}
    circle = {"_dnsaddr.a.example": ["dnsaddr=/dnsaddr/a.example", "dnsaddr=/dnsaddr/a.example"]}
    async with name_server(endless | circle) as (server, resolver):
        for host in ("0.example", "a.example"):
            server.asked.clear()
            with pytest.raises(NameUnknown, match="name no peer that can be dialled"):
                await Names(resolver).read_list(f"/dnsaddr/{host}")
            assert len(server.asked) == QUESTIONS_MAX


@on_uvloop
async def test_of_a_long_list_the_first_are_taken() -> None:
    lines = [f"dnsaddr=/ip4/192.0.2.1/tcp/{port}/p2p/{A}" for port in range(1, 300)]
    async with name_server({"_dnsaddr.run.example": lines}) as (_, resolver):
        assert len(await Names(resolver).read_list("/dnsaddr/run.example")) == LISTED_MAX


@on_uvloop
async def test_a_list_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    async with name_server({"_dnsaddr.a.example": ["dnsaddr=/dnsaddr/gone.example"]}) as (
        _,
        resolver,
    ):
        with pytest.raises(NameUnknown, match=r"^/dnsaddr/b\.example: no TXT records") as raised:
            await Names(resolver).read_list("/dnsaddr/b.example")
        assert "\n" not in str(raised.value)
        with pytest.raises(NameUnknown, match="name no peer"):
            await Names(resolver).read_list("/dnsaddr/a.example")
    monkeypatch.setattr(names, "LOOKUP_S", 0.3)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        resolver = dns.asyncresolver.Resolver(configure=False)
        resolver.nameservers, resolver.port = ["127.0.0.1"], silent.getsockname()[1]
        with pytest.raises(NameUnknown, match="no TXT records"):
            await Names(resolver).read_list("/dnsaddr/b.example")


@on_uvloop
async def test_a_node_that_was_given_a_list_is_connected(tmp_path: Path) -> None:
    async with hosts(2) as (a, b):
        records = {"_dnsaddr.run.example": [f"dnsaddr={b.address}"]}
        async with name_server(records) as (_, resolver):
            book = AddressBook(FileDisk(), tmp_path / "peers.json")
            peering = Peering(
                a.mesh,
                SystemClock(),
                named=["/dnsaddr/run.example"],
                book=book,
                names=Names(resolver),
            )
            assert await peering.connect_named() == [b.mesh.peer]
            assert book.newest() == [b.address]
