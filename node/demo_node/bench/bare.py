"""What a mesh is compared with: py-libp2p as it comes, and a stream for each reply. Trio code.

The same encryption and multiplexing as ours, since everything else is a choice of these two; no
gossip, no limits, no counters, no check of what came.
"""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Final

import trio
from libp2p import generate_new_ed25519_identity, new_host
from libp2p.abc import INetStream
from libp2p.crypto.x25519 import create_new_key_pair
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as Noise
from multiaddr import Multiaddr  # type: ignore[import-untyped]

PROTOCOL: Final = TProtocol("/bench/1")
PIECE_BYTES: Final = 256 << 10
LENGTH_BYTES: Final = 8


class BareHost:
    """Gives what it holds to whoever opens a stream."""

    def __init__(self) -> None:
        key = generate_new_ed25519_identity()
        noise = Noise(key, noise_privkey=create_new_key_pair().private_key)
        self._host = new_host(key_pair=key, sec_opt={NOISE: noise})
        self._running = AsyncExitStack()
        self._content = b""

    async def start(self) -> str:
        """Listen; the address to dial."""
        self._host.set_stream_handler(PROTOCOL, self._serve)
        listening = self._host.run(listen_addrs=[Multiaddr("/ip4/127.0.0.1/tcp/0")])
        await self._running.enter_async_context(listening)
        return str(self._host.get_addrs()[0])

    async def connect(self, address: str) -> None:
        """Dial a peer."""
        await self._host.connect(info_from_p2p_addr(Multiaddr(address)))

    async def hold(self, content: bytes) -> str:
        """What is to be served; the name under which others ask for it."""
        self._content = content
        return str(self._host.get_id())

    async def pull(self, names: Sequence[str], size: int) -> None:
        """Get from each peer what it serves, all at once."""
        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(self._pull, ID.from_string(name), size)

    async def stop(self) -> None:
        """Close everything."""
        await self._running.aclose()

    async def _pull(self, peer: ID, size: int) -> None:
        stream = await self._host.new_stream(peer, [PROTOCOL])
        length = int.from_bytes(await _read_exact(stream, LENGTH_BYTES))
        if length != size:
            raise ValueError(f"{length} bytes, {size} were awaited")
        await _read_exact(stream, length)
        await stream.close()

    async def _serve(self, stream: INetStream) -> None:
        await stream.write(len(self._content).to_bytes(LENGTH_BYTES))
        for start in range(0, len(self._content), PIECE_BYTES):
            await stream.write(self._content[start : start + PIECE_BYTES])
        await stream.close()


async def _read_exact(stream: INetStream, size: int) -> bytes:
    out = bytearray()
    while len(out) < size:
        piece = await stream.read(min(size - len(out), PIECE_BYTES))
        if not piece:
            raise EOFError(f"{len(out)} of {size} bytes came")
        out += piece
    return bytes(out)
