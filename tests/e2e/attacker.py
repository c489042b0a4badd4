"""One machine that does to nodes what no honest peer does, all of it at once.

    python -m tests.e2e.attacker MANIFEST SECONDS ADDRESS...     a run's manifest, nodes' addresses

Each sort of harm has a key of its own, and goes on for as long as it is let: who is banned comes
back, as somebody who means it would. Prints one JSON document: the keys, and how much of each it
got rid of. tests/e2e/hostile_run.py has it attack a swarm.
"""

import asyncio
import contextlib
import functools
import hashlib
import json
import os
import random
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import trio
import uvloop
from libp2p.abc import INetStream
from libp2p.exceptions import BaseLibp2pError
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11
from libp2p.utils import encode_delim

from demo_node.mesh.addresses import decode_address
from demo_node.mesh.blob import CHOICE
from demo_node.mesh.blob_frames import LENGTH_BYTES
from demo_node.mesh.guest import Guest
from demo_node.mesh.libp2p import Libp2pMesh
from demo_node.mesh.peer_id import encode_peer_id, encode_peer_id_bytes
from demo_node.ports import Blob, BlobRequest, Topic, Unreachable
from demo_node.store.key import NodeKey
from demo_node.system_clock import SystemClock
from demo_protocol.errors import Reject
from demo_protocol.manifest import Manifest, compute_run_id, decode_manifest
from demo_protocol.messages import (
    Header,
    Membership,
    Sealed,
    decode_header,
    seal_header,
    seal_membership,
)
from demo_protocol.schedule import round_at

CONNECTIONS: Final = 200
"""Sockets that one address opens, and holds."""

STREAMS: Final = 100
"""Of one connection, with nothing on them."""

JOINS_PER_S: Final = 100
PAUSE_S: Final = 0.02
"""Between two blows: what is measured is what they cost the nodes, not what they cost here."""

KNOCK_S: Final = 1.0
"""Before a socket that was closed is opened again."""

SORTS: Final = ("garbage", "forger", "liar", "sloth", "crowd")

NOISE: Final = (
    b"\x03\xff\xfe\n",
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"\xff" * 4096,
    encode_delim(b"/multistream/1.0.0") + b"\xff\xff\x7f",
)


@dataclass
class Attack:
    """Where it goes, and what came of it."""

    manifest: Manifest
    addresses: Sequence[str]
    until_s: float
    guest: Guest
    done: Counter[str] = field(default_factory=Counter)
    heard: list[bytes] = field(default_factory=list)
    """Headers of honest nodes, to be replayed and forged."""

    @property
    def goes_on(self) -> bool:
        """Is there time left?"""
        return asyncio.get_running_loop().time() < self.until_s

    @property
    def run_id(self) -> bytes:
        """Of the run."""
        return compute_run_id(self.manifest)

    def round(self) -> int:
        """By the clock."""
        return round_at(self.manifest.schedule, SystemClock(0).now_ms())

    async def again(
        self, name: str, blow: Callable[[], Awaitable[None]], pause_s: float = PAUSE_S
    ) -> None:
        """Strike until the end, whatever comes back."""
        while self.goes_on:
            try:
                await blow()
                self.done[name] += 1
            except (Unreachable, BaseLibp2pError, OSError, trio.TooSlowError, trio.Cancelled):
                self.done[f"{name} refused"] += 1
                await asyncio.sleep(0.2)
            await asyncio.sleep(pause_s)


class Evil:
    """A libp2p host with a key of its own."""

    def __init__(self, attack: Attack, name: str) -> None:
        self.attack = attack
        self.key = NodeKey(os.urandom(32))
        self.name = name
        self.mesh = Libp2pMesh(self.key.seed, (), guest=attack.guest)
        self.payload = b""

    async def start(self, *, joins: bool) -> None:
        """Be there; `joins`: take part in the run's gossip."""
        await self.mesh.start()
        if joins:
            await self.mesh.join(self.attack.run_id, self._hear, self._serve)

    def _hear(self, topic: Topic, peer: bytes, message: bytes) -> bool:
        if topic is Topic.HEADERS:
            self.attack.heard = [*self.attack.heard[-99:], message]
        return False

    async def _serve(self, peer: bytes, request: BlobRequest) -> bytes | None:
        """Bytes of the right length, with another hash."""
        if request.kind is not Blob.PAYLOAD:
            return None
        self.attack.done["wrong payloads given"] += 1
        return os.urandom(len(self.payload))

    async def stay(self) -> None:
        """Connect wherever it is not."""
        for address in self.attack.addresses:
            with contextlib.suppress(Unreachable):
                await self.mesh.connect(address)

    async def say(self, said: bytes, hold_s: float = 1.0) -> None:
        """On a new stream with each node."""

        async def talk(peer_id: ID) -> None:
            with trio.move_on_after(hold_s), contextlib.suppress(BaseLibp2pError):
                stream: INetStream = await self.mesh._swarm.new_stream(peer_id)
                await stream.write(said)
                while await stream.read(999):
                    pass

        for address in self.attack.addresses:
            peer_id = ID(encode_peer_id_bytes(decode_address(address)[1]))
            await self.mesh._guest.call(talk, peer_id)

    async def publish_raw(self, topic: Topic, content: bytes) -> None:
        """Past our own limits."""
        name = f"demo/{self.attack.run_id.hex()}/{topic}"
        await self.mesh._guest.call(self.mesh._gossip.pubsub.publish, name, content)


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
        await evil.stay()
        await evil.say(random.choice(frames))

    await evil.attack.again("garbage", blow)


async def forge(evil: Evil) -> None:
    """Headers again, headers that nobody signed, announcements that are too long."""

    async def blow() -> None:
        await evil.stay()
        heard = random.choice(evil.attack.heard or [b"\0"])
        body = bytearray(heard)
        body[random.randrange(len(body))] ^= 1
        await evil.publish_raw(Topic.HEADERS, heard)  # replayed, as a message of its own
        await evil.publish_raw(Topic.HEADERS, bytes(body))
        await evil.publish_raw(random.choice(list(Topic)), os.urandom(60_000))

    await evil.attack.again("forged", blow)


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
            announced = round_
        await asyncio.sleep(0.2)

    await attack.again("lies", blow)


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

    async def hold(address: str) -> None:
        async def talk(peer_id: ID) -> None:
            with contextlib.suppress(BaseLibp2pError), trio.move_on_after(12):
                streams = [await evil.mesh._swarm.new_stream(peer_id) for _ in range(STREAMS)]
                for stream in streams[: STREAMS // 8]:
                    await stream.write(CHOICE + b"\0\0")
                await streams[0].read(1)
                await trio.sleep(12)

        await evil.mesh.connect(address)
        peer_id = ID(encode_peer_id_bytes(decode_address(address)[1]))
        await evil.mesh._guest.call(talk, peer_id)

    for_each = [
        evil.attack.again("slow streams", functools.partial(hold, address))
        for address in evil.attack.addresses
    ]
    await asyncio.gather(*for_each)


async def crowd(evil: Evil) -> None:
    """Joins of keys without end, each of them as it should be."""
    attack = evil.attack

    async def blow() -> None:
        await evil.stay()
        for _ in range(round(JOINS_PER_S * PAUSE_S) + 1):
            key = NodeKey(os.urandom(32))
            wish = Membership(joins=True, peer=key.public, round=attack.round())
            sealed = seal_membership(wish, attack.run_id, key.sign)
            await evil.mesh.publish(Topic.MEMBERSHIP, sealed.raw)
            attack.done["joins"] += 1

    await attack.again("joins sent", blow)


async def knock(attack: Attack) -> None:
    """Sockets without end from one address: some say nothing, some say garbage."""

    async def hold(host: str, port: int) -> None:
        reader, writer = await asyncio.open_connection(host, port)
        try:
            if random.random() < 0.5:
                writer.write(random.choice(NOISE) + os.urandom(random.randrange(5000)))
            async with asyncio.timeout(5):
                while await reader.read(999):
                    pass
        except TimeoutError:
            pass
        finally:
            writer.close()

    places = [decode_address(address)[0].split("/") for address in attack.addresses]
    socks = [functools.partial(hold, place[2], int(place[4])) for place in places]
    await asyncio.gather(
        *(attack.again("sockets", socks[n % len(socks)], KNOCK_S) for n in range(CONNECTIONS))
    )


async def run(manifest: Manifest, seconds: float, addresses: Sequence[str]) -> dict[str, object]:
    """All of it at once. What was done, and by whom."""
    guest = Guest()
    await guest.start()
    until_s = asyncio.get_running_loop().time() + seconds
    attack = Attack(manifest, addresses, until_s, guest)
    evils = {name: Evil(attack, name) for name in SORTS}
    harm = {"garbage": garble, "forger": forge, "liar": lie, "sloth": dawdle, "crowd": crowd}
    try:
        for name, evil in evils.items():
            await evil.start(joins=name in ("forger", "liar", "crowd"))
        tasks = [asyncio.create_task(harm[name](evil)) for name, evil in evils.items()]
        tasks.append(asyncio.create_task(knock(attack)))
        await asyncio.wait(tasks, timeout=seconds + 1)
        failed = [t.exception() for t in tasks if t.done() and not t.cancelled() and t.exception()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    finally:
        for evil in evils.values():
            with contextlib.suppress(Exception):
                await asyncio.wait_for(evil.mesh.stop(), 3)
    keys = {name: encode_peer_id(evil.key.public) for name, evil in evils.items()}
    return {"keys": keys, "done": dict(attack.done), "failed": [repr(e) for e in failed]}


def main() -> None:
    """See above."""
    path, seconds, *addresses = sys.argv[1:]
    os.nice(19)  # in the world it has a processor of its own: here it must not take the nodes'
    manifest = decode_manifest(Path(path).read_bytes())
    sys.stdout.write(json.dumps(uvloop.run(run(manifest, float(seconds), addresses))) + "\n")
    sys.stdout.flush()
    os._exit(0)  # whatever hangs in it, hangs on purpose


if __name__ == "__main__":
    main()
