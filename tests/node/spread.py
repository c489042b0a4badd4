"""Peers that pull one payload from each other over a memory mesh: uplinks with a rate, no time.

`python -m tests.node.spread` makes the table of docs/benchmarks.md.
"""

import asyncio
import hashlib
import math
import random
import statistics
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, cast

import click

from demo_node.arrivals import Arrivals
from demo_node.copies import Copies
from demo_node.mesh.memory import MemoryMesh, MemoryNetwork
from demo_node.ports import Blob, BlobRequest, Direction, Mesh, OnBlob, Use
from demo_node.pull import Puller
from demo_node.serve import Server
from demo_node.sim.keys import peer_name
from demo_node.sim.whole.link_rates import LinkRates
from demo_node.sim.whole.virtual_loop import run_virtual
from demo_protocol.effects import PullPayload

DOWNLINK = 1e12
"""Bits a second: of no interest here."""

MBIT = 1e6 / 8
"""Bytes a second."""

ROUND_S = 30.0
GIVEN_UP_S = 240.0
DELAY_S = 0.05


def ignore_given(payload_hash: bytes, size: int) -> None:
    pass


@dataclass
class Shelf:
    """A store of payloads in memory. `wait` is what its disk takes."""

    held: dict[bytes, bytes] = field(default_factory=dict)

    async def read_payload(self, name: bytes) -> bytes | None:
        return self.held.get(name)


@dataclass
class Peer:
    """What of a node has to do with payloads, over whatever mesh."""

    mesh: Mesh
    shelf: Shelf = field(default_factory=Shelf)
    arrivals: Arrivals = field(default_factory=Arrivals)
    copies: Copies = field(default_factory=Copies)
    puller: Puller = field(init=False)
    server: Server = field(init=False)
    asked: list[tuple[bytes, bytes]] = field(default_factory=list)
    """(peer, payload) of every request that came."""
    given: Counter[bytes] = field(default_factory=Counter)
    came_at_s: dict[bytes, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.puller = Puller(self.mesh)
        self.server = Server(*cast(Any, (None, None, lambda: 0, lambda peer: "")))
        self.server.open(
            *cast(
                Any, (None, self.shelf, None, frozenset(), self.arrivals, self.copies, ignore_given)
            )
        )

    async def answer(self, asking: bytes, request: BlobRequest) -> bytes | None:
        self.asked.append((asking, request.key))
        raw = await self.server.answer(asking, request)
        self.given[request.key] += raw is not None
        return raw

    def make(self, raw: bytes, *, counts: bool = True, round_: int = 0) -> PullPayload:
        """This is our payload, of which it `counts` the copies; what others are told of it."""
        name = hashlib.sha256(raw).digest()
        if counts:
            self.copies.add_own(name)
        self.shelf.held[name] = raw
        return PullPayload(name, len(raw), k=1, round=round_, holders=(self.mesh.peer,))

    async def pull(self, effect: PullPayload, patience_s: float = ROUND_S / 4) -> bytes | None:
        """As `Fetcher.pull_payload`, for one round."""
        name = effect.payload_hash
        self.arrivals.begin(name)
        try:
            raw = await self.puller.pull_payload(effect, lambda: True, patience_s)
            if raw is not None:
                self.arrivals.come(name, raw)
                self.shelf.held[name] = raw
                self.came_at_s[name] = asyncio.get_running_loop().time()
            return raw
        finally:
            self.arrivals.end(name)

    def sent(self) -> int:
        """Bytes of payloads that have left this peer."""
        return self.mesh.counters().traffic.get((Direction.OUT, Use.PAYLOAD), 0)


async def make_peers(
    count: int,
    uplink_mbit: Callable[[int], float],
    delay_s: float = 0.0,
    misbehave: Callable[[int], OnBlob | None] = lambda number: None,
) -> list[Peer]:
    """`count` peers, each connected to all, `delay_s` from each other."""
    rates = {peer_name(number): (1e6 * uplink_mbit(number), DOWNLINK) for number in range(count)}
    network = MemoryNetwork(delay_s=lambda sender, receiver, size: delay_s)
    network.carrier = LinkRates(rates.__getitem__)
    peers = [Peer(network.add(peer_name(number))) for number in range(count)]
    network.connect_all()
    for number, peer in enumerate(peers):
        answer = misbehave(number) or peer.answer
        await peer.mesh.join(
            bytes(32), lambda topic, sender, message: True, answer, peer.server.on_answered
        )
    return peers


async def pull_as_before(peer: Peer, effect: PullPayload) -> None:
    """The author first, then everybody else in order, one at a time: the way until this change."""
    request = BlobRequest(Blob.PAYLOAD, effect.payload_hash)
    timeout_s, pause_s = ROUND_S / 4, 0.05
    loop = asyncio.get_running_loop()
    while True:
        for holder in peer.puller.holders(effect.holders):
            raw = await peer.puller.ask(holder, request, effect.payload_bytes, timeout_s)
            if raw is not None:
                peer.shelf.held[effect.payload_hash] = raw
                peer.came_at_s[effect.payload_hash] = loop.time()
                return
        await asyncio.sleep(pause_s)
        pause_s, timeout_s = min(2 * pause_s, 2.0), min(2 * timeout_s, 20.0)


@dataclass(frozen=True)
class Outcome:
    author_copies: float
    """What the author's uplink has carried, in payloads: the most of all authors."""
    all_s: float
    """Until everybody had everything."""
    median_s: float
    hedges: int


async def spread(
    authors: int,
    size: int,
    uplink_mbit: Callable[[int], float],
    delay_s: float,
    *,
    before: bool = False,
    count: int = 16,
) -> Outcome:
    """The first `authors` of the peers announce a payload at the same moment."""
    peers = await make_peers(count, uplink_mbit, delay_s)
    dice = random.Random(size)
    effects = [peer.make(dice.randbytes(size), counts=not before) for peer in peers[:authors]]
    if before:  # nor did the mesh let a payload's third copy wait
        for peer in peers:
            for effect in effects:
                cast(MemoryMesh, peer.mesh)._sending[effect.payload_hash] = asyncio.Semaphore(99)
    work: list[Coroutine[Any, Any, object]] = [
        pull_as_before(peer, effect) if before else peer.pull(effect)
        for peer in peers
        for effect in effects
        if effect.holders != (peer.mesh.peer,)
    ]
    tasks = [asyncio.ensure_future(each) for each in work]
    _, left = await asyncio.wait(tasks, timeout=GIVEN_UP_S)
    for task in left:
        task.cancel()
    times = [t for peer in peers for t in peer.came_at_s.values()] + [math.inf] * len(left)
    assert len(times) == authors * (count - 1)
    given = max(p.given[e.payload_hash] for p, e in zip(peers, effects, strict=False))
    # Of one author nothing else leaves its uplink, so that what was broken off is counted, too.
    copies = peers[0].sent() / size if authors == 1 else given
    hedges = sum(peer.puller._hedges for peer in peers)
    return Outcome(copies, max(times), statistics.median(times), hedges)


UPLINKS = {
    "2": (2.0,),
    "10": (10.0,),
    "100": (100.0,),
    "a quarter 2, a quarter 10, half 100": (2.0, 10.0, 100.0, 100.0),
}
"""Mbit/s, dealt out to the peers in turn: the only author, where there is one, has the first."""

SCENES = ((1, 100_000), (1, 1_000_000), (16, 100_000), (16, 400_000))


def show(seconds: float) -> str:
    return f"{seconds:.1f}" if seconds < math.inf else f"not in {GIVEN_UP_S:.0f}"


@click.command
@click.option("--quick", is_flag=True)
def main(quick: bool) -> None:
    """The table, in virtual time: it is the same on every machine."""
    click.echo(
        "| authors | bytes | uplinks, Mbit/s | an author's uplink, payloads | median, s | all, s |"
        " hedges |\n|---|---|---|---|---|---|---|"
    )
    for authors, size in SCENES[:1] if quick else SCENES:
        for name, rates in UPLINKS.items():
            was, now = (
                run_virtual(spread(authors, size, (rates * 16).__getitem__, DELAY_S, before=before))
                for before in (True, False)
            )
            click.echo(
                f"| {authors} | {size:,} | {name} |"
                f" {was.author_copies:.1f} → {now.author_copies:.1f} |"
                f" {show(was.median_s)} → {show(now.median_s)} |"
                f" {show(was.all_s)} → {show(now.all_s)} | {now.hedges} |"
            )


if __name__ == "__main__":
    main()
