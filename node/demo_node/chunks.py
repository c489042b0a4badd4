"""Pulling the blocks of one Merkle tree from everybody who has them, at once.

Whoever is free is asked for the next block, so fast peers give more and slow ones fewer. But while
two others keep up, nobody gives much more than half: an uplink is somebody's home link.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from demo_node.ports import Blob, BlobRequest
from demo_node.pull import Puller
from demo_node.store.assembler import Assembler
from demo_protocol.errors import Reject
from demo_protocol.limits import HASH_BYTES

AT_ONCE: Final = 2
"""Blocks on their way from one peer: the next one is asked for before the last has come."""

BLOCK_S: Final = 60.0
"""For one block: 256 KiB at 35 kbit/s. Nobody waits so long for it: others are asked meanwhile."""

SHARE_MAX: Final = 0.5
"""Of all blocks, from one peer, while two others keep up with it."""

KEEPS_UP: Final = 4.0
QUICK_S: Final = 0.25
"""To keep up is to take less than so many times as long for a block; what comes within QUICK_S is
equally quick, whatever made one of them wait."""

FAILURES_MAX: Final = 5
PAUSE_S: Final = 0.5
"""After so many failures in a row a peer is asked no more. Pauses between them double."""

LOOK_S: Final = 0.5
"""How often new peers are looked for, and blocks that take too long."""

LATE_S: Final = 2.0
"""A block on its way for longer is asked for elsewhere too, once there is no other to ask for."""


@dataclass(slots=True)
class Source:
    """One peer that gives blocks. `flying`: when each that is on its way was asked for."""

    peer: bytes
    blocks: int = 0
    given_bytes: int = 0
    took_s: float = 0.0
    failures: int = 0
    pause_until_s: float = 0.0
    is_out: bool = False
    flying: dict[bytes, float] = field(default_factory=dict)

    def is_free(self, now_s: float) -> bool:
        """May it be asked for one more?"""
        return not self.is_out and len(self.flying) < AT_ONCE and now_s >= self.pause_until_s

    def keeps_up_with(self, other: "Source", now_s: float) -> bool:
        """Does it give blocks at about the pace of another? One that hangs does not."""
        oldest_s = now_s - min(self.flying.values(), default=now_s)
        limit_s = KEEPS_UP * max(other.took_s, QUICK_S)
        return not self.failures and max(self.took_s, oldest_s) <= limit_s

    def give(self, size: int, took_s: float) -> None:
        """It gave a block."""
        self.failures = 0
        self.blocks += 1
        self.given_bytes += size
        self.took_s = (self.took_s + took_s) / 2 if self.took_s else took_s

    def fail(self, now_s: float) -> None:
        """It did not give what it was asked for."""
        self.failures += 1
        self.is_out = self.failures >= FAILURES_MAX
        self.pause_until_s = now_s + PAUSE_S * 2**self.failures


class ChunkFetcher:
    """Fills one assembler, once. `sources` says who gave how much."""

    def __init__(
        self,
        puller: Puller,
        part: Assembler,
        holders: Callable[[], Sequence[bytes]],
        *,
        leaves: Blob,
        block: Blob,
        on_lie: Callable[[str], None],
    ) -> None:
        """`leaves` is the kind of the list of leaf hashes, `block` that of what they name.

        `holders` is asked again and again: who comes later helps, who leaves is not waited for.
        `on_lie` hears why an answer was not taken.
        """
        self.sources: dict[bytes, Source] = {}
        self._puller = puller
        self._part = part
        self._holders = holders
        self._leaves = leaves
        self._block = block
        self._on_lie = on_lie
        self._waiting: deque[bytes] = deque()
        self._left: set[bytes] = set()
        self._happened = asyncio.Event()

    async def run(self) -> bool:
        """Is the assembler complete now? False when nobody (any more) gives what is missing.

        Raises ConfigError where the disk takes no more.
        """
        if not self._part.leaves and not await self._fetch_leaves():
            return False
        self._waiting.extend(self._part.missing())
        self._left.update(self._waiting)
        tasks: set[asyncio.Task[None]] = set()
        try:
            while self._left:
                self._happened.clear()
                for source, leaf in self._choose():
                    tasks.add(asyncio.create_task(self._take(source, leaf)))
                if not tasks and not self._find_present():
                    return False
                await self._look_again()
                for task in [task for task in tasks if task.done()]:
                    tasks.remove(task)
                    task.result()
            return True
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _look_again(self) -> None:
        """Return when something came, or after a moment."""
        try:
            async with asyncio.timeout(LOOK_S):
                await self._happened.wait()
        except TimeoutError:
            return

    async def _fetch_leaves(self) -> bool:
        request = BlobRequest(self._leaves, self._part.root)
        for holder in self._holders():
            raw = await self._puller.ask(holder, request, HASH_BYTES * self._part.leaf_count)
            if raw is None:
                continue
            try:
                await asyncio.to_thread(self._part.add_leaves, raw)
            except Reject as error:
                self._on_lie(str(error))
                continue
            return True
        return False

    def _find_present(self) -> list[Source]:
        """Who is connected and may still be asked."""
        present = [self.sources.setdefault(peer, Source(peer)) for peer in self._holders()]
        return [source for source in present if not source.is_out]

    def _choose(self) -> list[tuple[Source, bytes]]:
        """Whom to ask for what now. It counts as on its way from then on."""
        now_s = asyncio.get_running_loop().time()
        present = self._find_present()
        chosen = []
        # One block each in turn, or the first would take all that there are of a small state.
        for _ in range(AT_ONCE):
            for source in sorted(present, key=lambda s: s.blocks + len(s.flying)):
                leaf = self._choose_leaf(source, present, now_s)
                if leaf is not None:
                    source.flying[leaf] = now_s
                    chosen.append((source, leaf))
        return chosen

    def _choose_leaf(self, source: Source, present: list[Source], now_s: float) -> bytes | None:
        if not source.is_free(now_s):
            return None
        if self._waiting:
            return self._waiting.popleft() if self._is_fair(source, present, now_s) else None
        patience_s = max(LATE_S, 2 * source.took_s)
        late = [
            (asked_s, leaf)
            for other in self.sources.values()
            for leaf, asked_s in other.flying.items()
            if now_s - asked_s > patience_s and leaf in self._left and leaf not in source.flying
        ]
        return min(late)[1] if late else None

    def _is_fair(self, source: Source, present: list[Source], now_s: float) -> bool:
        """Would one more leave it at SHARE_MAX, or do too few others keep up to share with?"""
        others = [s for s in present if s is not source and s.keeps_up_with(source, now_s)]
        if len(others) < 2:
            return True
        all_blocks = sum(s.blocks + len(s.flying) for s in self.sources.values())
        return source.blocks + len(source.flying) <= SHARE_MAX * (all_blocks + 1)

    async def _take(self, source: Source, leaf: bytes) -> None:
        """Have it give one block. Whoever gives something else is asked no more."""
        loop = asyncio.get_running_loop()
        asked_s = source.flying[leaf]
        bytes_max = self._part.bytes_max(leaf)
        try:
            raw = await self._puller.ask(
                source.peer, BlobRequest(self._block, leaf), bytes_max, BLOCK_S
            )
            if raw is None:
                source.fail(loop.time())
            elif await self._keep(raw, leaf, source):
                source.give(len(raw), loop.time() - asked_s)
        finally:
            del source.flying[leaf]
            is_flying = any(leaf in other.flying for other in self.sources.values())
            if leaf in self._left and not is_flying and leaf not in self._waiting:
                self._waiting.appendleft(leaf)
            self._happened.set()

    async def _keep(self, raw: bytes, leaf: bytes, source: Source) -> bool:
        try:
            if await asyncio.to_thread(self._part.add_block, raw) != leaf:
                raise Reject("a block that was not asked for")
        except Reject as error:
            source.is_out = True
            self._on_lie(str(error))
            return False
        self._left.discard(leaf)
        return True
