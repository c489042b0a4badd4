"""An empty gossip mesh, while peers are connected, is begun again. Trio code.

The library grafts whom it knows to take part, once a second. Whom it does not know it never asks: a
peer whose stream was never opened (trap 14), or whose topics were forgotten with a stream that
broke, stays dumb for as long as the connection lasts.
"""

import trio
from libp2p.peer.id import ID

from demo_node.mesh import bounds
from demo_node.mesh.gossip import Gossip
from demo_node.ports import Topic


class Mender:
    """Watches for topics without a link."""

    def __init__(self, gossip: Gossip) -> None:
        self._gossip = gossip
        self._empty_since_s: float | None = None
        self._pause_s = bounds.GOSSIP_EMPTY_S

    async def run(self) -> None:
        """Look, for ever."""
        while True:
            await trio.sleep(bounds.GOSSIP_LOOK_S)
            await self.look(trio.current_time())

    async def look(self, now_s: float) -> None:
        """Begin again with everybody, if a topic has had no link for long enough."""
        peers = self._connected()
        if not peers or not self._gossip.is_joined or self._is_whole():
            self._empty_since_s, self._pause_s = None, bounds.GOSSIP_EMPTY_S
            return
        if self._empty_since_s is None:
            self._empty_since_s = now_s
        elif now_s - self._empty_since_s >= self._pause_s:
            self._empty_since_s = now_s
            self._pause_s = min(2 * self._pause_s, bounds.GOSSIP_EMPTY_MAX_S)
            for peer_id in peers:
                await self._gossip.pubsub.begin_again(peer_id)

    def _is_whole(self) -> bool:
        return all(self._gossip.mesh_peers(topic) for topic in Topic)

    def _connected(self) -> list[ID]:
        return list(self._gossip.pubsub.host.get_network().connections)
