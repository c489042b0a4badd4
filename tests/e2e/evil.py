"""A libp2p host that does to nodes what no honest peer does, and comes back when it is banned."""

import asyncio
import contextlib
import itertools
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import trio
from libp2p.abc import INetStream, IRawConnection
from libp2p.exceptions import BaseLibp2pError
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.validators import PUBSUB_SIGNING_PREFIX
from libp2p.utils.varint import encode_varint_prefixed
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from demo_node.mesh.addresses import decode_address
from demo_node.mesh.guest import Guest
from demo_node.mesh.libp2p import Libp2pMesh
from demo_node.mesh.peer_id import encode_peer_id_bytes
from demo_node.ports import Blob, BlobRequest, Topic, Unreachable
from demo_node.store.key import NodeKey
from demo_node.system_clock import SystemClock
from demo_protocol.manifest import Manifest, compute_run_id
from demo_protocol.schedule import round_at

AWAY_S: Final = 3.0
"""Before who is refused everywhere comes back as somebody else."""

WRITE_S: Final = 2.0
"""Who reads no faster has stopped to listen to us."""

PAUSE_S: Final = 0.02
"""Between two blows: what is measured is what they cost the nodes, not what they cost here."""

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
                stream: INetStream = await self.mesh._swarm.new_stream(peer_id_of(address))
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
                peer_id = peer_id_of(address)
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


def peer_id_of(address: str) -> ID:
    """Of the node there."""
    return ID(encode_peer_id_bytes(decode_address(address)[1]))
