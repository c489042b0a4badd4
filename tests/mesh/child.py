"""A mesh in a process of its own, to be frozen and killed. It tells its address in one line.

python -m tests.mesh.child pull <peer's address> <bytes>    pulls so much, again and again
python -m tests.mesh.child echo <peer's address> <port>     listens there; answers all gossip
"""

import asyncio
import sys

import uvloop

from demo_node.mesh.libp2p import Libp2pMesh
from demo_node.ports import Blob, BlobRequest, Topic, Unreachable
from tests.mesh.hosts import RUN, Host, seed

ECHO = b"echo: "


async def main(role: str, address: str, number: int) -> None:
    """Play a role until somebody ends it."""
    port = number if role == "echo" else 0
    host = Host(Libp2pMesh(seed(200), [f"/ip4/127.0.0.1/tcp/{port}"]))
    await host.mesh.start()
    await host.join()
    sys.stdout.write(host.address + "\n")
    sys.stdout.flush()
    while True:
        try:
            await (pull(host, address, number) if role == "pull" else echo(host, address))
        except Unreachable:
            await asyncio.sleep(0.05)


async def pull(host: Host, address: str, size: int) -> None:
    """Pull a payload."""
    peer = await host.mesh.connect(address)
    await host.mesh.request(peer, BlobRequest(Blob.PAYLOAD, RUN), bytes_max=size, timeout_s=600)


async def echo(host: Host, address: str) -> None:
    """Be connected, and answer what was heard, once there is somebody to answer to."""
    await host.mesh.connect(address)
    while host.heard and host.mesh.mesh_peers(Topic.HEADERS):
        _, _, message = host.heard.pop(0)
        await host.mesh.publish(Topic.HEADERS, ECHO + message)
    await asyncio.sleep(0.05)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
