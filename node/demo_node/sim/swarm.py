"""A swarm in one process: real machines and drivers over a memory mesh and virtual time."""

import asyncio
import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass, field

from demo_node.mesh.memory import MemoryNetwork
from demo_node.ports import Clock, Learner, SnapshotFile
from demo_node.round import RoundDriver
from demo_node.serve import Server
from demo_node.sim.faults import Faults
from demo_node.sim.memory_store import MemoryStore
from demo_node.sim.model_learner import ModelLearner
from demo_node.sim.silent_observer import SilentObserver
from demo_node.sim.virtual_loop import VirtualClock
from demo_node.sync import catch_up
from demo_protocol.events import Effect, Event
from demo_protocol.identity import Kind
from demo_protocol.manifest import Manifest, compute_run_id
from demo_protocol.roster import genesis_state
from demo_protocol.round import Round
from demo_protocol.view import View

MakeLearner = Callable[[Manifest, Clock, bytes], Learner]

Watch = Callable[[bytes, Event, list[Effect]], None]
"""(node, what happened to it, what it does about it), in the order of virtual time."""

LINK_S = 0.005
"""One way over a link on which nothing is wrong."""


def cheap_sign(seed: bytes) -> Callable[[bytes], bytes]:
    """A stand-in for Ed25519 (rule T7): a keyed hash, whose key is public here."""
    return lambda message: hmac.digest(seed, message, "sha256") * 2


def cheap_verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Checks `cheap_sign`: the simulator's key pairs have equal halves."""
    return hmac.compare_digest(cheap_sign(public_key)(message), signature)


@dataclass(slots=True)
class SimNode:
    """One node of the simulated swarm, as long as it runs."""

    name: bytes
    driver: RoundDriver
    store: MemoryStore
    learner: Learner
    observer: SilentObserver
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
    """Nodes that know each other. Use it inside `run_virtual`."""

    manifest: Manifest
    make_learner: MakeLearner = ModelLearner
    faults: Faults = field(default_factory=Faults)
    watch: Watch = lambda name, event, effects: None
    network: MemoryNetwork = field(init=False)
    nodes: list[SimNode] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.network = MemoryNetwork(delay_s=lambda sender, receiver, size: LINK_S)

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
        store: MemoryStore | None = None,
        syncing: bool = False,
    ) -> SimNode:
        """Bring up a node from state 0 and connect it to all that are up.

        `store` is what an earlier node of the same key left on its disk. With `syncing` it first
        catches up with the others, as the daemon does.
        """
        name = peer_name(index)
        clock, store = VirtualClock(offset_ms), store or MemoryStore()
        learner = self.make_learner(self.manifest, clock, name)
        run_id = compute_run_id(self.manifest)
        view = View(
            manifest=self.manifest,
            me=name,
            sign=cheap_sign(name),
            verify=cheap_verify,
            root=genesis_state(run_id),
            digest=await learner.load(run_id, None),
        )
        machine = WatchedRound(
            view,
            signed_until={kind: store.newest_signed(kind) for kind in Kind},
            stop_round=stop_round,
            syncing=syncing,
            watch=self.watch,
        )
        observer = SilentObserver()
        ready: asyncio.Future[SimNode] = asyncio.get_running_loop().create_future()

        async def live() -> None:
            async with asyncio.TaskGroup() as group:
                driver = RoundDriver(
                    machine,
                    clock=clock,
                    mesh=mesh,
                    learner=learner,
                    store=store,
                    observer=observer,
                    group=group,
                    resync=lambda target: _load_snapshot(view, learner, target),
                )
                await mesh.join(
                    run_id,
                    self.faults.wrap_gossip(name, driver.on_gossip),
                    self.faults.wrap_blob(
                        name, Server(machine, store, NoArchive(), clock.now_ms).answer
                    ),
                )
                group.create_task(driver.run_outbox())
                group.create_task(driver.run_clock())
                if syncing:
                    group.create_task(catch_up(driver, clock, lambda line: None, 0))
                ready.set_result(SimNode(name, driver, store, learner, observer))

        mesh = self.network.add(name)
        self.network.connect_all()
        task = asyncio.create_task(live())
        pending: list[asyncio.Future[SimNode] | asyncio.Task[None]] = [ready, task]
        await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        node = ready.result()
        node.task = task
        self.nodes.append(node)
        return node

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
        """End one node without a word. Its `store` is what stays of it."""
        self.nodes.remove(node)
        mesh = self.network.find(node.name)
        if mesh is not None:
            mesh.stop()
        if node.task is not None:
            node.task.cancel()
            await asyncio.gather(node.task, return_exceptions=True)


async def _load_snapshot(view: View, learner: Learner, target: bytes) -> tuple[bytes, bytes]:
    """The newest record with a snapshot that `target` descends from, loaded."""
    every = view.manifest.agreement.snapshot_every
    record = next(
        step
        for step in view.chain.ancestors(target)
        if step.hash in view.digests
        and (step.state.height % every == 0 or step.hash == view.chain.root.record)
    )
    return record.hash, await learner.load(record.hash, view.digests[record.hash])


class NoArchive:
    """Implements ports.Archive for nodes without a disk."""

    def newest_snapshot(self) -> SnapshotFile | None:
        """There is none."""
        return None

    async def read_snapshot(self, hash_: bytes) -> bytes | None:
        """There is none."""
        return None

    async def read_corpus(self, hash_: bytes) -> bytes | None:
        """There is none."""
        return None

    def addresses(self) -> list[str]:
        """Everybody is connected already."""
        return []


def peer_name(index: int) -> bytes:
    """A 32-byte public key for node `index`."""
    return hashlib.sha256(b"node" + index.to_bytes(4, "big")).digest()
