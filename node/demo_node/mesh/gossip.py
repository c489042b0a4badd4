"""Gossip over libp2p's gossipsub. Trio code."""

from collections.abc import Callable, Iterable
from typing import Any

import libp2p.pubsub.gossipsub
import libp2p.pubsub.pubsub
import trio
from libp2p.abc import IHost, ISubscriptionAPI
from libp2p.custom_types import SyncValidatorFn
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11, GossipSub
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.validators import signature_validator

from demo_node.mesh import bounds
from demo_node.mesh.links import LinkedPubsub, LinkQueue, blame_forwarder
from demo_node.mesh.peer_id import decode_peer_id_bytes
from demo_node.ports import Offence, OnGossip, Topic
from demo_protocol.errors import LocalFault


def _is_signed(message: rpc_pb2.Message) -> bool:
    """Is the signature right? The library raises when the key beside it is none (trap 53).

    Everybody looks before it passes a message on, so whoever handed over a wrong one is to blame.
    """
    try:
        is_signed = signature_validator(message)
    except Exception:  # of any kind: each sort of key is read by a package of its own
        is_signed = False
    if not is_signed:
        blame_forwarder(Offence.MESSAGE)
    return is_signed


# The library looks up by these names what it queues with, what checks a signature, and what it does
# about a signed list of addresses in each frame. It refuses whatever comes with a list older than
# one it has seen: a peer whose clock was set back, or a second node with its key, would make the
# other dumb (trap 42). Nobody here reads the lists, and they cost two signature checks a frame.
_CHANGED = {
    "RpcQueue": LinkQueue,
    "signature_validator": _is_signed,
    "maybe_consume_signed_record": lambda message, host, peer_id: True,
    "env_to_send_in_RPC": lambda host: (b"", False),
}
for _module in (libp2p.pubsub.pubsub, libp2p.pubsub.gossipsub):
    for _name in _CHANGED.keys() & vars(_module).keys():
        setattr(_module, _name, _CHANGED[_name])


class SteadyGossipSub(GossipSub):
    """Gossipsub whose mesh stays symmetric (trap 32).

    The library's heartbeat collects control messages without clearing them between peers, so some
    get GRAFTs and PRUNEs meant for others, and it grafts two more peers every second for as long as
    no score speaks against them, only to prune half of them at the upper degree. Among 14 hosts
    some had an empty mesh after 4 s while others counted 13 links. It does not let those wait that
    it prunes itself, either, as gossipsub 1.1 has it.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.scorer = None  # who is a member is decided above; no scores, no grafting for scores

    def remove_peer(self, peer_id: ID) -> None:
        """Forget a peer, and that it must wait: it may have restarted, and be back in a second."""
        super().remove_peer(peer_id)
        for waiting in self.back_off.values():
            waiting.pop(peer_id, None)

    def _get_peers_to_send(
        self, topic_ids: Iterable[str], msg_forwarder: ID, origin: ID, msg_id: bytes | None = None
    ) -> Iterable[ID]:
        """Everybody in the mesh but who sent it; to its author, too, where another sent it.

        The author of a message that comes by a detour has it, unless there are two of it: a copied
        data folder. Then this is how one learns of the other (trap 41).
        """
        assert isinstance(self.pubsub, LinkedPubsub)
        me = self.pubsub.my_id
        sender = me if self.pubsub.has_several(msg_forwarder) else msg_forwarder
        return super()._get_peers_to_send(topic_ids, sender, me, msg_id)

    async def _emit_control_msgs(
        self,
        peers_to_graft: dict[ID, list[str]],
        peers_to_prune: dict[ID, list[str]],
        peers_to_gossip: dict[ID, dict[str, list[bytes]]],
    ) -> None:
        self.recent_message_deliveries.clear()  # a time for every message ever, for adaptive gossip
        for peer, topics in peers_to_prune.items():
            for topic in topics:  # else its GRAFT that crosses our PRUNE makes a link of one side
                self._add_back_off(peer, topic, is_unsubscribe=False)
        for peer in {*peers_to_graft, *peers_to_prune, *peers_to_gossip}:
            control = rpc_pb2.ControlMessage(
                graft=[rpc_pb2.ControlGraft(topicID=t) for t in peers_to_graft.get(peer, ())],
                prune=[
                    rpc_pb2.ControlPrune(topicID=t, backoff=self.prune_back_off)
                    for t in peers_to_prune.get(peer, ())
                ],
                ihave=[
                    rpc_pb2.ControlIHave(topicID=t, messageIDs=ids)
                    for t, ids in peers_to_gossip.get(peer, {}).items()
                ],
            )
            await self.emit_control_message(control, peer)


class Gossip:
    """The topics of one run.

    A message reaches `on_gossip` from the library's topic validator. That is the one place where
    the verdict decides: a message it refuses is neither forwarded nor handed on. It runs inline,
    between the check for duplicates and the mark that makes one, so each message comes once. One
    that was published here does not come back; one of another node with our key does, and of our
    own from before a restart.
    """

    def __init__(self, host: IHost, fail: Callable[[Exception], None]) -> None:
        self._me = host.get_id()
        self._fail = fail
        self._topics: dict[Topic, str] = {}
        self.router = SteadyGossipSub(
            # 1.2 adds a frame per message and link that saves nothing at our sizes: twice the CPU.
            protocols=[PROTOCOL_ID_V11],
            degree=bounds.GOSSIP_DEGREE,
            degree_low=bounds.GOSSIP_DEGREE_LOW,
            degree_high=bounds.GOSSIP_DEGREE_HIGH,
            heartbeat_interval=bounds.GOSSIP_HEARTBEAT_S,
            prune_back_off=bounds.GOSSIP_PRUNE_BACK_OFF_S,
            spam_protection_enabled=False,  # 10 messages a second and link is a small run (trap 6)
            adaptive_gossip_enabled=False,  # it would set the heartbeat back to a minute (trap 3)
        )
        self.pubsub = LinkedPubsub(
            host,
            self.router,
            strict_signing=True,
            max_subscriptions_per_peer=bounds.SUBSCRIPTIONS_PER_PEER_MAX,
        )

    async def join(self, run_id: bytes, on_gossip: OnGossip, nursery: trio.Nursery) -> None:
        """Subscribe to the topics of a run."""
        if self._topics:
            raise LocalFault("a run was joined before")
        self._topics = {topic: f"demo/{run_id.hex()}/{topic}" for topic in Topic}
        # From here on; what a peer told us of other runs before is bounded by its number.
        self.pubsub.allowed_topics = frozenset(self._topics.values())
        self.pubsub.join_topic = self._topics[Topic.MEMBERSHIP]
        for topic, name in self._topics.items():
            self.pubsub.set_topic_validator(name, self._validator(topic, on_gossip), False)
            nursery.start_soon(_drain, await self.pubsub.subscribe(name))

    async def publish(self, topic: Topic, message: bytes) -> None:
        """Send to the mesh. Raises LocalFault where gossipsub would drop in silence (trap 2)."""
        if not self._topics:
            raise LocalFault("no run was joined")
        bytes_max = bounds.TOPIC_BYTES_MAX[topic]
        if len(message) > bytes_max:
            raise LocalFault(f"{topic}: {len(message)} bytes, at most {bytes_max} are gossiped")
        with trio.fail_after(bounds.PUBLISH_S):
            await self.pubsub.publish(self._topics[topic], message)

    @property
    def is_joined(self) -> bool:
        """Are there topics?"""
        return bool(self._topics)

    def is_ours(self, peer_id: ID) -> bool:
        """Did it say that it takes part in our run?"""
        names = self._topics.values()
        return any(peer_id in self.pubsub.peer_topics.get(name, ()) for name in names)

    def is_elsewhere(self, peer_id: ID) -> bool:
        """Did it say that it takes part in another run, and not in ours?"""
        return self.is_joined and peer_id in self.pubsub.told and not self.is_ours(peer_id)

    def mesh_peers(self, topic: Topic) -> int:
        """Links of the gossip mesh. None while peers are connected is an alarm (trap 4).

        Whom nothing can be sent to is none: a GRAFT that comes in makes one, with or without.
        """
        name = self._topics.get(topic)
        return len(self.router.mesh.get(name, set()) & self.pubsub.peers.keys()) if name else 0

    def _validator(self, topic: Topic, on_gossip: OnGossip) -> SyncValidatorFn:
        bytes_max = bounds.TOPIC_BYTES_MAX[topic]

        def validate(forwarder: ID, message: rpc_pb2.Message) -> bool:
            if forwarder == self._me:
                return True  # published here: goes out, is not handed back
            # Several topics would call several validators, or one of them several times.
            if len(message.topicIDs) != 1 or len(message.data) > bytes_max:
                blame_forwarder(Offence.MESSAGE)
                return False
            try:
                peer = decode_peer_id_bytes(forwarder.to_bytes())
            except ValueError:
                return False
            try:
                return on_gossip(topic, peer, message.data)
            except Exception as error:
                # Our bug. Raised here it would end in whatever library task carried the message;
                # this way it ends the mesh, and the daemon with it, and `wait` tells.
                self._fail(error)
                return False

        return validate


async def _drain(inbox: ISubscriptionAPI) -> None:
    """Empty the subscription, which the validator has made redundant; full, it logs and drops."""
    while True:
        await inbox.get()
