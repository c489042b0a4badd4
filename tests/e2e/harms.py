"""The sorts of harm that one machine can do to nodes, each without end."""

import asyncio
import contextlib
import functools
import hashlib
import os
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import trio
from libp2p.exceptions import BaseLibp2pError
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11
from libp2p.pubsub.pb import rpc_pb2
from libp2p.utils import encode_delim

from demo_node.mesh.addresses import decode_address
from demo_node.mesh.blob import CHOICE
from demo_node.mesh.blob_frames import LENGTH_BYTES
from demo_node.ports import Topic
from demo_node.store.key import NodeKey
from demo_protocol.errors import Reject
from demo_protocol.messages import (
    Header,
    Membership,
    Sealed,
    decode_header,
    seal_header,
    seal_membership,
)
from tests.e2e.evil import Attack, Evil, peer_id_of

CONNECTIONS: Final = 200
"""Sockets that one address opens, and holds."""

STREAMS: Final = 100
"""Of one connection, with nothing on them."""

FIRST_S: Final = 5.0
"""The liar has to be let in before the crowd comes: beside that hardly anybody is."""

CROWDS: Final = {"crowd": True, "carrier": False}
"""Floods of joins: does it sign for them itself, or seem to pass on what others sent?"""

JOINS_AT_ONCE: Final = 50
"""In one frame of gossip."""

KNOCK_S: Final = 10.0
"""Before a socket that was closed is opened again."""

SORTS: Final = ("garbage", "forger", "liar", "sloth", "crowd", "carrier", "knocker")
"""The last has no key, and so it is its address that is banned."""

NOISE: Final = (
    b"\x03\xff\xfe\n",
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"\xff" * 4096,
    encode_delim(b"/multistream/1.0.0") + b"\xff\xff\x7f",
)


async def garble(evil: Evil) -> None:
    """Garbage on every protocol, by who has shaken hands."""
    blob = b"".join([CHOICE, (1 << 40).to_bytes(LENGTH_BYTES), b"\xff" * 64])
    meshsub = encode_delim(b"/multistream/1.0.0") + encode_delim(PROTOCOL_ID_V11.encode())
    others = [
        encode_delim(b"/multistream/1.0.0") + encode_delim(name) + os.urandom(2048)
        for name in (b"/ipfs/id/1.0.0", b"/ipfs/ping/1.0.0", b"/ipfs/id/push/1.0.0")
    ]
    frames = [*NOISE, blob, meshsub + b"\xff" * 99, meshsub + b"\xff\xff\xff\x07", *others]

    async def blow() -> None:
        for address in await evil.stay():
            await evil.say(address, random.choice(frames), 0.2)

    await evil.attack.again("garbage", blow)


async def forge(evil: Evil) -> None:
    """Headers again, headers that nobody signed, announcements that are too long."""
    attack = evil.attack

    async def blow() -> None:
        for address in await evil.stay():
            heard = random.choice(attack.heard or [b"\0"])
            body = bytearray(heard)
            body[random.randrange(len(body))] ^= 1
            long = evil.sign(random.choice(list(Topic)), os.urandom(60_000))
            for name, said in (
                ("replayed headers", evil.sign(Topic.HEADERS, heard)),  # as a message of its own
                ("forged headers", evil.sign(Topic.HEADERS, bytes(body))),
                ("oversized announcements", long),
            ):
                await evil.gossip(address, [said])
                attack.done[name] += 1

    await attack.again("forger", blow)


async def lie(evil: Evil) -> None:
    """Join as anybody does, announce a payload, give other bytes for its hash."""
    attack, announced = evil.attack, -1

    async def blow() -> None:
        nonlocal announced
        await evil.stay()
        round_ = attack.round()
        wish = Membership(joins=True, peer=evil.key.public, round=round_)
        sealed = seal_membership(wish, attack.run_id, evil.key.sign)
        await evil.mesh.publish(Topic.MEMBERSHIP, sealed.raw)
        model = _find_header(attack)
        if model is not None and announced < round_:
            evil.payload = bytes(model.payload_bytes)
            name = hashlib.sha256(os.urandom(32)).digest()
            body = replace(model, peer=evil.key.public, round=round_, payload_hash=name)
            header = seal_header(body, attack.run_id, evil.key.sign)
            await evil.mesh.publish(Topic.HEADERS, header.raw)
            attack.done[evil.name] += 1
            announced = round_

    await attack.again("liar", blow, 0.2)


def _find_header(attack: Attack) -> Header | None:
    """The newest one heard that announces a payload."""
    for raw in reversed(attack.heard):
        with contextlib.suppress(Reject):
            sealed: Sealed[Header] = decode_header(raw, attack.run_id)
            if sealed.body.k:
                return sealed.body
    return None


async def dawdle(evil: Evil) -> None:
    """Streams with nothing on them, requests that are never finished."""

    async def talk(address: str) -> None:
        with contextlib.suppress(BaseLibp2pError), trio.move_on_after(12):
            streams = []
            for _ in range(STREAMS):
                streams.append(await evil.mesh._swarm.new_stream(peer_id_of(address)))
                evil.attack.done[evil.name] += 1
            for stream in streams[: STREAMS // 8]:
                await stream.write(CHOICE + b"\0\0")
            await streams[0].read(1)
            await trio.sleep(12)

    async def blow() -> None:
        where = await evil.stay()
        await asyncio.gather(*(evil.mesh._guest.call(talk, address) for address in where))

    await evil.attack.again("sloth", blow)


def make_joins(evil: Evil, count: int, *, is_author: bool) -> list[rpc_pb2.Message]:
    """Of keys that never were, each as it should be; it signs them, or seems to pass them on."""
    joins = []
    for _ in range(count):
        key = NodeKey(os.urandom(32))
        wish = Membership(joins=True, peer=key.public, round=evil.attack.round())
        sealed = seal_membership(wish, evil.attack.run_id, key.sign)
        joins.append(evil.sign(Topic.MEMBERSHIP, sealed.raw, None if is_author else key))
    return joins


async def crowd(evil: Evil, stock: Sequence[rpc_pb2.Message], *, is_author: bool) -> None:
    """Joins without end: those in stock at once, then as fast as they can be made."""
    joins = stock

    async def blow() -> None:
        nonlocal joins
        for address in await evil.stay():
            for at in range(0, len(joins), JOINS_AT_ONCE):
                await evil.gossip(address, joins[at : at + JOINS_AT_ONCE])
        joins = make_joins(evil, JOINS_AT_ONCE, is_author=is_author)

    await asyncio.sleep(FIRST_S)
    await evil.attack.again(evil.name, blow)


async def knock(attack: Attack, source: str) -> None:
    """Sockets without end from one address: some say nothing, some say garbage."""

    async def hold(host: str, port: int) -> None:
        reader, writer = await asyncio.open_connection(host, port, local_addr=(source, 0))
        attack.done["knocker"] += 1
        begin_s = asyncio.get_running_loop().time()
        try:
            if random.random() < 0.5:
                writer.write(random.choice(NOISE) + os.urandom(random.randrange(5000)))
            async with asyncio.timeout(5):
                while await reader.read(999):
                    pass
            if asyncio.get_running_loop().time() - begin_s < 0.5:
                attack.done["knocker refused"] += 1
        except TimeoutError:
            pass
        finally:
            writer.close()

    places = [decode_address(address)[0].split("/") for address in attack.addresses]
    socks = [functools.partial(hold, place[2], int(place[4])) for place in places]
    await asyncio.gather(
        *(attack.again("knocker", socks[n % len(socks)], KNOCK_S) for n in range(CONNECTIONS))
    )
