"""A few bytes, each of which ended a whole node: here they cost their sender a stream at most."""

import asyncio
from typing import NoReturn

import pytest
import trio
from libp2p.abc import IMultiselectCommunicator, INetStream
from libp2p.custom_types import TProtocol
from libp2p.exceptions import BaseLibp2pError
from libp2p.io.exceptions import MessageTooLarge
from libp2p.protocol_muxer.exceptions import MultiselectCommunicatorError, MultiselectError
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11
from libp2p.pubsub.pb import rpc_pb2
from libp2p.utils import encode_delim
from libp2p.utils.varint import encode_uvarint, encode_varint_prefixed

from demo_node.mesh import bounds
from demo_node.mesh.libp2p import Libp2pMesh
from demo_node.mesh.negotiation import LineCommunicator
from demo_node.ports import Topic
from tests.mesh.hosts import RUN, Host, hosts, link, on_uvloop, seed
from tests.waiting import wait_until

NO_TEXT = b"\x03\xff\xfe\n"
MULTISTREAM = encode_delim(b"/multistream/1.0.0")
HEADERS = f"demo/{RUN.hex()}/{Topic.HEADERS}"


async def expect_alive(node: Host, third: Host) -> None:
    """Fail unless the node's mesh goes on, and hears a host that did nothing."""
    ended = asyncio.create_task(node.mesh.wait())
    try:
        await third.mesh.publish(Topic.HEADERS, b"still there?")
        await wait_until(lambda: ended.done() or b"still there?" in node.messages())
        assert not ended.done()
        assert third.mesh.peer in [view.peer for view in node.mesh.peers()]
    finally:
        ended.cancel()


async def send_until_reset(sender: Host, to: Host, sent: bytes) -> None:
    """Open a stream to a host, say `sent`, and wait until the other end ends it."""
    swarm, peer_id = sender.mesh._host.get_network(), to.mesh._host.get_id()

    async def send() -> None:
        stream = await swarm.new_stream(peer_id)
        await stream.write(sent)
        with trio.fail_after(10), pytest.raises(BaseLibp2pError):
            await read_on(stream)

    async def read_on(stream: INetStream) -> None:
        while True:
            assert await stream.read(99)  # its side of the negotiation

    await sender.mesh._guest.call(send)


@pytest.mark.parametrize("sent", [NO_TEXT, MULTISTREAM + NO_TEXT])
@on_uvloop
async def test_a_stream_that_begins_with_no_text_is_reset_and_nothing_else(sent: bytes) -> None:
    async with hosts(3) as (a, evil, good):
        await link((a, evil), (a, good))
        await send_until_reset(evil, a, sent)
        await expect_alive(a, good)


class Said:
    """What a peer said. Reading beyond it fails the test."""

    def __init__(self, said: bytes) -> None:
        self.left = said

    async def read(self, n: int | None = None) -> bytes:
        assert n is not None
        assert self.left
        said, self.left = self.left[:n], self.left[n:]
        return said


@pytest.mark.parametrize(
    "said",
    [NO_TEXT, b"\x00", b"\x01a", encode_delim(b"a" * bounds.NEGOTIATION_BYTES_MAX), b"\xff" * 10],
)
def test_a_line_that_is_none_is_an_error_of_the_negotiation(said: bytes) -> None:
    with pytest.raises(MultiselectCommunicatorError):
        trio.run(LineCommunicator(Said(said)).read)  # type: ignore[arg-type]


def test_a_line_too_long_is_refused_by_its_length_alone() -> None:
    said = Said(encode_uvarint(1 << 40))
    with pytest.raises(MultiselectCommunicatorError) as caught:
        trio.run(LineCommunicator(said).read)  # type: ignore[arg-type]
    assert isinstance(caught.value.__cause__, MessageTooLarge)


def test_a_line_of_the_largest_length_is_read() -> None:
    line = "a" * (bounds.NEGOTIATION_BYTES_MAX - 1)
    said = Said(encode_delim(line.encode()))
    assert trio.run(LineCommunicator(said).read) == line  # type: ignore[arg-type]


@pytest.mark.parametrize("key", [b"\x08\x01\x12\x01x", b"\x08\x03\x12\x01x"])
@on_uvloop
async def test_a_message_with_a_key_that_is_none_is_refused_and_its_stream_read_on(
    key: bytes,
) -> None:
    async with hosts(3) as (a, evil, good):
        await link((a, evil), (a, good))
        message = rpc_pb2.Message(
            from_id=b"abc", seqno=bytes(8), data=b"x", topicIDs=[HEADERS], signature=b"s", key=key
        )
        leaving = rpc_pb2.RPC.SubOpts(subscribe=False, topicid=HEADERS)
        frame = rpc_pb2.RPC(publish=[message], subscriptions=[leaving]).SerializeToString()

        async def send() -> None:
            stream = await evil.mesh._host.new_stream(a.mesh._host.get_id(), [PROTOCOL_ID_V11])
            await stream.write(encode_varint_prefixed(frame))

        await evil.mesh._guest.call(send)
        told, evil_id = a.mesh._gossip.pubsub.peer_topics, evil.mesh._host.get_id()
        await wait_until(lambda: evil_id not in told[HEADERS])  # it came after the message
        assert b"x" not in a.messages()
        await expect_alive(a, good)
        assert evil.mesh.peer in [view.peer for view in a.mesh.peers()]


@on_uvloop
async def test_a_second_connection_that_answers_with_no_text_ends_nothing_else() -> None:
    asked: list[str] = []

    async def answer_gossip(talk: IMultiselectCommunicator, timeout_s: int = 0) -> NoReturn:
        assert isinstance(talk, MultiselectCommunicator)
        await twin.mesh._host.multiselect.handshake(talk)  # type: ignore[attr-defined]
        asked.append(await talk.read())
        if asked[-1] == PROTOCOL_ID_V11:
            await talk.read_writer.write(NO_TEXT)
            await trio.sleep_forever()
        raise MultiselectError

    async with hosts(3) as (a, evil, good):
        await link((evil, a), (a, good))  # two that come in are not taken for crossing dials
        twin = Host(Libp2pMesh(seed(2), guest=evil.mesh._shared_guest))
        await twin.mesh.start()
        try:
            await twin.join()
            twin.mesh._host.multiselect.negotiate = answer_gossip  # type: ignore[attr-defined]
            await twin.mesh.connect(a.address)
            await wait_until(lambda: PROTOCOL_ID_V11 in asked)
            pubsub, evil_id = a.mesh._gossip.pubsub, evil.mesh._host.get_id()
            await wait_until(lambda: not pubsub.has_several(evil_id))  # it was given up
            await expect_alive(a, good)
        finally:
            await twin.mesh.stop()


@on_uvloop
async def test_an_error_in_a_handler_ends_its_stream_and_nothing_else() -> None:
    async def stumble(stream: INetStream) -> None:
        raise KeyError("of the library's")

    async with hosts(3) as (a, evil, good):
        await link((a, evil), (a, good))
        a.mesh._host.set_stream_handler(TProtocol("/stumble"), stumble)
        await send_until_reset(evil, a, MULTISTREAM + encode_delim(b"/stumble"))
        await expect_alive(a, good)
