"""A node of `demo-node bench mesh`: a mesh and what a daemon does with it, as a process.

Told what to do by lines of JSON on standard input, and answers each with one.
"""

import asyncio
import functools
import hashlib
import json
import secrets
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from demo_node.arrivals import Arrivals
from demo_node.copies import Copies
from demo_node.giving import Giving
from demo_node.ports import Blob, BlobRequest, Topic
from demo_node.pull import Puller
from demo_protocol.effects import PullPayload

if TYPE_CHECKING:
    from demo_node.mesh.hivemind.backend import HivemindMesh
    from demo_node.mesh.libp2p import Libp2pMesh

PATIENCE_S: Final = 30.0
"""Nobody freezes here."""

RUN_ID: Final = hashlib.sha256(b"demo-node bench mesh").digest()


class Pulling(Protocol):
    """What is measured of either side."""

    async def start(self) -> str:
        """Listen; the address to dial."""
        ...

    async def connect(self, address: str) -> None:
        """Dial a peer."""
        ...

    async def hold(self, content: bytes) -> str:
        """What is to be served; the name under which others ask for it."""
        ...

    async def pull(self, names: Sequence[str], size: int) -> None:
        """Get all of these, at once."""
        ...

    async def stop(self) -> None:
        """Close everything."""
        ...


class Daemon:
    """The mesh of a daemon, its way of pulling, and a store in memory that serves on."""

    def __init__(self, mesh: "Libp2pMesh | HivemindMesh") -> None:
        self._mesh = mesh
        self._puller = Puller(self._mesh)
        self._held: dict[bytes, bytes] = {}
        self._arrivals, self._copies = Arrivals(), Copies()
        self._giving = Giving(self._read, self._arrivals, self._copies, lambda name, size: None)
        self.heard: list[tuple[str, float]] = []
        """Messages of others, with the time of each, in seconds of the machine."""

    async def start(self) -> str:
        """Listen, and take part."""
        await self._mesh.start()
        await self._mesh.join(RUN_ID, self._on_gossip, self._on_blob, self._on_answered)
        return self._mesh.addresses()[0]

    async def connect(self, address: str) -> None:
        """Dial a peer."""
        await self._mesh.connect(address)

    async def hold(self, content: bytes) -> str:
        """Serve this, and nothing of earlier turns."""
        name = hashlib.sha256(content).digest()
        self._held = {name: content}
        self._copies.add_own(name)
        return f"{name.hex()}/{self._mesh.peer.hex()}"

    async def pull(self, names: Sequence[str], size: int) -> None:
        """By hash from whoever has it, as rounds do."""
        await asyncio.gather(*(self._pull(name, size) for name in names))

    async def publish(self, message: str) -> None:
        """Tell all."""
        await self._mesh.publish(Topic.HEADERS, message.encode())

    def count_links(self) -> int:
        """Of the gossip mesh."""
        return self._mesh.mesh_peers(Topic.HEADERS)

    async def stop(self) -> None:
        """Close everything."""
        await self._mesh.stop()

    async def _pull(self, name: str, size: int) -> None:
        payload_hash, author = map(bytes.fromhex, name.split("/"))
        effect = PullPayload(payload_hash, size, 0, 0, (author,))
        self._arrivals.begin(payload_hash)
        try:
            raw = await self._puller.pull_payload(effect, lambda: True, PATIENCE_S)
            assert raw is not None  # wanted for ever
            self._held[payload_hash] = raw
            self._arrivals.come(payload_hash, raw)
        finally:
            self._arrivals.end(payload_hash)

    async def _read(self, name: bytes) -> bytes | None:
        return self._held.get(name)

    async def _on_blob(self, asking: bytes, request: BlobRequest) -> bytes | None:
        is_payload = request.kind is Blob.PAYLOAD
        return await self._giving.answer(asking, request) if is_payload else None

    def _on_answered(self, asking: bytes, request: BlobRequest, size: int) -> None:
        self._giving.on_answered(asking, request, size)

    def _on_gossip(self, _: Topic, __: bytes, message: bytes) -> bool:
        self.heard.append((message.decode().split()[0], time.monotonic()))
        return True


async def obey(node: Pulling, read_line: Callable[[], Awaitable[str]]) -> None:
    """Do what the lines say until there are no more. Under asyncio or trio, whichever `node` is."""
    while line := await read_line():
        order = json.loads(line)
        answer = await _do(node, order["do"], order)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    await node.stop()


async def _do(node: Pulling, what: str, order: dict[str, Any]) -> Any:
    match what:
        case "start":
            return await node.start()
        case "connect":
            for address in order["addresses"]:
                await node.connect(address)
            return None
        case "hold":
            return await node.hold(secrets.token_bytes(order["size"]))
        case "pull":
            begin_s = time.monotonic()
            await node.pull(order["names"], order["size"])
            return [begin_s, time.monotonic()]
        case _:
            assert isinstance(node, Daemon)
            return await _do_gossip(node, what, order)


async def _do_gossip(node: Daemon, what: str, order: dict[str, Any]) -> Any:
    match what:
        case "links":
            return node.count_links()
        case "publish":
            begin_s = time.monotonic()
            await node.publish(order["message"])
            return begin_s
        case "heard":
            return node.heard
        case _:
            raise ValueError(what)


async def _daemon(engine: str) -> None:
    loop = asyncio.get_running_loop()
    node = Daemon(_make_mesh(engine))
    await obey(node, functools.partial(loop.run_in_executor, None, sys.stdin.readline))


def _make_mesh(engine: str) -> "Libp2pMesh | HivemindMesh":
    """One that dials nobody by itself, so that links are those that were asked for."""
    seed = secrets.token_bytes(32)
    if engine == "hivemind":
        from demo_node.mesh.hivemind.backend import HivemindMesh

        return HivemindMesh(seed, discovers=False)
    from demo_node.mesh.libp2p import Libp2pMesh

    return Libp2pMesh(seed)


async def _bare() -> None:
    import trio

    from demo_node.bench.bare import BareHost

    await obey(BareHost(), functools.partial(trio.to_thread.run_sync, sys.stdin.readline))


def main(engine: str) -> None:
    """Be a node of one kind."""
    if engine == "bare":
        import trio

        trio.run(_bare)
    else:
        import uvloop

        uvloop.run(_daemon(engine))


if __name__ == "__main__":
    main(sys.argv[1])
