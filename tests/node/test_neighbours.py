"""Peers on one LAN: what is told there, what is believed, and that it works over sockets."""

import asyncio
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo_node import neighbours
from demo_node.mesh.peer_id import encode_peer_id
from demo_node.neighbours import (
    TEXT_BYTES_MAX,
    TOLD_MAX,
    Neighbours,
    compute_service,
    decode_text,
    encode_text,
    find_private_hosts,
)
from tests.mesh.hosts import on_uvloop
from tests.waiting import wait_until

A, B, C = (encode_peer_id(bytes([n]) * 32) for n in range(3))
RUN = bytes(range(32))


def home(number: int, peer: str = A) -> str:
    return f"/ip4/192.168.1.{number}/tcp/4001/p2p/{peer}"


def test_a_service_is_of_one_run_and_does_not_name_it() -> None:
    service = compute_service(RUN)
    names = {service, compute_service(bytes(32)), compute_service(RUN, bytes(32))}
    assert len(names) == 3
    assert RUN.hex()[:8] not in service
    assert len(service.split(".")[0]) <= 16


@pytest.mark.parametrize(
    ("listening", "hosts"),
    [
        (["/ip4/0.0.0.0/tcp/4001"], {"192.168.1.2": 4001, "10.0.0.7": 4001}),
        (["/ip4/10.0.0.7/tcp/5"], {"10.0.0.7": 5}),
        (["/ip4/127.0.0.1/tcp/5"], {}),
        (["/ip4/8.8.8.8/tcp/5"], {}),
        (["/ip4/192.168.99.99/tcp/5"], {}),
        (["/ip6/::/tcp/5"], {}),
        ([], {}),
    ],
)
def test_only_private_networks_are_told(listening: list[str], hosts: dict[str, int]) -> None:
    own = ["127.0.0.1", "192.168.1.2", "10.0.0.7", "8.8.8.8"]
    assert find_private_hosts(listening, own) == hosts


def test_what_a_neighbour_says_is_read_and_bounded() -> None:
    told = [home(n) for n in range(9)]
    assert decode_text(encode_text(told[:3])) == told[:3]
    assert len(decode_text(encode_text(told))) == TOLD_MAX


@pytest.mark.parametrize(
    "address",
    [
        f"/ip4/8.8.8.8/tcp/4001/p2p/{A}",
        f"/ip4/127.0.0.1/tcp/4001/p2p/{A}",
        f"/ip4/0.0.0.0/tcp/4001/p2p/{A}",
        f"/dns4/printer.home/tcp/631/p2p/{A}",
        "/ip4/192.168.1.2/tcp/4001",
        "/ip4/192.168.1.2/tcp/4001/p2p/QmFoo",
        f"/ip4/192.168.1.2/udp/4001/quic-v1/p2p/{A}",
    ],
)
def test_a_neighbour_has_us_dial_neighbours_only(address: str) -> None:
    assert decode_text(encode_text([address, home(1)])) == [home(1)]


@given(st.binary(max_size=2 * TEXT_BYTES_MAX))
def test_garbage_names_nobody_and_raises_nothing(raw: bytes) -> None:
    assert decode_text(raw) == []
    assert decode_text(encode_text([home(1)]) + raw)[:1] == [home(1)]


@on_uvloop
async def test_two_of_a_run_hear_of_each_other_and_a_third_of_another_run_of_nobody() -> None:
    """On loopback, which counts as no private network otherwise."""
    heard: dict[str, list[str]] = {A: [], B: [], C: []}
    services = {A: compute_service(os.urandom(32)), C: compute_service(os.urandom(32))}
    services[B] = services[A]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "find_private_hosts", lambda *_: {"127.0.0.1": 4001})
        patch.setattr(neighbours, "_is_home", lambda _: True)
        tasks = []
        for peer in heard:
            node = Neighbours(lambda: ["/ip4/127.0.0.1/tcp/4001"], peer, heard[peer].append)
            tasks.append(asyncio.create_task(node.run(services[peer])))
        await wait_until(lambda: heard[A] and heard[B], 40)
        await asyncio.sleep(1)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert set(heard[A]) == {f"/ip4/127.0.0.1/tcp/4001/p2p/{B}"}
    assert set(heard[B]) == {f"/ip4/127.0.0.1/tcp/4001/p2p/{A}"}
    assert heard[C] == []


@on_uvloop
async def test_where_there_is_no_private_network_nothing_is_done() -> None:
    opened: list[object] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "AsyncZeroconf", lambda **how: opened.append(how))
        node = Neighbours(lambda: ["/ip4/127.0.0.1/tcp/4001"], A, lambda _: None)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(node.run(compute_service(RUN)), 0.2)
    assert not opened


@on_uvloop
async def test_a_network_that_does_not_multicast_is_left_alone() -> None:
    def fail(**_: object) -> None:
        raise OSError(19, "No such device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "AsyncZeroconf", fail)
        patch.setattr(neighbours, "find_private_hosts", lambda *_: {"192.168.1.2": 4001})
        node = Neighbours(lambda: [], A, lambda _: None)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(node.run(compute_service(RUN)), 0.2)


@on_uvloop
async def test_who_moves_to_another_network_is_announced_there() -> None:
    opened: list[list[str]] = []
    hosts = {"192.168.1.2": 4001}

    def fail(interfaces: list[str], **_: object) -> None:
        opened.append(interfaces)
        raise OSError(19, "No such device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "LOOK_S", 0.01)
        patch.setattr(neighbours, "AsyncZeroconf", fail)
        patch.setattr(neighbours, "find_private_hosts", lambda *_: dict(hosts))
        task = asyncio.create_task(
            Neighbours(lambda: [], A, lambda _: None).run(compute_service(RUN))
        )
        await wait_until(lambda: ["192.168.1.2"] in opened)
        hosts.clear()
        hosts["10.0.0.7"] = 4001
        await wait_until(lambda: ["10.0.0.7"] in opened)
        task.cancel()
