"""One machine that does to nodes what no honest peer does, all of it at once.

    python -m tests.e2e.attacker MANIFEST NICE SOURCES ADDRESS...

MANIFEST is a run's, ADDRESSes are nodes', SOURCES a JSON object: sort of harm -> the address of
this machine that does it. Each has its own, so that its ban does not spare the nodes the others. It
connects, says `ready`, waits for a line on standard input, makes itself as nice as NICE, and goes
on until the next line. Each sort of harm has a key of its own; who is banned comes back with
another, as somebody who means it would. Every second it prints a JSON document: the keys so far,
and how much of each harm it got rid of. tests/e2e/hostile_run.py has it attack a swarm.
"""

import asyncio
import contextlib
import functools
import hashlib
import itertools
import json
import os
import random
import sys
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import trio
import uvloop
from libp2p.abc import INetStream, IRawConnection
from libp2p.exceptions import BaseLibp2pError
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.validators import PUBSUB_SIGNING_PREFIX
from libp2p.utils import encode_delim
from libp2p.utils.varint import encode_varint_prefixed
from multiaddr import Multiaddr  # type: ignore[import-untyped]

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

SESSION_NICE: Final = 5

TELL_S: Final = 1.0

AWAY_S: Final = 3.0
"""Before who is refused everywhere comes back as somebody else."""

FIRST_S: Final = 5.0
"""The liar has to be let in before the crowd comes: beside that hardly anybody is."""

CROWDS: Final = {"crowd": True, "carrier": False}
"""Floods of joins: does it sign for them itself, or seem to pass on what others sent?"""

STOCK: Final = 1000
"""Joins made beforehand: more than a node takes at once."""

JOINS_AT_ONCE: Final = 50
"""In one frame of gossip."""

WRITE_S: Final = 2.0
"""Who reads no faster has stopped to listen to us."""

PAUSE_S: Final = 0.02
"""Between two blows: what is measured is what they cost the nodes, not what they cost here."""

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

_numbers = itertools.count(1 << 60)
"""Of gossip's messages."""


@dataclass
class Attack:
    """Where it goes, and what came of it."""

    manifest: Manifest
    addresses: Sequence[str]
    guest: Guest
    done: Counter[str] = field(default_factory=Counter)
    heard: list[bytes] = field(default_factory=list)
    """Headers of honest nodes, to be replayed and forged."""

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
        """Strike for ever, whatever comes back."""
        while True:
            try:
                await blow()
            except (Unreachable, BaseLibp2pError, OSError, trio.TooSlowError, trio.Cancelled):
                self.done[f"{name} refused"] += 1
                await asyncio.sleep(0.2)
            await asyncio.sleep(pause_s)


class Evil:
    """A libp2p host at an address of its own, with one key after the other."""

    def __init__(self, attack: Attack, name: str, source: str, *, joins: bool) -> None:
        """`joins`: it takes part in the run's gossip."""
        self.attack = attack
        self.name = name
        self.keys: list[NodeKey] = []
        self.mesh: Libp2pMesh
        self.payload = b""
        self._source = source
        self._joins = joins
        self._gossip: dict[str, INetStream] = {}

    @property
    def key(self) -> NodeKey:
        """As who it is there now."""
        return self.keys[-1]

    async def start(self) -> None:
        """Be there, as somebody new."""
        self.keys.append(NodeKey(os.urandom(32)))
        self._gossip.clear()
        self.mesh = Libp2pMesh(self.key.seed, (), guest=self.attack.guest)
        tcp = self.mesh._tcp

        async def dial(maddr: Multiaddr) -> IRawConnection:
            raw = await tcp.dial_with_source(maddr, (self._source, 0))
            assert isinstance(raw, RawConnection)
            raw.stream = tcp._metered(raw.stream, trio.CancelScope())
            return raw

        tcp.dial = dial  # type: ignore[method-assign]
        await self.mesh.start()
        if self._joins:
            await self.mesh.join(self.attack.run_id, self._hear, self._serve)

    async def stop(self) -> None:
        """Be gone, whatever hangs."""
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self.mesh.stop(), 3)

    async def stay(self) -> list[str]:
        """Connect wherever it is not. The addresses where it is; where nobody wants it, as another.

        Raises Unreachable where it is nowhere.
        """
        where = []
        for address in self.attack.addresses:
            try:
                await self.mesh.connect(address)
                where.append(address)
            except Unreachable:
                self.attack.done[f"{self.name} refused"] += 1
        if not where:
            await asyncio.sleep(AWAY_S)
            await self.stop()
            await self.start()
            raise Unreachable("nobody wants us")
        return where

    async def say(self, address: str, said: bytes, hold_s: float = 1.0) -> None:
        """On a new stream with a node."""

        async def talk() -> None:
            with trio.move_on_after(hold_s), contextlib.suppress(BaseLibp2pError):
                stream: INetStream = await self.mesh._swarm.new_stream(_peer_id(address))
                await stream.write(said)
                self.attack.done[self.name] += 1
                while await stream.read(999):
                    pass

        await self.mesh._guest.call(talk)

    async def gossip(self, address: str, messages: Sequence[rpc_pb2.Message]) -> None:
        """In one frame, past our own limits."""
        frame = encode_varint_prefixed(rpc_pb2.RPC(publish=messages).SerializeToString())

        async def write() -> None:
            if address not in self._gossip:
                peer_id = _peer_id(address)
                self._gossip[address] = await self.mesh._host.new_stream(peer_id, [PROTOCOL_ID_V11])
            with trio.fail_after(WRITE_S):
                await self._gossip[address].write(frame)

        try:
            await self.mesh._guest.call(write)
        except BaseException:
            self._gossip.pop(address, None)
            raise
        self.attack.done[self.name] += len(messages)

    def sign(self, topic: Topic, content: bytes, author: NodeKey | None = None) -> rpc_pb2.Message:
        """A message as gossip wants it, by itself or by somebody else."""
        key = author or self.key
        message = rpc_pb2.Message(
            from_id=encode_peer_id_bytes(key.public),
            seqno=next(_numbers).to_bytes(8),
            data=content,
            topicIDs=[f"demo/{self.attack.run_id.hex()}/{topic}"],
        )
        told = PUBSUB_SIGNING_PREFIX.encode() + message.SerializeToString()
        message.signature = key.sign(told)
        return message

    def _hear(self, topic: Topic, peer: bytes, message: bytes) -> bool:
        if topic is Topic.HEADERS:
            self.attack.heard = [*self.attack.heard[-99:], message]
        return False

    async def _serve(self, peer: bytes, request: BlobRequest) -> bytes | None:
        """Bytes of the right length, with another hash, once it has announced any."""
        if request.kind is not Blob.PAYLOAD or not self.payload:
            return None
        self.attack.done["wrong payloads given"] += 1
        return os.urandom(len(self.payload))


def _peer_id(address: str) -> ID:
    return ID(encode_peer_id_bytes(decode_address(address)[1]))


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
                streams.append(await evil.mesh._swarm.new_stream(_peer_id(address)))
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


def lower(nice: int) -> None:
    """Leave others the processors.

    Linux may share them out among sessions first, to which it is nothing how nice a process is:
    among those it is to have a third of what others have, for with less it gets nothing done where
    many want them.
    """
    os.nice(nice)
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(min(nice, SESSION_NICE)))


def tell(attack: Attack, evils: Sequence[Evil]) -> None:
    """One line: what was done by now, and by whom."""
    keys = {evil.name: [encode_peer_id(key.public) for key in evil.keys] for evil in evils}
    sys.stdout.write(json.dumps({"keys": keys, "done": attack.done}) + "\n")
    sys.stdout.flush()


async def run(
    manifest: Manifest, nice: int, sources: dict[str, str], addresses: Sequence[str]
) -> None:
    """All of it at once. Raises what it fails by: nothing that a node does to it should."""
    guest = Guest()
    await guest.start()
    attack = Attack(manifest, addresses, guest)
    harm = {"garbage": garble, "forger": forge, "liar": lie, "sloth": dawdle}
    evils = [
        Evil(attack, name, sources[name], joins=name in ("forger", "liar"))
        for name in (*harm, *CROWDS)
        if name in sources
    ]
    for evil in evils:
        await evil.start()
        await evil.stay()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.readline)
    tasks = []
    for evil in evils:
        if evil.name in CROWDS:
            is_author = CROWDS[evil.name]
            stock = make_joins(evil, STOCK, is_author=is_author)
            tasks.append(asyncio.create_task(crowd(evil, stock, is_author=is_author)))
        else:
            tasks.append(asyncio.create_task(harm[evil.name](evil)))
    lower(nice)
    if "knocker" in sources:
        tasks.append(asyncio.create_task(knock(attack, sources["knocker"])))
    ending = asyncio.ensure_future(asyncio.to_thread(sys.stdin.readline))
    while not ending.done():
        done, _ = await asyncio.wait(
            [*tasks, ending], timeout=TELL_S, return_when=asyncio.FIRST_COMPLETED
        )
        for task in done - {ending}:
            task.result()
            raise AssertionError("it was to go on")
        tell(attack, evils)


def main() -> None:
    """See above."""
    path, nice, sources, *addresses = sys.argv[1:]
    manifest = decode_manifest(Path(path).read_bytes())
    try:
        uvloop.run(run(manifest, int(nice), json.loads(sources), addresses))
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)  # whatever hangs in it, hangs on purpose


if __name__ == "__main__":
    main()
