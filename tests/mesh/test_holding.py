from libp2p.pubsub.pb import rpc_pb2

from demo_node.mesh.links import LinkQueue
from demo_node.ports import Topic
from tests.mesh.holding import HoldingQueue, make_queues
from tests.mesh.hosts import hosts, link, on_uvloop
from tests.waiting import wait_until

FRAMES: list[int] = []
"""Messages in each frame that went out."""


class Watched(HoldingQueue):
    hold_s = 0.5

    async def pop(self) -> rpc_pb2.RPC | None:
        frame = await super().pop()
        if frame is not None and frame.publish:
            FRAMES.append(len(frame.publish))
        return frame


@on_uvloop
async def test_messages_share_frames_and_all_come() -> None:
    make_queues(Watched)
    try:
        async with hosts(2) as (a, b):
            await link((a, b))
            sent = [bytes([number]) * 300 for number in range(40)]
            for message in sent:
                await a.mesh.publish(Topic.HEADERS, message)
            await wait_until(lambda: len(b.heard) == len(sent))
            assert sorted(b.messages()) == sent
            assert sum(FRAMES) == len(sent)
            assert len(FRAMES) < len(sent) / 4
    finally:
        make_queues(LinkQueue)
