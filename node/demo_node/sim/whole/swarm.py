"""A swarm in one process: whole nodes over a memory mesh, disks in memory and virtual time."""

import asyncio
import functools
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from demo_node.mesh.memory import MemoryMesh, MemoryNetwork
from demo_node.participant import Participant, Surroundings
from demo_node.ports import Clock, Learner
from demo_node.round import RoundDriver
from demo_node.sim.keys import cheap_sign, cheap_verify, peer_name
from demo_node.sim.whole.faults import Faults
from demo_node.sim.whole.link_rates import LinkRates
from demo_node.sim.whole.model_learner import ModelLearner
from demo_node.sim.whole.silent_observer import SilentObserver
from demo_node.sim.whole.virtual_loop import VirtualClock
from demo_node.starting import Start
from demo_node.store.addresses import AddressBook
from demo_node.store.archive import FileArchive
from demo_node.store.datadir import DataDir
from demo_node.store.memory import MemoryDisk
from demo_node.store.round_store import FileRoundStore
from demo_node.store.snapshots import SnapshotStore
from demo_node.timekeeper import Timekeeper
from demo_protocol.effects import Effect
from demo_protocol.events import Event
from demo_protocol.manifest import Manifest, compute_run_id
from demo_protocol.roster import genesis_state
from demo_protocol.round import Round
from demo_protocol.view import View

MakeLearner = Callable[[Manifest, Clock, bytes], Learner]

Watch = Callable[[bytes, Event, list[Effect]], None]
"""(node, what happened to it, what it does about it), in the order of virtual time."""

PATIENCE_S = 5.0
"""A node that keeps time waits so long for what others say of its clock."""

LINK_S = 0.005
"""One way over a link on which nothing is wrong."""


@dataclass(slots=True)
class SimNode:
    """One node of the simulated swarm, as long as it runs. `disk` is what stays of it."""

    name: bytes
    driver: RoundDriver
    store: FileRoundStore
    learner: Learner
    observer: SilentObserver
    disk: MemoryDisk
    clock: VirtualClock
    timekeeper: Timekeeper
    task: asyncio.Task[None] | None = None

    @property
    def view(self) -> View:
        """What the node believes."""
        return self.driver.view

    @property
    def machine(self) -> Round:
        """The node's round machine."""
        return self.driver.machine

    @property
    def digest(self) -> bytes:
        """Fingerprint of the parameters at its head."""
        return self.view.digests[self.view.head]


@dataclass(slots=True)
class WatchedRound(Round):
    """A round machine whose every step is shown to `watch`."""

    watch: Watch = lambda name, event, effects: None

    def step(self, event: Event) -> list[Effect]:
        """As `Round.step`."""
        effects = Round.step(self, event)
        self.watch(self.view.me, event, effects)
        return effects


@dataclass(slots=True)
class SimSwarm:
    """Nodes that know each other. Use it inside `run_virtual`.

    Where it `keeps_time`, nodes correct their clocks by each other's; else each trusts its own.
    `links` carry only so much, and nodes choose their k by that; without them all send the run's.
    """

    manifest: Manifest
    make_learner: MakeLearner = ModelLearner
    faults: Faults = field(default_factory=Faults)
    watch: Watch = lambda name, event, effects: None
    keeps_time: bool = False
    links: LinkRates | None = None
    network: MemoryNetwork = field(init=False)
    nodes: list[SimNode] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.network = MemoryNetwork(delay_s=lambda sender, receiver, size: LINK_S)
        self.network.carrier = self.links

    async def start(self, count: int, stop_round: int | None = None) -> None:
        """Bring up `count` nodes, each connected to every other."""
        for index in range(count):
            await self.add(index, stop_round=stop_round)

    async def add(
        self,
        index: int,
        *,
        offset_ms: int = 0,
        stop_round: int | None = None,
        disk: MemoryDisk | None = None,
        syncing: bool = False,
        patience_ms: int = 0,
        twin_of: int | None = None,
        anchor: bytes = b"",
        is_archive: bool = False,
        known: int = 0,
        k: int = 0,
        is_metered: bool = False,
    ) -> SimNode:
        """Bring up a node and connect it to all that are up.

        `disk` is what an earlier node of the same key left. With `syncing` it looks for a start
        and catches up first, as the daemon does; else it begins at state 0 and at once. A twin
        signs with the key of another node: its data folder was copied. `anchor`, archives, `k`
        and metered nodes are those of `demo-node start`; it has heard of `known` peers.
        """
        name = peer_name(index)
        key = name if twin_of is None else peer_name(twin_of)
        mesh = self.network.add(name)
        self.network.connect_all()
        ready: asyncio.Future[SimNode] = asyncio.get_running_loop().create_future()

        async def live() -> None:
            with ExitStack() as files:
                async with asyncio.TaskGroup() as group:
                    around = self._surround(key, mesh, VirtualClock(offset_ms), disk, group)
                    around = replace(around, anchor=anchor, is_archive=is_archive)
                    around = replace(around, count_known=lambda: known, k=k)
                    around = replace(around, is_metered=is_metered)
                    participant = _make_participant(around)
                    await mesh.join(
                        participant.run_id,
                        self.faults.wrap_gossip(name, participant.on_gossip),
                        self.faults.wrap_blob(name, participant.server.answer),
                        participant.server.on_answered,
                    )
                    if self.keeps_time:
                        group.create_task(participant.timekeeper.run())
                        await participant.timekeeper.settle(PATIENCE_S if mesh.peers() else 0.0)
                    start = Start(genesis_state(participant.run_id), None)
                    if syncing:
                        start = await participant.finder.choose(patience_ms)
                    driver, _ = await participant.begin(
                        start,
                        files,
                        make_round=functools.partial(WatchedRound, watch=self.watch),
                        stop_round=stop_round,
                        syncing=syncing,
                    )
                    if syncing:
                        group.create_task(participant.catch_up(patience_ms))
                    ready.set_result(_show(around, participant, driver))

        task = asyncio.create_task(live())
        pending: list[asyncio.Future[SimNode] | asyncio.Task[None]] = [ready, task]
        await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        node = ready.result()
        node.task = task
        self.nodes.append(node)
        return node

    def _surround(
        self,
        name: bytes,
        mesh: MemoryMesh,
        clock: VirtualClock,
        disk: MemoryDisk | None,
        group: asyncio.TaskGroup,
    ) -> Surroundings:
        datadir, observer, links = DataDir(Path("/") / name.hex()[:8]), SilentObserver(), self.links
        if disk is None:
            disk = MemoryDisk()
            for folder in (datadir.path, datadir.payloads, datadir.snapshots, datadir.corpus):
                disk.make_folder(folder)
        return Surroundings(
            manifest=self.manifest,
            me=name,
            sign=cheap_sign(name),
            verify=cheap_verify,
            clock=clock,
            mesh=mesh,
            learner=self.make_learner(self.manifest, clock, mesh.peer),
            take_uplink=functools.partial(links.take_uplink, mesh.peer) if links else None,
            disk=disk,
            datadir=datadir,
            observer=observer,
            group=group,
            say=lambda line: observer.on_event("progress.made", detail=line),
        )

    async def run_until_round(self, round_: int) -> None:
        """Let virtual time pass until `round_` begins by the true clock."""
        schedule = self.manifest.schedule
        clock = VirtualClock()
        wait = asyncio.create_task(
            clock.sleep_until_ms(schedule.genesis_ms + round_ * schedule.round_ms)
        )
        tasks = [node.task for node in self.nodes if node.task is not None]
        await asyncio.wait([wait, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                task.result()  # a node that ended is a bug: show it
        await wait

    async def stop(self) -> None:
        """End every node."""
        for node in list(self.nodes):
            await self.kill(node)

    async def kill(self, node: SimNode) -> None:
        """End one node without a word. Its `disk` is what stays of it."""
        self.nodes.remove(node)
        mesh = self.network.find(node.name)
        if mesh is not None:
            mesh.stop()
        if node.task is not None:
            node.task.cancel()
            await asyncio.gather(node.task, return_exceptions=True)


def _make_participant(around: Surroundings) -> Participant:
    snapshots = SnapshotStore(
        around.disk,
        around.datadir.snapshots,
        compute_run_id(around.manifest),
        window=None if around.is_archive else around.manifest.agreement.payload_window_rounds,
    )
    book = AddressBook(around.disk, around.datadir.peers)
    archive = FileArchive(snapshots, book, around.mesh.addresses)
    return Participant(around, archive, snapshots)


def _show(around: Surroundings, participant: Participant, driver: RoundDriver) -> SimNode:
    assert participant.store is not None
    assert isinstance(around.observer, SilentObserver)
    assert isinstance(around.disk, MemoryDisk)
    assert isinstance(around.clock, VirtualClock)
    return SimNode(
        name=around.me,
        driver=driver,
        store=participant.store,
        learner=around.learner,
        observer=around.observer,
        disk=around.disk,
        clock=around.clock,
        timekeeper=participant.timekeeper,
    )
