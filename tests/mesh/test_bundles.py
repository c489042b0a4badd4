import pytest

from tests.mesh.bundles import (
    DEGREE,
    HOP_MS,
    Graph,
    bundle,
    bundle_ms,
    gossip,
    gossip_ms,
    make_graph,
    publish,
)

LINE = [[1], [0, 2], [1]]


@pytest.mark.parametrize("nodes", [2, 7, 8, 10, 300])
def test_a_graph_is_symmetric_connected_and_of_the_meshs_degree(nodes: int) -> None:
    graph = make_graph(nodes, seed=nodes)
    assert all(a in graph[b] for a, peers in enumerate(graph) for b in peers)
    assert all(2 <= len(peers) <= DEGREE for peers in graph) or nodes == 2
    reached = {0}
    for _ in graph:
        reached |= {peer for node in reached for peer in graph[node]}
    assert len(reached) == nodes


def test_gossip_sends_each_header_by_every_link_but_back_to_who_gave_it() -> None:
    along = gossip(LINE, [0])
    assert (along.messages, along.headers) == (2 / 3, 2 / 3)
    assert (along.last_ms, along.longest_ms) == (2 * HOP_MS, 2 * HOP_MS)
    square = [[1, 3], [0, 2], [1, 3], [0, 2]]  # two ways to the far corner, which cross there
    assert gossip(square, [0]).messages == 5 / 4


def test_a_link_sends_the_first_at_once_and_the_others_together_a_window_later() -> None:
    found = bundle(LINE, [0, 0, 0], [0, 10, 20], window_ms=100)
    assert found.messages == 4 / 3
    assert found.headers == 6 / 3
    # Published at 0: there at 40 and 80. The others leave at 100, are in the middle at 140, when
    # its link may send again, too, and at the end at 180.
    assert found.last_ms == pytest.approx((80 + 170 + 160) / 3)
    assert found.longest_ms == 170


@pytest.mark.parametrize("graph", [LINE, make_graph(40, seed=1)])
def test_without_a_window_bundles_are_gossip(graph: Graph) -> None:
    authors = list(range(len(graph)))
    published = [1_000 * author for author in authors]
    plain, held = gossip(graph, authors), bundle(graph, authors, published, window_ms=0)
    assert (held.last_ms, held.longest_ms) == (plain.last_ms, plain.longest_ms)
    assert held.messages == held.headers
    assert len(authors) - 1 <= held.messages <= plain.messages


def test_a_longer_window_means_fewer_messages_that_come_later() -> None:
    graph, authors = make_graph(100, seed=1), list(range(100))
    published = publish(100, 300, seed=2)
    plain = gossip(graph, authors)
    rounds = [plain, *(bundle(graph, authors, published, window) for window in (50, 100, 200))]
    assert [r.messages for r in rounds] == sorted((r.messages for r in rounds), reverse=True)
    assert [r.last_ms for r in rounds] == sorted(r.last_ms for r in rounds)
    assert bundle_ms(rounds[-1]) < gossip_ms(plain, len(authors)) / 5
