"""A mesh over Go libp2p in a process of its own: it does what lines of JSON on its input say.

python -m tests.wan.hivemind_child <number> [<peer that may carry us>...]
"""

import asyncio
import json
import sys
from typing import Any

import uvloop

from demo_node.mesh.hivemind.backend import HivemindMesh
from demo_node.ports import Blob, BlobRequest
from tests.mesh.hosts import RUN, seed
from tests.waiting import wait_until

MEET_S = 60.0


async def main(number: int, relays: list[str]) -> None:
    """Answer until the input ends."""
    mesh = HivemindMesh(seed(number), ["/ip4/0.0.0.0/tcp/4001"], relays=relays, is_relay=not relays)
    await mesh.start()
    await mesh.join(RUN, lambda topic, peer, message: True, hold)
    while line := await asyncio.to_thread(sys.stdin.readline):
        answer = await obey(mesh, *json.loads(line))
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    await mesh.stop()


async def obey(mesh: HivemindMesh, what: str, *words: str) -> Any:
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
            raw = await mesh.request(peer, request, bytes_max=1 << 22, timeout_s=MEET_S)
            return len(raw)
        case _:
            raise AssertionError(what)


async def hold(peer: bytes, request: BlobRequest) -> bytes | None:
    """As many bytes as the key says."""
    return bytes(int(request.key))


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), sys.argv[2:]))
