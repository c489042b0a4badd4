"""A mesh in a process of its own, to be frozen and killed: connects to a peer and pulls from it."""

import asyncio
import sys

import uvloop

from demo_node.mesh.libp2p import Libp2pMesh
from demo_node.ports import Blob, BlobRequest, Unreachable
from tests.mesh.hosts import RUN, Host, seed


async def main(address: str, size: int) -> None:
    """Pull `size` bytes from the peer at `address`, again and again."""
    host = Host(Libp2pMesh(seed(200)))
    await host.mesh.start()
    await host.join()
    sys.stdout.write(host.address + "\n")
    sys.stdout.flush()
    while True:
        try:
            peer = await host.mesh.connect(address)
            await host.mesh.request(
                peer, BlobRequest(Blob.PAYLOAD, RUN), bytes_max=size, timeout_s=600
            )
        except Unreachable:
            await asyncio.sleep(0.05)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2])))
