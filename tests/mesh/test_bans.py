"""On sockets: what a peer is banned for, what a ban does, and what nobody is blamed for."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator

import pytest
import trio
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11
from libp2p.utils import encode_delim

from demo_node.mesh import bounds
from demo_node.mesh.blob import CHOICE
from demo_node.mesh.blob_frames import LENGTH_BYTES
from demo_node.mesh.yamux import PatientYamux
from demo_node.ports import Blob, BlobRequest, NotHeld, Offence, Topic, Unreachable
from demo_protocol.limits import PEERS_REPLY_BYTES_MAX
from tests.mesh.hosts import Host, hosts, link, on_uvloop
from tests.mesh.raw_streams import FORGED, HEADERS, MULTISTREAM, gossip, offences, on_stream, saying
from tests.waiting import wait_until

SLOW_S = 0.3


async def ask_for_another_version(stream: INetStream) -> None:
    await stream.write(MULTISTREAM + encode_delim(b"/demo-node/blob/2"))
    while not (await stream.read(99)).endswith(b"na\n"):
        pass
    await stream.reset()


def frame(size: int, content: bytes) -> bytes:
    return CHOICE + size.to_bytes(LENGTH_BYTES) + content


GARBAGE = {
    "no line": (b"\x03\xff\xfe\n", Offence.GARBAGE),
    "a line too long": (b"\xff\xff\x7f", Offence.GARBAGE),
    "a request of a gigabyte": (frame(1 << 30, b""), Offence.GARBAGE),
    "a request that is none": (frame(4, b"\xff" * 4), Offence.GARBAGE),
    "a frame of gossip that is none": (
        MULTISTREAM + encode_delim(PROTOCOL_ID_V11.encode()) + b"\x04\xff\xff\xff\xff",
        Offence.GARBAGE,
    ),
    "a frame of gossip of 16 MB": (
        MULTISTREAM + encode_delim(PROTOCOL_ID_V11.encode()) + b"\xff\xff\xff\x07",
        Offence.GARBAGE,
    ),
    "a message that nobody signed": (gossip(FORGED), Offence.MESSAGE),
}


@pytest.mark.parametrize("name", GARBAGE)
@on_uvloop
async def test_garbage_is_held_against_its_sender_alone(name: str) -> None:
    said, offence = GARBAGE[name]
    async with hosts(3) as (a, evil, good):
        await link((a, evil), (a, good))
        await asyncio.gather(
            on_stream(evil, a, saying(said)), wait_until(lambda: offences(a) == {offence: 1})
        )
        scores = {view.peer: view.score for view in a.mesh.peers()}
        assert scores == {evil.mesh.peer: 20, good.mesh.peer: 0}


@on_uvloop
async def test_who_is_banned_loses_its_connections_and_gets_no_other_until_it_is_forgiven() -> None:
    async with hosts(3) as (a, evil, good):
        await link((evil, a), (a, good))
        for _ in range(6):
            await on_stream(evil, a, saying(b"\x03\xff\xfe\n"))
        await wait_until(lambda: [v.peer for v in a.mesh.peers()] == [good.mesh.peer])
        (ban,) = a.mesh.bans()
        assert (ban.peer, ban.offence, ban.times) == (evil.mesh.peer, Offence.GARBAGE, 1)
        assert 590 <= ban.left_s <= 600
        await wait_until(lambda: not evil.mesh.peers())
        with pytest.raises(Unreachable):
            await evil.mesh.connect(a.address)
        with pytest.raises(Unreachable, match="banned"):
            await a.mesh.connect(evil.address)
        assert [v.peer for v in a.mesh.peers()] == [good.mesh.peer]
        assert a.mesh.forgive(peer=evil.mesh.peer)
        await evil.mesh.connect(a.address)
        assert {v.peer for v in a.mesh.peers()} == {evil.mesh.peer, good.mesh.peer}


@on_uvloop
async def test_the_operator_bans_whom_it_likes() -> None:
    async with hosts(2) as (a, other):
        await link((a, other))
        a.mesh.ban(other.mesh.peer, 60)
        await wait_until(lambda: not a.mesh.peers() and not other.mesh.peers())
        with pytest.raises(Unreachable):
            await other.mesh.connect(a.address)


@pytest.mark.parametrize(
    "header", [b"\x01" + bytes(11), b"\x00\x04" + bytes(10), b"\0\0\0\0" * 2 + b"\x7f" * 4]
)
@on_uvloop
async def test_what_is_no_frame_of_yamux_ends_its_connection(header: bytes) -> None:
    async with hosts(2, join=False) as (a, evil):
        await evil.mesh.connect(a.address)

        async def send() -> None:
            (connection,) = evil.mesh._swarm.get_connections(a.mesh._host.get_id())
            assert isinstance(connection.muxed_conn, PatientYamux)
            await connection.muxed_conn.secured_conn.write(header)

        await evil.mesh._guest.call(send)
        await wait_until(lambda: offences(a) == {Offence.GARBAGE: 1})
        await wait_until(lambda: not a.mesh.peers())


@on_uvloop
async def test_a_message_too_long_for_its_topic_is_held_against_who_hands_it_over() -> None:
    async with hosts(3) as (a, evil, good):
        await link((a, evil), (a, good))
        too_long = bytes(bounds.TOPIC_BYTES_MAX[Topic.HEADERS] + 1)
        await evil.mesh._guest.call(evil.mesh._gossip.pubsub.publish, HEADERS, too_long)
        await wait_until(lambda: offences(a) == {Offence.MESSAGE: 1})
        assert a.messages() == good.messages() == []
        await evil.mesh.publish(Topic.HEADERS, too_long[1:])
        await wait_until(lambda: a.messages() == good.messages() == [too_long[1:]])
        assert offences(a) == {Offence.MESSAGE: 1}


@contextlib.asynccontextmanager
async def impatient() -> AsyncIterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bounds, "REQUEST_FRAME_S", SLOW_S)
        yield


@on_uvloop
async def test_who_holds_back_a_request_while_it_is_there_stalls_and_who_is_cut_off_does_not() -> (
    None
):
    async with impatient(), hosts(2) as (a, evil):
        await link((evil, a))
        await on_stream(evil, a, saying(CHOICE))
        await wait_until(lambda: offences(a) == {Offence.STALLED: 1})
        (connection,) = a.mesh._swarm.get_connections(evil.mesh._host.get_id())
        assert isinstance(connection.muxed_conn, PatientYamux)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(PatientYamux, "is_alive", False)
            await on_stream(evil, a, saying(CHOICE))
        assert offences(a) == {Offence.STALLED: 1}


@pytest.mark.parametrize("said", [b"", CHOICE], ids=["no protocol", "no request"])
@on_uvloop
async def test_a_request_behind_a_payload_on_a_slow_uplink_is_nobodys_fault(said: bytes) -> None:
    """At 0.5 Mbit/s 1 MB takes 16 s; what its sender asks for meanwhile comes after it."""

    async def stall(stream: INetStream) -> None:
        with trio.move_on_after(2.0):  # who is hung up on before a protocol hears nothing
            await saying(said)(stream)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bounds, "REQUEST_FRAME_S", SLOW_S)
        patch.setattr(bounds, "NEGOTIATION_S", 1.0)  # the library takes whole seconds
        async with hosts(2) as (a, slow):
            await link((slow, a))
            slow.mesh.set_caps(50_000, 0)
            slow.held[b"p"] = os.urandom(1_000_000)
            request = BlobRequest(Blob.PAYLOAD, b"p")
            came = 0

            def count(size: int) -> None:
                nonlocal came
                came += size

            pull = asyncio.create_task(
                a.mesh.request(
                    slow.mesh.peer, request, bytes_max=1 << 20, timeout_s=60, on_piece=count
                )
            )
            await wait_until(lambda: came)
            await on_stream(slow, a, stall)
            assert not offences(a)
            pull.cancel()
            await asyncio.wait([pull])
            await wait_until(lambda: not slow.mesh.serving())
            await asyncio.sleep(0.2)  # for what is on its way
            await on_stream(slow, a, stall)
            await wait_until(lambda: offences(a) == {Offence.STALLED: 1})


async def answer_with(evil: Host, reply: bytes) -> None:
    from demo_node.mesh.blob import PROTOCOL

    async def handle(stream: INetStream) -> None:
        await stream.write(reply)
        await trio.sleep_forever()

    evil.mesh._host.set_stream_handler(PROTOCOL, handle)


@pytest.mark.parametrize(
    ("kind", "reply", "expected"),
    [
        (Blob.PEERS, b"\x09" + bytes(LENGTH_BYTES), {Offence.GARBAGE: 1}),
        (Blob.PEERS, b"\0" + (1 << 40).to_bytes(LENGTH_BYTES), {Offence.ANSWER: 1}),
        # Its length is what a third peer said of it.
        (Blob.PAYLOAD, b"\0" + (1 << 40).to_bytes(LENGTH_BYTES), {}),
    ],
)
@on_uvloop
async def test_answers_that_nobody_could_take(
    kind: Blob, reply: bytes, expected: dict[Offence, int]
) -> None:
    async with hosts(2) as (a, evil):
        await link((a, evil))
        await answer_with(evil, reply)
        with pytest.raises(Unreachable):
            await a.mesh.request(
                evil.mesh.peer,
                BlobRequest(kind, bytes(32)),
                bytes_max=PEERS_REPLY_BYTES_MAX,
                timeout_s=5,
            )
        assert offences(a) == expected


@on_uvloop
async def test_what_an_honest_peer_may_do_is_held_against_nobody() -> None:
    """Not held, too slow, given up, broken off, another version, another protocol, refused."""
    async with hosts(3) as (a, other, third):
        await link((a, other), (third, a))

        async def never(peer: bytes, request: BlobRequest) -> bytes | None:
            await asyncio.sleep(60)
            return None

        other.on_blob = never
        a.verdict = lambda message: False  # late, or known: Ignore
        for n in range(50):
            await third.mesh.publish(Topic.HEADERS, bytes([n]))
        await wait_until(lambda: len(a.messages()) == 50)
        for _ in range(30):
            with pytest.raises(NotHeld):
                await a.mesh.request(
                    third.mesh.peer, BlobRequest(Blob.PAYLOAD), bytes_max=9, timeout_s=9
                )
        await on_stream(third, a, ask_for_another_version)
        await on_stream(third, a, saying(frame(4, b"\x08\x7f\x10\x01")))  # of a later version

        async def break_off(stream: INetStream) -> None:
            await stream.write(CHOICE + b"\0\0")
            await stream.reset()

        for _ in range(30):
            await on_stream(third, a, break_off)
        a.mesh._host.set_stream_handler(TProtocol("/elsewhere"), break_off)
        await other.mesh.stop()
        for _ in range(9):
            with socket.create_connection(("127.0.0.1", int(a.address.split("/")[4]))):
                pass  # a look whether somebody listens
        assert offences(a) == offences(third) == {}
        assert a.mesh.bans() == []
