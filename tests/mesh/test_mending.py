"""A gossip mesh that is empty while peers are connected is whole again, whatever emptied it."""

from collections.abc import Callable

import pytest
import trio
from libp2p.peer.id import ID

from demo_node.mesh import bounds
from demo_node.mesh.mending import Mender
from demo_node.mesh.peer_id import encode_peer_id_bytes
from demo_node.ports import Topic
from tests.mesh.hosts import Host, hosts, link, on_uvloop
from tests.waiting import wait_until


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pauses are for the internet."""
    monkeypatch.setattr(bounds, "GOSSIP_LOOK_S", 0.3)
    monkeypatch.setattr(bounds, "GOSSIP_EMPTY_S", 3.0)  # a busy machine needs one to link


def name(host: Host) -> ID:
    return ID(encode_peer_id_bytes(host.mesh.peer))


def empty(a: Host, b: Host) -> None:
    """All links gone at both ends, as after each has pruned the other."""
    for host in (a, b):
        for links in host.mesh._gossip.router.mesh.values():
            links.clear()


def forget_stream(a: Host, b: Host) -> None:
    """The peer has no gossip stream, as in trap 14."""
    gossip, peer_id = a.mesh._gossip, name(b)
    gossip.pubsub.peers.pop(peer_id)
    gossip.pubsub.peer_queues.pop(peer_id).close()
    gossip.router.remove_peer(peer_id)


def forget_topics(a: Host, b: Host) -> None:
    """The peer told once what it takes part in, and we have forgotten."""
    empty(a, b)
    forget_what_was_told(a, b)


def forget_on_one_side(a: Host, b: Host) -> None:
    """As before, but the peer has its link, and nothing to say."""
    for links in a.mesh._gossip.router.mesh.values():
        links.clear()
    forget_what_was_told(a, b)


def forget_what_was_told(a: Host, b: Host) -> None:
    for peers in a.mesh._gossip.pubsub.peer_topics.values():
        peers.discard(name(b))
    for told in a.mesh._gossip.pubsub._told.values():
        told.clear()


def forget_all(a: Host, b: Host) -> None:
    forget_stream(a, b)
    forget_topics(a, b)


BREAKS = [empty, forget_stream, forget_topics, forget_on_one_side, forget_all]


def is_whole(host: Host) -> bool:
    return all(host.mesh.mesh_peers(topic) for topic in Topic)


async def hear(a: Host, b: Host) -> None:
    """Each hears what the other says, and once."""
    for host, message in ((a, b"from a"), (b, b"from b")):
        await host.mesh.publish(Topic.HEADERS, message)
    await wait_until(lambda: b"from b" in a.messages() and b"from a" in b.messages())
    assert (a.messages().count(b"from b"), b.messages().count(b"from a")) == (1, 1)


@pytest.mark.parametrize("breaks", BREAKS)
@on_uvloop
async def test_it_comes_back_by_itself(breaks: Callable[[Host, Host], None]) -> None:
    async with hosts(2) as (a, b):
        await link((a, b))
        breaks(a, b)
        assert not is_whole(a)
        await wait_until(lambda: is_whole(a) and is_whole(b), 45)
        await hear(a, b)
        assert len(a.mesh.peers()) == len(b.mesh.peers()) == 1


class Broken:
    """A gossip that stays empty, and how often it was begun again."""

    is_joined = True

    def __init__(self) -> None:
        self.pubsub = self.host = self
        self.connections = {ID(b"peer"): ()}
        self.links = 0
        self.begun_s: list[float] = []
        self.now_s = 0.0

    def get_network(self) -> "Broken":
        return self

    def mesh_peers(self, topic: Topic) -> int:
        return self.links

    async def begin_again(self, peer_id: ID) -> None:
        self.begun_s.append(self.now_s)


def look_until(gossip: Broken, mender: Mender, until_s: float) -> None:
    async def play() -> None:
        while gossip.now_s < until_s:
            gossip.now_s += 1
            await mender.look(gossip.now_s)

    trio.run(play)


def test_what_stays_empty_is_tried_more_and_more_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "GOSSIP_EMPTY_S", 15.0)
    gossip = Broken()
    mender = Mender(gossip)  # type: ignore[arg-type]
    look_until(gossip, mender, 1000)
    assert gossip.begun_s == [16, 46, 106, 226, 466, 706, 946]
    gossip.links = 1
    look_until(gossip, mender, 1001)
    gossip.links = 0
    look_until(gossip, mender, 1020)
    assert gossip.begun_s[-1] == 1017  # from the beginning


def test_nobody_to_begin_again_with_is_no_fault() -> None:
    gossip = Broken()
    gossip.connections.clear()
    look_until(gossip, Mender(gossip), 100)  # type: ignore[arg-type]
    assert not gossip.begun_s
