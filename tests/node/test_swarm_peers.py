import math
import time

from demo_node.control.convert import encode
from demo_node.control.pb import control_pb2 as pb
from demo_node.history import History
from demo_node.ports import MeshCounters, PeerView
from demo_node.sim.keys import peer_name
from demo_node.sim.whole.silent_observer import SilentObserver
from demo_node.swarm_peers import (
    SHOWN_MAX,
    find_contributor,
    show_contributors,
    show_swarm,
)
from demo_node.views import DigestVerdict, Standing, SwarmPeerView
from demo_protocol.view import View
from tests.builders import MANIFEST, Tree, header, view


def started(count: int) -> tuple[Tree, View]:
    """A chain whose first record admits `count` members, and a view that stands on it."""
    tree, mine = Tree(MANIFEST), view()
    mine.chain = tree.chain
    mine.head = tree.start(count)
    mine.digests[mine.head] = b"digest 1"
    return tree, mine


def show(mine: View, *connected: int) -> dict[bytes, SwarmPeerView]:
    links = [PeerView(peer=peer_name(n), address="", outbound=True, rtt_ms=n) for n in connected]
    shown = show_swarm(mine, {(1, peer_name(1)): 77}, links, now_ms=99)
    assert shown.now_ms == 99
    assert shown.known == len(shown.peers)
    return {peer.peer: peer for peer in shown.peers}


def test_a_peer_is_shown_by_its_newest_header_and_by_the_chain() -> None:
    _, mine = started(3)
    mine.pool.add_header(header(1, 0))
    newest = header(1, 1, base=mine.head, digest=b"digest 1", k=2, samples=16)
    mine.pool.add_header(newest)
    mine.pool.add_payloads(1, (newest.body.payload_hash,))
    mine.pool.add_header(header(2, 1, base=mine.head, digest=b"another.", k=0, samples=0))
    peers = show(mine, 1, 9)

    one = peers[peer_name(1)]
    assert (one.standing, one.connected, one.digest) == (
        Standing.MEMBER,
        True,
        DigestVerdict.EQUAL,
    )
    assert one.rtt_ms == 1
    assert (one.heard_round, one.heard_ms, one.k, one.samples, one.held) == (1, 77, 2, 16, True)
    two = peers[peer_name(2)]
    assert (two.connected, two.digest, two.k) == (False, DigestVerdict.DIFFERENT, 0)
    assert math.isnan(two.loss)
    assert two.heard_ms == 0
    stranger = peers[peer_name(9)]
    assert (stranger.standing, stranger.connected) == (Standing.UNKNOWN, True)
    assert (stranger.heard_round, stranger.digest) == (-1, DigestVerdict.UNKNOWN)
    assert sum(peer.share for peer in peers.values()) == 1


def test_a_contributor_by_name_is_the_one_in_the_list_of_all() -> None:
    tree, mine = started(3)
    state = tree.state(tree.grow(mine.head, 1, [0, 2]))
    everybody = show_contributors(state, MANIFEST.agreement)
    assert [shown.rounds for shown in everybody] == [2, 2, 1]
    for shown in everybody:
        assert find_contributor(state, shown.peer, MANIFEST.agreement) == shown
    stranger = find_contributor(state, peer_name(9), MANIFEST.agreement)
    assert (stranger.peer, stranger.standing) == (peer_name(9), Standing.UNKNOWN)
    assert (stranger.rounds, stranger.samples, stranger.share) == (0, 0, 0.0)


def test_a_digest_of_a_record_that_is_not_here_is_neither_equal_nor_different() -> None:
    _, mine = started(2)
    mine.pool.add_header(header(1, 1, base=b"\x55" * 32, digest=b"whatever"))
    assert show(mine)[peer_name(1)].digest is DigestVerdict.UNKNOWN


def test_a_payload_that_is_not_here_is_not_held() -> None:
    _, mine = started(2)
    mine.pool.add_header(header(1, 1))
    assert not show(mine)[peer_name(1)].held


def test_of_many_peers_the_last_heard_are_shown_and_this_node_always() -> None:
    _, mine = started(2)
    for author in range(1, SHOWN_MAX + 101):
        mine.pool.add_header(header(author, 4 if author > 100 else 3, k=0))
    shown = show_swarm(mine, {}, [], 0)
    assert len(shown.peers) == SHOWN_MAX
    assert shown.known == SHOWN_MAX + 101
    assert shown.peers[0].peer == mine.me
    assert [peer.heard_round for peer in shown.peers[1:]] == [4] * (SHOWN_MAX - 1)


def test_showing_them_takes_the_loop_no_longer_than_it_may() -> None:
    """In processor time, the least of some tries: what else the machine does must not count."""
    _, mine = started(2)
    for round_ in range(MANIFEST.agreement.late_rounds + 1):
        for author in range(1, SHOWN_MAX):
            mine.pool.add_header(header(author, round_, k=0))
    links = [PeerView(peer=peer_name(n), address="", outbound=True) for n in range(1, 40)]
    took_s = []
    for _ in range(20):
        begin_s = time.thread_time()
        encode(show_swarm(mine, {}, links, 0), pb.ListSwarmReply).SerializeToString()
        took_s.append(time.thread_time() - begin_s)
    assert min(took_s) < 0.01


def test_when_headers_came_is_remembered_as_long_as_they_count() -> None:
    history = History(MANIFEST, SilentObserver())
    history.on_header(0, b"a", 10)
    history.on_header(0, b"a", 20)  # the first one counts
    assert history.arrivals == {(0, b"a"): 10}
    mine, last = view(), MANIFEST.agreement.late_rounds
    for round_ in range(last + 1):
        history.on_round_ended(round_, mine, MeshCounters(0, 0), syncing=False)
    assert history.arrivals == {(0, b"a"): 10}
    history.on_round_ended(last + 1, mine, MeshCounters(0, 0), syncing=False)
    assert not history.arrivals
