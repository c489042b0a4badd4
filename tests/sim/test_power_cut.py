"""Power cuts on whole nodes: one of four loses its power again and again, at any write it makes.

Each time it starts again on what its disk kept, and the next cut comes so many disk operations
later. All that it was heard to say over all its lives is remembered.
"""

import asyncio
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TypeVar

import pytest

from demo_node.ports import Topic
from demo_node.sim.keys import peer_name
from demo_node.sim.whole.faults import Faults, Heard
from demo_node.sim.whole.swarm import SimNode, SimSwarm
from demo_node.store import signed
from demo_node.store.atomic import sweep_temporaries
from demo_node.store.datadir import DataDir
from demo_node.store.memory import MemoryDisk, PowerCut
from demo_node.store.signed import scan_signed_log
from demo_node.store.snapshots import SnapshotStore
from demo_protocol.manifest import Agreement, compute_run_id
from demo_protocol.messages import Header, Proposal, Sealed, decode_header, decode_proposal
from tests.builders import manifest
from tests.sim.scenes import assert_agree, play

Choice = TypeVar("Choice")

VICTIM = peer_name(3)
HOME = DataDir(Path("/") / VICTIM.hex()[:8])
RUN = manifest(agreement=Agreement(snapshot_every=2))
RUN_ID = compute_run_id(RUN)

CUTS = 160
OPERATIONS_MAX = 160
"""On the disk, in one life: about five rounds, two snapshots among them."""

CUT_IN = {
    "Participant._open_stores",
    "SignedLog.put",
    "SignedLog._compact",
    "ChainLog.append",
    "ChainLog.sync",
    "PayloadStore.put",
    "SnapshotStore.save",
    "SnapshotStore._commit",
}
"""Where the power must have gone at least once, or this test has become a test of little."""

DECODERS: dict[Topic, Callable[[bytes, bytes], Sealed[Header] | Sealed[Proposal]]] = {
    Topic.HEADERS: decode_header,
    Topic.PROPOSALS: decode_proposal,
}


class Worst(Random):
    """A power cut that takes everything that was not synced."""

    def choice(self, seq: Sequence[Choice]) -> Choice:  # type: ignore[override]
        """Of the names in memory and those on the device, the latter."""
        return seq[-1]

    def randint(self, a: int, b: int) -> int:
        """So many bytes of what was not synced."""
        return a


def make_disk() -> MemoryDisk:
    """An empty data folder."""
    disk = MemoryDisk()
    for folder in (HOME.path, HOME.payloads, HOME.snapshots, HOME.corpus):
        disk.make_folder(folder)
    return disk


@dataclass(slots=True)
class Lives:
    """What is known of the victim over all its lives. `cut_in` has functions the power went in."""

    disk: MemoryDisk = field(default_factory=make_disk)
    said: dict[tuple[Topic, int], set[bytes]] = field(default_factory=lambda: defaultdict(set))
    cut_in: Counter[str] = field(default_factory=Counter)
    saved_round: int = -1
    snapshots_used: int = 0

    def hear(self, heard: Heard) -> float:
        """Note what the victim says, which must be on its disk by now (rule 10)."""
        decode = DECODERS.get(heard.topic)
        if decode is not None:
            body = decode(heard.message, RUN_ID).body
            said = self.said[heard.topic, body.round]
            if body.peer == VICTIM and heard.message not in said:
                said.add(heard.message)
                kept = self.disk.after_power_cut(Worst())
                log = scan_signed_log(kept, HOME.signed_log, RUN_ID, lambda damage: None)
                assert heard.message in {raw for _kind, _round, raw in log}
        return 0.0

    async def live(self, swarm: SimSwarm, operations: int | None) -> SimNode | None:
        """Start on what the disk has; None where the power went while the node started."""
        sweep_temporaries(self.disk, HOME.path)
        sweep_temporaries(self.disk, HOME.snapshots)
        expected, _ = SnapshotStore(self.disk, HOME.snapshots, RUN_ID).newest()
        assert (expected.info.round if expected else -1) >= self.saved_round
        self.disk.operations_left = operations
        node = None
        try:
            node = await swarm.add(3, disk=self.disk, syncing=True)
        except* PowerCut as cut:
            self.note(cut)
        if node is not None and expected is not None:
            # An older one would mean that the newest was not complete.
            loaded = [fields for name, fields in node.observer.events if name == "state.loaded"]
            assert loaded[0]["record"] == expected.info.record.hex()
            self.snapshots_used += 1
        return node

    async def die(self, swarm: SimSwarm, node: SimNode) -> None:
        """Wait for the cut. What the node believed was what the others believe."""
        assert node.task is not None
        try:
            await asyncio.wait_for(asyncio.shield(node.task), timeout=120)
        except* PowerCut as cut:
            self.note(cut)
        for other in swarm.nodes:
            for record in node.view.digests.keys() & other.view.digests.keys():
                assert node.view.digests[record] == other.view.digests[record]
        await swarm.kill(node)
        saved = [
            fields["round"] for name, fields in node.observer.events if name == "snapshot.saved"
        ]
        self.saved_round = max([self.saved_round, *map(int, map(str, saved))])

    def note(self, cut: BaseExceptionGroup[PowerCut]) -> None:
        """Count every function on the way to the operation that failed."""
        self.cut_in.update(
            {
                frame.f_code.co_qualname
                for error in find_firsts(cut)
                for frame, _line in traceback.walk_tb(error.__traceback__)
            }
        )


def find_firsts(error: BaseException) -> Iterator[BaseException]:
    """What is in a group, however deep, and failed first: cleaning up fails as well then."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from find_firsts(inner)
    elif isinstance(error.__context__, PowerCut):
        yield from find_firsts(error.__context__)
    else:
        yield error


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_whatever_is_cut_off_the_newest_snapshot_counts_and_nothing_is_signed_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The log of what was signed is rewritten every other round, not every few hundred.
    monkeypatch.setattr(signed, "KEPT_ROUNDS", 8)
    monkeypatch.setattr(signed, "_STALE_MAX", 1)
    lives = Lives()

    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(3)
        await swarm.run_until_round(4)
        for number in range(CUTS):
            node = await lives.live(swarm, number * 37 % OPERATIONS_MAX)
            if node is not None:
                await lives.die(swarm, node)
            lives.disk = lives.disk.after_power_cut(Random(number))
        node = await lives.live(swarm, None)
        assert node is not None
        await swarm.run_until_round(node.view.round + 5)
        assert_agree(swarm)
        assert node.name in {h.body.peer for h in node.view.chain[node.view.head].contributions}
        for other in swarm.nodes:
            assert not other.view.votes.equivocators
            assert "digest.differed" not in {name for name, _ in other.observer.events}

    play(scenario, SimSwarm(RUN, faults=Faults(held_back_s=lives.hear)))
    assert {len(messages) for messages in lives.said.values() if messages} == {1}
    assert len(lives.said) > CUTS
    assert lives.cut_in[MemoryDisk._spend.__qualname__] == CUTS
    assert lives.cut_in.keys() >= CUT_IN
    assert lives.snapshots_used > CUTS // 2
