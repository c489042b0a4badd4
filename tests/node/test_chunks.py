"""Blocks come from everybody at once, and who is slow, lies or leaves does not stop them."""

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from demo_node.chunks import FAILURES_MAX, ChunkFetcher
from demo_node.mesh.memory import MemoryNetwork
from demo_node.ports import Blob, BlobRequest
from demo_node.pull import Puller
from demo_node.sim.keys import peer_name
from demo_node.sim.whole.virtual_loop import run_virtual
from demo_node.store.assembler import Assembler
from demo_node.store.memory import MemoryDisk
from demo_protocol.merkle import compute_leaves, compute_root

BLOCK, COUNT = 1_000, 60
TEXT = b"".join(hashlib.sha256(b"%d" % i).digest() for i in range(2_000))[: BLOCK * COUNT]
LEAVES = compute_leaves(TEXT, BLOCK)
BLOCKS = {leaf: TEXT[i * BLOCK : (i + 1) * BLOCK] for i, leaf in enumerate(LEAVES)}
ROOT = compute_root(LEAVES)
PATH = Path("/d/text.part")


@dataclass(slots=True)
class Holder:
    """A peer that has all blocks and takes `seconds` for each, one after the other."""

    seconds: float
    change: Callable[[bytes], bytes | None] = lambda block: block
    leaves_after: int = 10**6
    given: int = 0
    busy: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def answer(self, asking: bytes, request: BlobRequest) -> bytes | None:
        """What it says when it is asked."""
        if request.kind is Blob.STATE_LEAVES:
            return b"".join(LEAVES)
        async with self.busy:
            await asyncio.sleep(self.seconds)
        block = self.change(BLOCKS[request.key])
        self.given += block is not None
        return block


@dataclass(slots=True)
class Scene:
    """One that fetches, and some that give."""

    holders: list[Holder]
    disk: MemoryDisk = field(default_factory=MemoryDisk)
    lies: list[str] = field(default_factory=list)
    network: MemoryNetwork = field(default_factory=MemoryNetwork)

    async def fetch(self, limit_s: float = 10_000) -> bool:
        """Is all of it here? Those who have given enough leave."""
        if PATH.parent not in self.disk._folders:
            self.disk.make_folder(PATH.parent)
        mesh = self.network.add(peer_name(99))
        for index, holder in enumerate(self.holders):
            await self._add(index, holder)
        self.network.connect_all()
        puller = Puller(mesh)
        part = Assembler(self.disk, PATH, "text", ROOT, COUNT, BLOCK)
        fetcher = ChunkFetcher(
            puller,
            part,
            puller.holders,
            leaves=Blob.STATE_LEAVES,
            block=Blob.STATE_CHUNK,
            on_lie=self.lies.append,
        )
        try:
            async with asyncio.timeout(limit_s):
                return await fetcher.run()
        except TimeoutError:
            return False
        finally:
            part.close()

    async def _add(self, index: int, holder: Holder) -> None:
        mesh = self.network.add(peer_name(index))

        async def answer(asking: bytes, request: BlobRequest) -> bytes | None:
            if holder.given >= holder.leaves_after:
                mesh.stop()
            return await holder.answer(asking, request)

        await mesh.join(bytes(32), lambda topic, sender, message: True, answer)

    def read(self) -> bytes:
        """What has been put together."""
        part = Assembler(self.disk, PATH, "text", ROOT, COUNT, BLOCK)
        part.close()
        return b"".join(part.read(leaf) for leaf in part.leaves)

    @property
    def shares(self) -> list[float]:
        """Of the blocks that were given, by whom."""
        return [holder.given / sum(h.given for h in self.holders) for holder in self.holders]


async def timed(scene: Scene) -> float:
    """Seconds that it takes to get all of it."""
    begin_s = asyncio.get_running_loop().time()
    assert await scene.fetch()
    assert scene.read() == TEXT
    return asyncio.get_running_loop().time() - begin_s


def test_three_that_are_equally_fast_share_and_take_a_third_of_the_time() -> None:
    async def scenario() -> None:
        alone = await timed(Scene([Holder(1.0)]))
        scene = Scene([Holder(1.0) for _ in range(3)])
        together = await timed(scene)
        assert alone >= COUNT
        assert together < 0.4 * alone
        assert max(scene.shares) < 0.4

    run_virtual(scenario())


def test_with_three_sources_none_gives_over_sixty_percent_though_it_be_much_faster() -> None:
    async def scenario() -> None:
        scene = Scene([Holder(0.5), Holder(1.8), Holder(1.8)])
        await timed(scene)
        assert scene.shares[0] < 0.6
        assert min(scene.shares) > 0.15

    run_virtual(scenario())


def test_who_is_much_slower_holds_nobody_up() -> None:
    async def scenario() -> None:
        scene = Scene([Holder(0.5), Holder(30.0), Holder(30.0)])
        assert await timed(scene) < 0.5 * COUNT + 5
        assert scene.shares[0] > 0.9

    run_virtual(scenario())


def test_who_hangs_holds_nobody_up() -> None:
    async def scenario() -> None:
        scene = Scene([Holder(0.5), Holder(10_000), Holder(10_000)])
        assert await timed(scene) < 0.5 * COUNT + 10

    run_virtual(scenario())


def test_who_lies_is_asked_no_more() -> None:
    async def scenario() -> None:
        liar = Holder(0.1, change=lambda block: block[:-1] + b"?")
        swapping = Holder(0.1, change=lambda block: TEXT[:BLOCK])
        scene = Scene([Holder(1.0), liar, swapping])
        await timed(scene)
        assert liar.given + swapping.given <= 2 + 3
        assert len(scene.lies) >= 2

    run_virtual(scenario())


def test_who_leaves_is_made_up_for_by_the_others() -> None:
    async def scenario() -> None:
        scene = Scene([Holder(1.0, leaves_after=5), Holder(1.0, leaves_after=9), Holder(1.0)])
        await timed(scene)
        assert scene.holders[0].given <= 5 + 2
        assert scene.holders[1].given <= 9 + 2

    run_virtual(scenario())


def test_where_nobody_gives_what_is_missing_it_ends() -> None:
    async def scenario() -> None:
        nothing = Scene([Holder(0.1, change=lambda block: None) for _ in range(2)])
        assert not await nothing.fetch(60)
        assert nothing.holders[0].given == 0
        assert not await Scene([]).fetch(60)
        left = Scene([Holder(1.0, leaves_after=5)])
        assert not await left.fetch(60)

    run_virtual(scenario())


def test_a_passing_weakness_is_forgiven() -> None:
    async def scenario() -> None:
        answers = 0

        def now_and_then(block: bytes) -> bytes | None:
            nonlocal answers
            answers += 1
            return block if answers % FAILURES_MAX == 0 else None

        await timed(Scene([Holder(0.1, change=now_and_then)]))

    run_virtual(scenario())


def test_a_restart_goes_on_where_it_stopped_whoever_gives_the_rest() -> None:
    async def scenario() -> None:
        first = Scene([Holder(1.0)])
        assert not await first.fetch(limit_s=20.5)
        here = first.holders[0].given
        assert here >= 18
        again = Scene([Holder(1.0)], disk=first.disk)
        await timed(again)
        assert again.holders[0].given <= COUNT - here + 2

    run_virtual(scenario())
