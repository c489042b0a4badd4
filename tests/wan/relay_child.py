"""What a node has to find others and be found, in a process of its own, without training.

python -m tests.wan.relay_child <number> <data folder> [<peer to dial>...]

Without a peer to dial it is a relay for everybody. It does what lines of JSON on its input say.
"""

import asyncio
import functools
import json
import sys
from pathlib import Path
from typing import Any

import uvloop

from demo_node.dialling_back import DialsBack
from demo_node.mesh.libp2p import Libp2pMesh
from demo_node.peering import Peering, find_address
from demo_node.ports import Blob, BlobRequest, Unreachable
from demo_node.reachability import Reachable
from demo_node.store.addresses import AddressBook
from demo_node.store.disk import FileDisk
from demo_node.system_clock import SystemClock
from demo_protocol.answers import encode_peers
from demo_protocol.networks import is_for
from tests.mesh.hosts import RUN, seed

PULL_S = 20.0


class Finder:
    """A mesh with the parts of a node that dial, ask and answer."""

    def __init__(self, number: int, folder: Path, named: list[str]) -> None:
        folder.mkdir(exist_ok=True)
        self.mesh = Libp2pMesh(seed(number), ["/ip4/0.0.0.0/tcp/4001"], is_relay=not named)
        self.mesh.carries = lambda peer: True
        self.book = AddressBook(FileDisk(), folder / "peers.json")
        self.peering = Peering(self.mesh, SystemClock(0), named=named, book=self.book)
        now_s = asyncio.get_running_loop().time
        self.reachable = Reachable(self.mesh, lambda name, **fields: None, now_s)
        self._find = functools.partial(find_address, self.mesh)
        self._dials_back = DialsBack(self.mesh.dial_back, self._find, now_s)

    async def run(self) -> None:
        """Until it is killed."""
        await self.mesh.start()
        await self.mesh.join(RUN, lambda topic, peer, message: True, self._answer)
        async with asyncio.TaskGroup() as group:
            group.create_task(self.mesh.wait())
            group.create_task(self.peering.run())
            group.create_task(self.reachable.run())
            group.create_task(self._obey())

    async def _answer(self, peer: bytes, request: BlobRequest) -> bytes | None:
        match request.kind:
            case Blob.PEERS:
                known = [*self.mesh.addresses(), *self.book.newest()]
                return encode_peers([a for a in known if is_for(a, self._find(peer))])
            case Blob.REACH:
                return await self._dials_back.answer(peer, request.key)
            case Blob.PAYLOAD:  # as many bytes as the key says
                return bytes(int(request.key))
            case _:
                return None

    async def _obey(self) -> None:
        while line := await asyncio.to_thread(sys.stdin.readline):
            sys.stdout.write(json.dumps(await self._do(*json.loads(line))) + "\n")
            sys.stdout.flush()

    async def _do(self, what: str, *words: str) -> Any:
        match what:
            case "show":
                view = self.reachable.view()
                return {
                    "name": self.mesh.peer.hex(),
                    "addresses": self.mesh.addresses(),
                    "state": view.state.value,
                    "relays": view.addresses,
                    "peers": {v.peer.hex(): v.address for v in self.mesh.peers()},
                    "figures": {f.name: f.value for f in self.mesh.relay_figures()},
                }
            case "pull":
                return await self._pull(*words)
            case _:
                raise AssertionError(what)

    async def _pull(self, peer: str, size: str) -> int | str:
        """How many bytes come, or why none do."""
        request = BlobRequest(Blob.PAYLOAD, size.encode())
        try:
            raw = await self.mesh.request(
                bytes.fromhex(peer), request, bytes_max=1 << 22, timeout_s=PULL_S
            )
        except Unreachable as error:
            return str(error)
        return len(raw)


async def main(number: int, folder: Path, named: list[str]) -> None:
    """Run one."""
    await Finder(number, folder, named).run()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]))
