"""Dials are counted by how they ended: by what was raised, whatever its text says."""

import asyncio
import errno
import socket

import pytest
import trio
from libp2p.network.exceptions import SwarmException
from libp2p.transport.exceptions import OpenConnectionError

from demo_node.mesh import bounds
from demo_node.mesh.dial import classify
from demo_node.mesh.libp2p import Libp2pMesh
from demo_node.mesh.peer_id import encode_peer_id
from demo_node.ports import DialResult, Unreachable
from tests.mesh.hosts import free_port, hosts, on_uvloop

STRANGER = encode_peer_id(bytes(32))


async def dial(mesh: Libp2pMesh, address: str) -> None:
    """Where nobody answers as hoped."""
    with pytest.raises(Unreachable):
        await mesh.connect(address)


@on_uvloop
async def test_each_dial_is_counted_by_how_it_ended() -> None:
    async with hosts(2) as (a, b):
        done = a.mesh.counters
        assert done().dials == {}
        for _ in range(2):
            await dial(a.mesh, f"/ip4/127.0.0.1/tcp/{free_port()}/p2p/{STRANGER}")
        assert done().dials == {DialResult.REFUSED: 2}
        await dial(a.mesh, b.address.replace(encode_peer_id(b.mesh.peer), STRANGER))
        assert done().dials == {DialResult.REFUSED: 2, DialResult.FAILED: 1}
        await a.mesh.connect(b.address)
        expected = {DialResult.REFUSED: 2, DialResult.FAILED: 1, DialResult.CONNECTED: 1}
        assert done().dials == expected
        # Not one of these is a dial: it is connected; that is ourselves; that is no address.
        await a.mesh.connect(b.address)
        await dial(a.mesh, a.address)
        await dial(a.mesh, "/ip4/127.0.0.1/tcp/1")
        assert done().dials == expected
        assert b.mesh.counters().dials == {}


@on_uvloop
async def test_a_dial_into_a_black_hole_timed_out_and_one_that_was_given_up_did_not_end() -> None:
    async with hosts(1) as (a,):
        with socket.create_server(("127.0.0.1", 0)) as silent:
            address = f"/ip4/127.0.0.1/tcp/{silent.getsockname()[1]}/p2p/{STRANGER}"
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(bounds, "CONNECT_S", 0.3)
                await dial(a.mesh, address)
            assert a.mesh.counters().dials == {DialResult.TIMED_OUT: 1}
            given_up = asyncio.create_task(a.mesh.connect(address))
            silent.settimeout(30)
            first, _ = await asyncio.to_thread(silent.accept)
            second, _ = await asyncio.to_thread(silent.accept)
            with first, second:
                given_up.cancel()
                await asyncio.wait([given_up])
            assert a.mesh.counters().dials == {DialResult.TIMED_OUT: 1}


def wrapped(error: OSError) -> SwarmException:
    """As the library hands it on."""
    opening, swarm = OpenConnectionError("no"), SwarmException("no")
    opening.__cause__, swarm.__cause__ = ExceptionGroup("no", [error]), opening
    return swarm


@pytest.mark.parametrize(
    ("error", "result"),
    [
        (wrapped(OSError(errno.ECONNREFUSED, "no")), DialResult.REFUSED),
        (wrapped(OSError(errno.ETIMEDOUT, "no")), DialResult.TIMED_OUT),
        (wrapped(OSError(errno.EHOSTUNREACH, "refused, timed out")), DialResult.FAILED),
        (wrapped(OSError(errno.ECONNRESET, "no")), DialResult.FAILED),
        (trio.TooSlowError(), DialResult.TIMED_OUT),
        (SwarmException("connection refused"), DialResult.FAILED),
        (ValueError("no"), DialResult.FAILED),
    ],
)
def test_a_failed_dial_is_told_by_the_kind_of_its_first_cause(
    error: Exception, result: DialResult
) -> None:
    assert classify(error) is result
