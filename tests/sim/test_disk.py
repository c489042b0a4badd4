"""Disks that take no more, and disks that are shared: the node goes on wherever it honestly can."""

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from demo_node.observer import Figure
from demo_node.participant import Surroundings
from demo_node.ports import Blob, Topic
from demo_node.sim.keys import peer_name
from demo_node.sim.whole.faults import Faults, Heard
from demo_node.sim.whole.model_learner import ModelLearner
from demo_node.sim.whole.swarm import SimNode, SimSwarm
from demo_node.store.datadir import DataDir
from demo_node.store.disk import PRIVATE, Appender
from demo_node.store.memory import MemoryDisk
from demo_protocol.errors import ConfigError
from demo_protocol.manifest import Agreement, compute_run_id
from demo_protocol.messages import decode_header
from tests.builders import manifest
from tests.sim.scenes import assert_agree, height, play, rolled_back

NAME = peer_name(3)
HOME = DataDir(Path("/") / NAME.hex()[:8])
RUN = manifest(agreement=Agreement(snapshot_every=2, payload_window_rounds=20))
FULL = "the disk is full; free some space and start again"


class FillingDisk(MemoryDisk):
    """Takes no byte more for a path of which `is_full` says so."""

    __slots__ = ("is_full",)
    is_full: Callable[[Path], bool]

    def create(self, path: Path, mode: int = PRIVATE) -> Appender:
        """A file that may take nothing."""
        return _Filling(super().create(path, mode), path, self)

    def append(self, path: Path, mode: int = PRIVATE) -> Appender:
        """A file that may take nothing more."""
        return _Filling(super().append(path, mode), path, self)


class _Filling:
    def __init__(self, file: Appender, path: Path, disk: FillingDisk) -> None:
        self._file, self._path, self._disk = file, path, disk
        self.sync, self.close = file.sync, file.close

    def write(self, piece: bytes | memoryview) -> None:
        if self._disk.is_full(self._path):
            raise ConfigError(f"{self._path}: {FULL}", exit_code=73)
        self._file.write(piece)


def make_disk(is_full: Callable[[Path], bool]) -> FillingDisk:
    disk = FillingDisk()
    disk.is_full = is_full
    for folder in (HOME.path, HOME.payloads, HOME.snapshots, HOME.corpus):
        disk.make_folder(folder)
    return disk


def events(node: SimNode, name: str) -> list[dict[str, object]]:
    return [fields for found, fields in node.observer.events if found == name]


@pytest.mark.parametrize(
    ("folder", "event"),
    [(HOME.snapshots, "snapshot.missed"), (HOME.payloads, "payload.unsaved")],
)
def test_no_room_for_what_can_be_had_again_is_said_once_and_the_node_goes_on(
    folder: Path, event: str
) -> None:
    full = {folder}
    disk = make_disk(lambda path: not full.isdisjoint(path.parents))

    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(3)
        node = await swarm.add(3, disk=disk)
        await swarm.run_until_round(9)
        assert_agree(swarm)
        (said,) = events(node, event)
        assert FULL in str(said["reason"])
        assert node.name in {h.body.peer for h in node.view.chain[node.view.head].contributions}
        assert not [path for path in disk.names(HOME.snapshots) if folder == HOME.snapshots]
        full.clear()
        await swarm.run_until_round(13)
        assert_agree(swarm)
        assert disk.names(HOME.snapshots)
        assert node.store.payload_bytes > 0
        assert len(events(node, event)) == 1
        full.add(folder)
        await swarm.run_until_round(17)
        assert len(events(node, event)) == 2  # another fault, another line

    play(scenario, SimSwarm(RUN))


def test_who_cannot_write_down_what_it_signs_stops_before_it_says_it() -> None:
    full: set[Path] = set()
    disk = make_disk(full.__contains__)
    said: set[int] = set()

    def hear(heard: Heard) -> float:
        if heard.topic is Topic.HEADERS:
            body = decode_header(heard.message, compute_run_id(RUN)).body
            if body.peer == NAME:
                said.add(body.round)
        return 0.0

    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(3)
        node = await swarm.add(3, disk=disk)
        await swarm.run_until_round(5)
        full.add(HOME.signed_log)
        assert node.task is not None
        with pytest.raises(ExceptionGroup) as stopped:
            await node.task
        (error,) = stopped.value.exceptions
        assert isinstance(error, ConfigError)
        assert error.exit_code == 73
        assert str(error) == f"{HOME.signed_log}: {FULL}"
        last = max(said)
        await swarm.kill(node)
        full.clear()  # somebody has made room
        again = await swarm.add(3, disk=disk, syncing=True)
        await swarm.run_until_round(again.view.round + 4)
        assert_agree(swarm)
        assert max(said) > last
        assert not any(other.view.votes.equivocators for other in swarm.nodes)

    play(scenario, SimSwarm(RUN, faults=Faults(held_back_s=hear)))


class Thrifty(SimSwarm):
    """One of its nodes has a disk budget."""

    budget_bytes = 0

    def _surround(self, name: bytes, *others: Any) -> Surroundings:
        around = super()._surround(name, *others)
        return replace(around, disk_budget_bytes=self.budget_bytes if name == NAME else 0)


def test_a_disk_budget_makes_the_payload_window_shorter_and_nothing_else() -> None:
    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(3)
        await swarm.run_until_round(4)
        one_round = swarm.nodes[0].store.payload_bytes // height(swarm.nodes[0])
        Thrifty.budget_bytes = budget_bytes = 12 * one_round
        node = await swarm.add(3, syncing=True)
        for round_ in range(8, 40, 4):
            await swarm.run_until_round(round_)
            assert node.store.payload_bytes < budget_bytes + 2 * one_round
        assert_agree(swarm)
        (said,) = events(node, "window.shortened")
        assert said["asked"] == 20
        assert events(swarm.nodes[0], "window.shortened") == []
        assert swarm.nodes[0].store.payload_bytes > node.store.payload_bytes

    play(scenario, Thrifty(RUN))


class Laden(ModelLearner):
    """Its momentum takes as much room as the payloads of some rounds."""

    momentum_bytes = 0

    async def momentum(self) -> AsyncIterator[bytes]:
        """See `Learner.momentum`."""
        async for piece in super().momentum():
            yield piece
        yield bytes(self.momentum_bytes)


@pytest.mark.parametrize(("momentum_bytes", "is_shortened"), [(0, False), (4_000_000, True)])
def test_the_momentum_file_is_of_the_disk_budget(momentum_bytes: int, is_shortened: bool) -> None:
    """Snapshots and payloads alone are within this one."""

    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(3)
        Thrifty.budget_bytes = 4_000_000
        Laden.momentum_bytes = momentum_bytes
        swarm.make_learner = Laden
        node = await swarm.add(3, syncing=True)
        await swarm.run_until_round(40)
        saved = events(node, "momentum.saved")[-1]
        size = int(str(saved["bytes"]))
        assert Figure("demo_momentum_file_bytes", size) in node.driver.figures()
        assert bool(events(node, "window.shortened")) == is_shortened
        assert_agree(swarm)

    play(scenario, Thrifty(RUN))


def test_a_deep_rollback_goes_through_an_older_snapshot_of_its_own() -> None:
    """The newest two are of the branch that lost, and nobody gives one."""
    run = manifest(agreement=Agreement(snapshot_every=2, payload_window_rounds=40))
    states = (Blob.STATE_LEAVES, Blob.STATE_CHUNK)
    faults = Faults(answered_s=lambda asked: None if asked.request.kind in states else 0.0)

    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(4)
        lone = swarm.nodes[3]
        await swarm.run_until_round(100)
        swarm.network.is_cut = lambda a, b: NAME in (a, b)
        await swarm.run_until_round(120)
        swarm.network.is_cut = lambda a, b: False
        await swarm.run_until_round(126)
        assert_agree(swarm)
        assert max(rolled_back(lone)) >= 10
        assert lone.view.chain.root.round < 100

    play(scenario, SimSwarm(run, faults=faults))


def list_files(disk: MemoryDisk, folder: Path) -> list[Path]:
    found = []
    for path in (folder / name for name in disk.names(folder)):
        try:
            disk.size(path)
        except FileNotFoundError:
            found += list_files(disk, path)
        else:
            found.append(path)
    return found


def spoil(disk: MemoryDisk, random: Random) -> None:
    """Flip a bit of some file, or cut off its end."""
    path = random.choice(list_files(disk, HOME.path))
    content = bytearray(disk.read(path))
    if not content:
        return
    at = random.randrange(len(content))
    if random.random() < 0.3:
        del content[at:]
    else:
        content[at] ^= 1 << random.randrange(8)
    file = disk.create(path)
    file.write(bytes(content))
    file.sync()


def test_whatever_file_is_damaged_the_node_comes_back_and_says_nothing_twice() -> None:
    random = Random(3)
    names: set[str] = set()
    run = manifest(agreement=Agreement(snapshot_every=2, payload_window_rounds=20))

    async def scenario(swarm: SimSwarm) -> None:
        await swarm.start(3)
        node = await swarm.add(3)
        await swarm.run_until_round(10)
        for _ in range(40):
            await swarm.kill(node)
            for _ in range(3):
                spoil(node.disk, random)
            node = await swarm.add(3, disk=node.disk, syncing=True)
            names.update(name for name, _ in node.observer.events)
            await swarm.run_until_round(node.view.round + 4)
            assert_agree(swarm)
        assert not any(other.view.votes.equivocators for other in swarm.nodes)
        assert "digest.differed" not in {
            name for other in swarm.nodes for name, _ in other.observer.events
        }

    play(scenario, SimSwarm(run))
    assert "log.repaired" in names
