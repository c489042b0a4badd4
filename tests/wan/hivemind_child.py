"""A mesh over Go libp2p in a process of its own: it does what lines of JSON on its input say.

python -m tests.wan.hivemind_child <number> [<peer that may carry us>...]
"""

import asyncio
import contextlib
import json
import sys
from typing import Any

import uvloop

from demo_node.mesh.hivemind.backend import HivemindMesh
from demo_node.mesh.peer_id import encode_peer_id
from demo_node.ports import Blob, BlobRequest, Unreachable
from tests.mesh.hosts import RUN, seed
from tests.waiting import wait_until

MEET_S = 60.0


async def main(number: int, relays: list[str]) -> None:
    """Answer until the input ends."""
    mesh = HivemindMesh(seed(number), ["/ip4/0.0.0.0/tcp/4001"], relays=relays, is_relay=not relays)
    await mesh.start()
    await mesh.join(RUN, lambda topic, peer, message: True, hold)
    while line := await asyncio.to_thread(sys.stdin.readline):
        answer = await obey(mesh, relays, *json.loads(line))
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    await mesh.stop()


async def obey(mesh: HivemindMesh, relays: list[str], what: str, *words: str) -> Any:
    """Do one thing."""
    match what:
        case "addresses":
            return [address for address in mesh.addresses() if words[0] in address]
        case "connect":
            await mesh.connect(words[0])
            return mesh.peer.hex()
        case "meet":  # by the DHT, and whoever it takes
            peer = bytes.fromhex(words[0])
            await wait_until(lambda: peer in {view.peer for view in mesh.peers()}, MEET_S)
            (view,) = [view for view in mesh.peers() if view.peer == peer]
            return {"address": view.address, "outbound": view.outbound}
        case "pull":
            request = BlobRequest(Blob.PAYLOAD, words[1].encode())
            peer = bytes.fromhex(words[0])
            return len(await pull(mesh, relays, peer, request))
        case _:
            raise AssertionError(what)


async def pull(mesh: HivemindMesh, relays: list[str], peer: bytes, request: BlobRequest) -> bytes:
    """As nodes do: what breaks off is asked for again (`Puller`), whoever is gone dialled again
    (`Peering`).

    Seen once each: 98,295 of 300,000 bytes came, 96 KiB with their head; the connection by way of
    the relay was gone when something was asked for (docs/decisions/hivemind.md).
    """
    async with asyncio.timeout(MEET_S):
        while True:
            try:
                return await mesh.request(peer, request, bytes_max=1 << 22, timeout_s=MEET_S)
            except Unreachable:
                await asyncio.sleep(0.5)
            if peer not in {view.peer for view in mesh.peers()}:
                with contextlib.suppress(Unreachable):
                    await mesh.connect(f"{relays[0]}/p2p-circuit/p2p/{encode_peer_id(peer)}")


async def hold(peer: bytes, request: BlobRequest) -> bytes | None:
    """As many bytes as the key says."""
    return bytes(int(request.key))


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), sys.argv[2:]))
