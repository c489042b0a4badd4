"""What it saves to send several headers at once, and how late they come: arithmetic.

python -m tests.mesh.bundles

Nothing here is a mesh: a graph, one latency, and what `gossip_costs` measured. Every link sends at
most one message in a window, with all headers that it holds by then; the first goes at once. It is
the best that relays can do: one that waits out its window first is slower, one that sends the same
to all its peers tells them more that they know.
"""

import heapq
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import click

DEGREE: Final = 6
HOP_MS: Final = 40

FIRST_MS: Final = 3.2
"""Processor time of a message that came first by this link and was forwarded to five others."""

AGAIN_MS: Final = 0.77
"""Of a duplicate."""

BUNDLE_MS: Final = 2.1
"""Of a bundle: received, and on average one sent; signed by the relay, so none is a duplicate."""

SIZES: Final = ((10, 10), (32, 32), (1_000, 32), (100, 100), (300, 300), (1_000, 1_000))
"""Members, and how many of them have a header to send."""

SPREADS_MS: Final = (300, 1_000)
WINDOWS_MS: Final = (50, 100, 200, 400)

Graph = list[list[int]]


@dataclass(frozen=True)
class Round:
    """What reached a node, on average; how long a header took to the last node: mean, longest."""

    messages: float
    headers: float
    last_ms: float
    longest_ms: float


def make_graph(nodes: int, seed: int) -> Graph:
    """DEGREE links each, or somewhat fewer: rings in random orders. Small ones are complete."""
    links: list[set[int]] = [set() for _ in range(nodes)]
    if nodes <= DEGREE + 1:
        return [[b for b in range(nodes) if b != a] for a in range(nodes)]
    dice = random.Random(seed)
    for _ in range(DEGREE // 2):
        ring = dice.sample(range(nodes), nodes)
        for a, b in zip(ring, ring[1:] + ring[:1], strict=True):
            links[a].add(b)
            links[b].add(a)
    return [sorted(found) for found in links]


def publish(authors: int, spread_ms: int, seed: int) -> list[int]:
    """When each header is published."""
    dice = random.Random(seed)
    return sorted(dice.randrange(spread_ms) for _ in range(authors))


def gossip(graph: Graph, authors: Sequence[int]) -> Round:
    """Each header by itself: whoever has it first sends it to all but the one it came from."""
    ends = sum(map(len, graph))
    copies = len(authors) * (ends - (len(graph) - 1)) / len(graph)
    lasts = [HOP_MS * _farthest(graph, author) for author in authors]
    return Round(copies, copies, sum(lasts) / len(lasts), max(lasts))


def bundle(graph: Graph, authors: Sequence[int], published: Sequence[int], window_ms: int) -> Round:
    """Every link sends at most once in `window_ms`. Sets of headers are bits of an integer."""
    known = [0] * len(graph)
    held: dict[tuple[int, int], int] = {(a, b): 0 for a, bs in enumerate(graph) for b in bs}
    sent_ms: dict[tuple[int, int], int] = {}
    last_ms = [0] * len(authors)
    messages = headers = 0
    # (ms, node, peer, what the node is told by it); nothing: it is the link's turn to send.
    events = [
        (ms, author, -1, 1 << number)
        for number, (ms, author) in enumerate(zip(published, authors, strict=True))
    ]
    heapq.heapify(events)
    while events:
        now_ms, node, other, told = heapq.heappop(events)
        if not told:
            link = node, other
            if what := held[link]:
                sent_ms[link], held[link] = now_ms, 0
                heapq.heappush(events, (now_ms + HOP_MS, other, node, what))
            continue
        if other >= 0:
            messages, headers = messages + 1, headers + told.bit_count()
            held[node, other] &= ~told
        new = told & ~known[node]
        if not new:
            continue
        known[node] |= new
        for number in _bits(new):
            last_ms[number] = now_ms  # events come in order of time
        for peer in graph[node]:
            if peer != other:
                link = node, peer
                if not held[link]:
                    turn_ms = max(now_ms, sent_ms.get(link, -window_ms) + window_ms)
                    heapq.heappush(events, (turn_ms, *link, 0))
                held[link] |= new
    took = [last - at for last, at in zip(last_ms, published, strict=True)]
    nodes = len(graph)
    return Round(messages / nodes, headers / nodes, sum(took) / len(took), max(took))


def gossip_ms(round_: Round, authors: int) -> float:
    """Processor time of a node in a round of plain gossip."""
    return authors * FIRST_MS + (round_.messages - authors) * AGAIN_MS


def bundle_ms(round_: Round) -> float:
    """The same with bundles."""
    return round_.messages * BUNDLE_MS


def _farthest(graph: Graph, start: int) -> int:
    depth = {start: 0}
    queue = deque([start])
    while queue:
        node = queue.popleft()
        for peer in graph[node]:
            if peer not in depth:
                depth[peer] = depth[node] + 1
                queue.append(peer)
    return max(depth.values())


def _bits(mask: int) -> list[int]:
    found = []
    while mask:
        low = mask & -mask
        found.append(low.bit_length() - 1)
        mask ^= low
    return found


def main() -> None:
    """The table."""
    click.echo(
        "Messages to a node, its processor time, and until the last node has a header, on average;"
        " with a window how much later that is, and the latest of them."
    )
    click.echo(
        "| members | headers | within | gossip |" + "".join(f" {w} ms |" for w in WINDOWS_MS)
    )
    for members, authors in SIZES:
        graph = make_graph(members, seed=1)
        chosen = random.Random(2).sample(range(members), authors)
        plain = gossip(graph, chosen)
        for spread_ms in SPREADS_MS:
            published = publish(authors, spread_ms, seed=3)
            cpu_ms = gossip_ms(plain, authors)
            cells = [
                *(f"{members:,}", f"{authors:,}", f"{spread_ms / 1e3:g} s"),
                f"{plain.messages:,.0f}; {cpu_ms:,.0f} ms; {plain.last_ms:,.0f} ms",
            ]
            for window_ms in WINDOWS_MS:
                held = bundle(graph, chosen, published, window_ms)
                later = held.last_ms - plain.last_ms, held.longest_ms - plain.last_ms
                cells.append(
                    f"{held.messages:,.0f}; {bundle_ms(held):,.0f} ms;"
                    f" +{later[0]:,.0f}, +{later[1]:,.0f}"
                )
            click.echo("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
