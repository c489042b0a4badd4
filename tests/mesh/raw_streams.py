"""Bytes on streams to a node, as no library would send them, and what it holds against whom."""

import contextlib
from collections.abc import Awaitable, Callable

import trio
from libp2p.abc import INetStream
from libp2p.exceptions import BaseLibp2pError
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11
from libp2p.pubsub.pb import rpc_pb2
from libp2p.utils import encode_delim
from libp2p.utils.varint import encode_varint_prefixed

from demo_node.ports import Offence, Topic
from tests.mesh.hosts import RUN, Host

HEADERS = f"demo/{RUN.hex()}/{Topic.HEADERS}"
MULTISTREAM = encode_delim(b"/multistream/1.0.0")
FORGED = rpc_pb2.Message(
    from_id=bytes(38), seqno=bytes(8), data=b"x", topicIDs=[HEADERS], signature=b"s"
)


def offences(node: Host) -> dict[Offence, int]:
    return dict(node.mesh.counters().offences)


def is_banned(node: Host, other: Host) -> bool:
    return other.mesh.peer in [ban.peer for ban in node.mesh.bans()]


async def on_stream(evil: Host, to: Host, talk: Callable[[INetStream], Awaitable[None]]) -> None:
    """Open a stream to a host and say something on it; what ends it is no matter."""

    async def run() -> None:
        with contextlib.suppress(BaseLibp2pError), trio.move_on_after(10):
            await talk(await evil.mesh._swarm.new_stream(to.mesh._host.get_id()))

    await evil.mesh._guest.call(run)


def saying(said: bytes) -> Callable[[INetStream], Awaitable[None]]:
    async def say(stream: INetStream) -> None:
        await stream.write(said)
        while await stream.read(99):
            pass

    return say


def gossip(*messages: rpc_pb2.Message) -> bytes:
    choice = MULTISTREAM + encode_delim(PROTOCOL_ID_V11.encode())
    frame = rpc_pb2.RPC(publish=messages).SerializeToString()
    return choice + encode_varint_prefixed(frame)
