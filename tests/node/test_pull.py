"""How many payloads are being pulled is known, whatever becomes of them."""

import asyncio
import hashlib

from demo_node.mesh.memory import MemoryNetwork
from demo_node.ports import BlobRequest
from demo_node.pull import PULLS_MAX, Puller
from demo_node.sim.keys import peer_name
from demo_node.sim.whole.virtual_loop import run_virtual
from demo_protocol.events import PullPayload

CONTENT = b"payload"


def test_payloads_that_are_pulled_or_wait_for_their_turn_are_counted() -> None:
    async def scenario() -> None:
        network = MemoryNetwork()
        mesh, holder = network.add(peer_name(0)), network.add(peer_name(1))
        network.connect_all()
        answers = asyncio.Event()

        async def answer(asking: bytes, request: BlobRequest) -> bytes | None:
            await answers.wait()
            return CONTENT

        await holder.join(bytes(32), lambda topic, sender, message: True, answer)
        puller = Puller(mesh)
        effect = PullPayload(
            hashlib.sha256(CONTENT).digest(), len(CONTENT), k=1, round=0, holders=(holder.peer,)
        )

        def pulling() -> list[tuple[str, float, tuple[str, ...]]]:
            return [(f.name, f.value, f.labels) for f in puller.figures()]

        assert pulling() == [("demo_queue_depth", 0, ("pulls",))]
        pulls = [
            asyncio.create_task(puller.pull_payload(effect, lambda: True, 10.0))
            for _ in range(PULLS_MAX + 3)
        ]
        await asyncio.sleep(1)
        assert pulling() == [("demo_queue_depth", PULLS_MAX + 3, ("pulls",))]
        assert holder.serving() == PULLS_MAX
        pulls.pop().cancel()
        answers.set()
        assert await asyncio.gather(*pulls) == [CONTENT] * (PULLS_MAX + 2)
        assert pulling() == [("demo_queue_depth", 0, ("pulls",))]
        assert holder.serving() == 0

    run_virtual(scenario())
