"""Nodes with the DHT of all runs (--kad), and what others may say to them there."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import trio
from libp2p.abc import INetStream
from libp2p.exceptions import BaseLibp2pError
from libp2p.kad_dht.pb.kademlia_pb2 import Message
from libp2p.utils.varint import encode_varint_prefixed, read_varint_prefixed_bytes_limited
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from demo_node.mesh.kad_host import PROTOCOL
from demo_node.mesh.libp2p import Libp2pMesh
from demo_node.mesh.peer_id import encode_peer_id_bytes
from tests.mesh.hosts import Host, guests, seed

OTHER_RUN = bytes(32)
WORLD = "/ip4/8.8.8.8/tcp/4001"
PRINTER = "/ip4/192.168.1.9/tcp/631"


@contextlib.asynccontextmanager
async def nodes(count: int, *, kad: bool = True) -> AsyncIterator[list[Host]]:
    async with guests() as guest:
        made = [Host(Libp2pMesh(seed(i + 1), guest=guest, kad=kad)) for i in range(count)]
        await asyncio.gather(*(h.mesh.start() for h in made))
        try:
            yield made
        finally:
            await asyncio.gather(*(h.mesh.stop() for h in made))


def name(number: int) -> bytes:
    """A key that nobody has."""
    return number.to_bytes(32)


def say(key: bytes, *addresses: str) -> Message.Peer:
    """What a message of the DHT says of a peer."""
    where = [Multiaddr(address).to_bytes() for address in addresses]
    return Message.Peer(id=encode_peer_id_bytes(key), addrs=where)


def answer(node: Host, *peers: Message.Peer, raw: bytes | None = None) -> None:
    """Let a node say this, whatever it is asked of the DHT, instead of what is true."""

    async def reply(stream: INetStream) -> None:
        with contextlib.suppress(BaseLibp2pError):
            asked = Message.FromString(await read_varint_prefixed_bytes_limited(stream, 1 << 16))
            said = Message(type=asked.type, key=asked.key, closerPeers=peers, providerPeers=peers)
            frame = said.SerializeToString() if raw is None else raw
            await stream.write(encode_varint_prefixed(frame))

    node.mesh._host.set_stream_handler(PROTOCOL, reply)


def see_at(node: Host, address: str) -> None:
    """All that are connected to it are seen there."""
    node.mesh._places.address_of = (  # type: ignore[method-assign]
        lambda peer_id, connection: address
    )


async def ask(node: Host, to: Host, *messages: Message | bytes) -> list[Message]:
    """Say these on one stream; the answers, as many as there were before it ended."""
    answers: list[Message] = []

    async def talk() -> None:
        stream = await node.mesh._host.new_stream(to.mesh._host.get_id(), [PROTOCOL])
        with contextlib.suppress(BaseLibp2pError), trio.fail_after(20):
            for said in messages:
                raw = said if isinstance(said, bytes) else said.SerializeToString()
                await stream.write(encode_varint_prefixed(raw))
                reply = await read_varint_prefixed_bytes_limited(stream, 1 << 20)
                answers.append(Message.FromString(reply))
        await stream.reset()

    await node.mesh._guest.call(talk)
    return answers
