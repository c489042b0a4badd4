"""What this node signs, on its way out: onto the disk first, then to the others (rule 10).

The machine knows at once what it has signed, and so do all who may ask it. Until it is durable
nobody may be given it: after a crash this node could not tell its own words from a twin's.
"""

import asyncio
from collections.abc import Mapping

from demo_node.ports import Mesh, RoundStore, Topic
from demo_protocol.effects import Announce, Persist
from demo_protocol.identity import Kind


class Outbox:
    """Writes in order and sends in order; what the network takes its time for delays no writing."""

    def __init__(self, store: RoundStore, mesh: Mesh, topics: Mapping[Kind, Topic]) -> None:
        self._store = store
        self._mesh = mesh
        self._topics = topics
        self._to_write: asyncio.Queue[Persist | Announce] = asyncio.Queue()
        self._to_send: asyncio.Queue[Announce] = asyncio.Queue()
        self.unwritten: set[bytes] = set()
        """Names of our messages that may not be on the disk yet: `serve.Server` withholds them."""

    def put(self, effect: Persist | Announce) -> None:
        """Write or send this after all that was put before."""
        if isinstance(effect, Persist):
            self.unwritten.add(effect.hash)
        self._to_write.put_nowait(effect)

    async def run_writing(self) -> None:
        """Write what is signed. What is to be sent may be, once all before it is durable."""
        while True:
            effect = await self._to_write.get()
            match effect:
                case Persist(kind, round_, hash_, raw):
                    await self._store.persist_signed(kind, round_, hash_, raw)
                    self.unwritten.discard(hash_)
                case Announce():
                    self._to_send.put_nowait(effect)
            self._to_write.task_done()

    async def run_sending(self) -> None:
        """Hand what is written to the network, which may let us wait."""
        while True:
            announced = await self._to_send.get()
            await self._mesh.publish(self._topics[announced.kind], announced.raw)
            self._to_send.task_done()

    @property
    def depth(self) -> int:
        """Messages that wait to be written or sent."""
        return self._to_write.qsize() + self._to_send.qsize()

    async def wait_written(self) -> None:
        """Return when all that was signed is durable."""
        await self._to_write.join()

    async def flush(self) -> None:
        """Return when all that was to be sent is."""
        await self._to_write.join()
        await self._to_send.join()
