"""Many at once: dials to one host and port, frames in one read. Nobody takes another's place."""

import asyncio
from types import SimpleNamespace
from typing import Final, cast

import trio
from libp2p.abc import INetStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.pubsub.pb import rpc_pb2
from libp2p.utils.varint import read_varint_prefixed_bytes_limited

from demo_node.mesh.links import LinkedPubsub
from demo_node.mesh.peer_id import encode_peer_id
from demo_node.mesh.streams import read_ahead
from demo_node.ports import Unreachable
from tests.mesh.hosts import Host, hosts, on_uvloop

TRIES: Final = 4
WRONG: Final = 6
APART_S: Final = 0.001

FRAMES: Final = 1_000
FRAME_BYTES_MAX: Final = 1 << 10


async def dial_later(host: Host, address: str, number: int) -> None:
    await asyncio.sleep(number * APART_S)
    await host.mesh.connect(address)


@on_uvloop
async def test_a_dial_by_the_right_key_is_not_in_the_way_of_dials_by_wrong_ones() -> None:
    """As after a node was set up anew: its old key is still in others' lists, at this address."""
    for _ in range(TRIES):
        async with hosts(2, join=False) as (ours, other):
            place = other.address.rsplit("/p2p/", 1)[0]
            wrong = [f"{place}/p2p/{encode_peer_id(bytes([7 + n]) * 32)}" for n in range(WRONG)]
            right, *others = await asyncio.gather(
                *(dial_later(ours, a, n) for n, a in enumerate([other.address, *wrong])),
                return_exceptions=True,
            )
            assert right is None
            assert all(isinstance(error, Unreachable) for error in others)
            assert len(ours.mesh.peers()) == 1


@on_uvloop
async def test_a_connection_reads_its_own_socket() -> None:
    async with hosts(2) as (one, other):
        for host in (one, other):
            for connection in (c for live in host.mesh._swarm.connections.values() for c in live):
                muxed = connection.muxed_conn
                raw = muxed._reader._cipher.read_writer.read_write_closer  # type: ignore[attr-defined]
                assert isinstance(raw, RawConnection)
                assert raw.stream is muxed._stream  # type: ignore[attr-defined]


class Zeros:
    """A stream of empty frames: each of them is one byte."""

    def __init__(self) -> None:
        self.left = FRAMES

    async def read(self, n: int) -> bytes:
        await trio.lowlevel.checkpoint()
        came = min(n, self.left)
        self.left -= came
        return bytes(came)


async def take_frames() -> int:
    """Takes what is to come as gossip. How many turns others had meanwhile."""
    turns, is_over = 0, False
    pubsub = cast(LinkedPubsub, SimpleNamespace(max_subscriptions_per_rpc=1))
    stream = read_ahead(cast(INetStream, Zeros()))

    async def count_turns() -> None:
        nonlocal turns
        while not is_over:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count_turns)
        for _ in range(FRAMES):
            raw = await read_varint_prefixed_bytes_limited(stream, FRAME_BYTES_MAX)
            await LinkedPubsub._on_rpc(pubsub, None, rpc_pb2.RPC.FromString(raw))  # type: ignore[arg-type]
        is_over = True
    return turns


def test_empty_frames_of_gossip_do_not_keep_others_from_their_turn() -> None:
    assert trio.run(take_frames) >= FRAMES
