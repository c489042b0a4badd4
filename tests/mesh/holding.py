"""Gossip whose links send at most one frame in a while: tried, measured, not built into the node.

docs/decisions/header-bundles.md has what it saves.
"""

from typing import Final

import libp2p.pubsub.gossipsub
import libp2p.pubsub.pubsub
import trio
from libp2p.pubsub.pb import rpc_pb2

from demo_node.mesh.links import LinkQueue

_NEVER: Final = float("-inf")


class HoldingQueue(LinkQueue):
    """A frame goes at once where the link has been silent for `hold_s`, else when it has.

    Messages that came meanwhile share it; each keeps its author's signature. (In the node a frame
    would need a bound in bytes: here the queue's 256 messages of one header each are one.)
    """

    hold_s = 0.0

    def __init__(self) -> None:
        super().__init__()
        self._sent_s = _NEVER

    async def pop(self) -> rpc_pb2.RPC | None:
        """The next frame; None where the queue has been closed."""
        first = await super().pop()
        if first is None or not first.publish:  # subscriptions, grafts: not held
            return first
        await trio.sleep_until(max(self._sent_s + self.hold_s, trio.current_time()))
        frame = rpc_pb2.RPC()
        frame.CopyFrom(first)  # the queues of all links share what was pushed
        while (more := self._queue.pop()) is not None:
            frame.MergeFrom(more)
        self._sent_s = trio.current_time()
        return frame


def make_queues(kind: type[LinkQueue]) -> None:
    """From here on every new link queues with this, by the names that the library looks up."""
    for module in (libp2p.pubsub.pubsub, libp2p.pubsub.gossipsub):
        if "RpcQueue" in vars(module):
            setattr(module, "RpcQueue", kind)  # noqa: B010 - not exported, says mypy
