"""What goes wrong between nodes, asked about one message or one pull at a time.

Links that are slow, lossy or cut whatever they carry are `mesh.memory.MemoryNetwork`'s own; the
functions here know what is carried. A test replaces them, also while the swarm runs.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from demo_node.ports import BlobRequest, OnBlob, OnGossip, Topic


@dataclass(frozen=True, slots=True)
class Heard:
    """One gossip message as it reaches `receiver`."""

    receiver: bytes
    topic: Topic
    sender: bytes
    message: bytes


@dataclass(frozen=True, slots=True)
class Asked:
    """One pull as it reaches `holder`."""

    holder: bytes
    asking: bytes
    request: BlobRequest


@dataclass(slots=True)
class Faults:
    """Seconds until a message is heard, None for never; until a pull is answered, None for a no."""

    held_back_s: Callable[[Heard], float | None] = lambda heard: 0.0
    answered_s: Callable[[Asked], float | None] = lambda asked: 0.0

    def wrap_gossip(self, receiver: bytes, on_gossip: OnGossip) -> OnGossip:
        """`on_gossip`, reached late or never. What is late is forwarded at once all the same."""

        def hear(topic: Topic, sender: bytes, message: bytes) -> bool:
            delay_s = self.held_back_s(Heard(receiver, topic, sender, message))
            if delay_s is None:
                return False
            if delay_s == 0:
                return on_gossip(topic, sender, message)
            loop = asyncio.get_running_loop()
            loop.call_later(delay_s, on_gossip, topic, sender, message)
            return True

        return hear

    def wrap_blob(self, holder: bytes, on_blob: OnBlob) -> OnBlob:
        """`on_blob`, answering late or not at all."""

        async def answer(asking: bytes, request: BlobRequest) -> bytes | None:
            delay_s = self.answered_s(Asked(holder, asking, request))
            if delay_s is None:
                return None
            if delay_s > 0:
                await asyncio.sleep(delay_s)
            return await on_blob(asking, request)

        return answer
