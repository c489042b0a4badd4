"""One node's life after its mesh is up: find the run, catch up, take part, leave."""

import asyncio
import functools
import shlex
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from demo_node.config import MESHES, Config
from demo_node.dialling_back import DialsBack
from demo_node.evaluating import Evaluating
from demo_node.materials import ensure_corpus, ensure_initial
from demo_node.mesh.peer_id import encode_peer_id
from demo_node.observer import RoundObserver
from demo_node.operations import NodeOperations
from demo_node.participant import Participant, Surroundings
from demo_node.peering import Peering, find_address
from demo_node.ports import LearnerLost, OpenMesh
from demo_node.pull import Puller
from demo_node.quiet_hours import watch_quiet_hours
from demo_node.quietness import Quietness
from demo_node.reachability import DiallableMesh, Reachable
from demo_node.reserving import RelayedMesh
from demo_node.signposts import FindingMesh, Signposts
from demo_node.stopping import Stopping
from demo_node.store.addresses import AddressBook
from demo_node.store.archive import FileArchive
from demo_node.store.corpus import compute_corpus_path
from demo_node.store.datadir import DataDir
from demo_node.store.disk import FileDisk
from demo_node.store.key import NodeKey, verify
from demo_node.store.manifest_file import load_manifest, save_manifest
from demo_node.store.room import FreeRoom
from demo_node.store.snapshots import SnapshotStore
from demo_node.store.swarm_key import load_swarm_key
from demo_node.swarm_peers import is_in_run
from demo_node.sync import fetch_manifest
from demo_node.system_clock import SystemClock
from demo_node.trainer.client import TrainerClient
from demo_node.trainer.forkserver import check_device, wait_for_server
from demo_node.trainer.settings import TrainerSettings
from demo_node.trainer.supervisor import Supervisor
from demo_node.views import NodeState
from demo_protocol.admission import is_listed
from demo_protocol.errors import ConfigError
from demo_protocol.manifest import Manifest, compute_run_id, encode_manifest

POLL_S = 0.05
"""How often a waiting node looks for its manifest."""

PATIENCE_MS = 5_000
"""A returning node waits this long for a peer before it goes on from where it was."""

NEIGHBOURS_S = 10.0
"""For a neighbour to answer: a busy one takes a second, and a lost question is asked again."""

LEAVE_S = 5.0
"""At most this long for the leave to go out."""

LAST_SNAPSHOT_S = 4.0
"""At most this long, and a round, for the last snapshot: whoever asked us to leave is waiting."""


class NodeStopped(Exception):
    """Ends the TaskGroup after a clean leave."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """The parts every node has from its first second. `begun_s`: when that was, monotonic."""

    begun_s: float
    config: Config
    disk: FileDisk
    datadir: DataDir
    key: NodeKey
    clock: SystemClock
    mesh: OpenMesh
    observer: RoundObserver
    show: Callable[[str], None]
    operations: NodeOperations
    stopping: Stopping
    book: AddressBook
    peering: Peering

    def say(self, line: str) -> None:
        """Show one line of progress, in the status and in the log."""
        self.operations.detail = line
        self.observer.on_event("progress.made", detail=line)


async def run_node(node: Node, group: asyncio.TaskGroup, files: ExitStack) -> None:
    """Return after a clean leave. Raises ConfigError where the operator must do something.

    What is open until the end of the group goes into `files`.
    """
    room = FreeRoom(node.datadir.path)
    node.operations.sources.append(room.figures)
    group.create_task(room.run())
    stop = asyncio.create_task(node.stopping.wait())
    work = asyncio.create_task(_join_run(node, group, files))
    try:
        await asyncio.wait([stop, work], return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            await work  # raises what went wrong
            await stop
    finally:
        stop.cancel()
        work.cancel()
        await asyncio.gather(stop, work, return_exceptions=True)
    node.operations.set_state(NodeState.DRAINING, "leaving")
    await _leave(node)


async def _join_run(node: Node, group: asyncio.TaskGroup, files: ExitStack) -> None:
    await asyncio.to_thread(check_device, node.config.device)  # before anything is joined
    quietness = Quietness(node.config, node.mesh, node.operations, node.observer)
    if quietness.hours:
        group.create_task(watch_quiet_hours(quietness.hours, node.clock, quietness.on_change))
    puller = Puller(node.mesh)
    manifest = await _find_manifest(node, puller, group)
    is_archive = node.config.role == "archive"
    if not is_archive:
        _check_admission(manifest, node.key.public)
    elif not is_listed(node.key.public, manifest.agreement):
        node.say(f"run {manifest.name!r} lists its nodes, and not this one: it follows, no more")
    _check_k(manifest, node.config.k)
    node.operations.manifest = manifest
    node.operations.set_state(NodeState.SYNCING)
    run_id = compute_run_id(manifest)
    supervisor = Supervisor(
        TrainerSettings(
            manifest=encode_manifest(manifest),
            corpus=compute_corpus_path(node.datadir.corpus, manifest.data),
            device=node.config.device,
            threads=node.config.threads,
            nice=node.config.nice,
            gpu_memory_mb=node.config.gpu_memory_mb,
            initial=node.datadir.initial,
        ),
        node.observer.on_event,
    )
    learner = TrainerClient(
        supervisor, node.clock.now_ms, manifest.schedule.round_ms, node.config.train_percent
    )
    budget_bytes = node.config.disk_budget_mb << 20
    snapshots = SnapshotStore(
        node.disk,
        node.datadir.snapshots,
        run_id,
        window=None if is_archive else manifest.agreement.payload_window_rounds,
        budget_bytes=budget_bytes // 2,
    )
    now_s = asyncio.get_running_loop().time
    dials_back = reachable = None
    if isinstance(node.mesh, DiallableMesh):
        seen_at = functools.partial(find_address, node.mesh)
        dials_back = DialsBack(node.mesh.dial_back, seen_at, now_s)
        reachable = Reachable(node.mesh, node.observer.on_event, now_s)
    around = Surroundings(
        manifest=manifest,
        me=node.key.public,
        sign=node.key.sign,
        verify=verify,
        clock=node.clock,
        mesh=node.mesh,
        learner=learner,
        disk=node.disk,
        datadir=node.datadir,
        observer=node.observer,
        group=group,
        say=node.say,
        disk_budget_bytes=budget_bytes,
        k=node.config.k,
        take_uplink=node.mesh.take_uplink,
        find_upload_cap=lambda: quietness.upload_bytes_per_s,
        is_metered=node.config.metered,
        anchor=bytes.fromhex(node.config.anchor),
        is_archive=is_archive,
        count_known=node.peering.count_known,
        dial_back=dials_back.answer if dials_back else None,
    )
    archive = FileArchive(snapshots, node.book, node.mesh.addresses)
    participant = Participant(around, archive, snapshots)
    server = participant.server
    await node.mesh.join(run_id, participant.on_gossip, server.answer, server.on_answered)
    group.create_task(node.peering.run())
    node.operations.sources.append(node.peering.figures)
    if reachable:
        group.create_task(reachable.run())
        node.operations.reachable = reachable
        node.operations.sources.append(reachable.figures)
    group.create_task(participant.timekeeper.run())
    node.operations.timekeeper = participant.timekeeper
    corpus = await ensure_corpus(node.disk, node.datadir, manifest.data, puller, node.say)
    archive.corpus = corpus
    archive.initial = await ensure_initial(node.disk, node.datadir, manifest, puller, node.say)
    group.create_task(supervisor.run())
    node.operations.sources.append(supervisor.figures)
    node.operations.sources.append(participant.finder.taker.fetcher.figures)
    patience_ms = PATIENCE_MS if node.peering.knows_others else 0
    await participant.timekeeper.settle(patience_ms / 1000)
    start = await participant.finder.choose(patience_ms)
    driver, snapshotting = await participant.begin(
        start, files, stop_round=node.config.rounds or None, contributes=node.config.train
    )
    # Torch takes seconds to import: what peers give is on its way meanwhile.
    trainer = await supervisor.wait_ready()
    if trainer.info is not None and not trainer.info.can_contribute:
        driver.machine.contributes = False
    if isinstance(node.mesh, RelayedMesh):
        node.mesh.carries = functools.partial(is_in_run, driver.view)
        node.operations.sources.append(node.mesh.relay_figures)
    evaluating = Evaluating(driver, learner, node.observer, node.config.evaluate_every)
    group.create_task(evaluating.run())
    node.operations.begin(driver, learner, snapshotting, evaluating, supervisor)
    node.operations.invite = functools.partial(_compose_invitation, node, run_id)
    node.show("Others join this run with:\n  " + node.operations.invite())
    # Who is still alone has waited for others already.
    await participant.catch_up(patience_ms if node.mesh.peers() else 0)
    node.operations.set_state(NodeState.ACTIVE)
    node.observer.on_measured("demo_sync_seconds", time.monotonic() - node.begun_s)
    group.create_task(snapshotting.run_end(node.clock))


async def _find_manifest(node: Node, puller: Puller, group: asyncio.TaskGroup) -> Manifest:
    """From a file, from the data folder, from the peers the operator named, or a neighbour."""
    path, config = node.datadir.manifest, node.config
    if config.manifest is not None:
        path = config.manifest
    if config.wait_manifest:
        await asyncio.to_thread(wait_for_server)  # who waits for us sets genesis: be up by then
        node.operations.set_state(NodeState.WAITING, "waiting for a manifest")
        while not path.exists():  # noqa: ASYNC110  another process makes it
            await asyncio.sleep(POLL_S)
    node.operations.set_state(NodeState.STARTING, "connecting")
    manifest = await asyncio.to_thread(load_manifest, node.disk, path)
    run_id = compute_run_id(manifest) if manifest else bytes.fromhex(config.run_id)
    if config.mdns and run_id:
        await _begin_neighbours(node, run_id, group)
    if config.kad and run_id:
        _begin_signposts(node, run_id, group)
    if manifest is None and (config.peers or (config.mdns and run_id)):
        await _wait_for_neighbours(node)
        may_find = config.kad and bool(run_id)
        manifest = await fetch_manifest(
            puller, node.peering, config.run_id, node.say, may_find=may_find
        )
        if not run_id and config.mdns:
            await _begin_neighbours(node, compute_run_id(manifest), group)
        if not run_id and config.kad:
            _begin_signposts(node, compute_run_id(manifest), group)
    else:
        await node.peering.connect_named()
    if manifest is None:
        raise ConfigError(
            f"{node.datadir.path} holds no run; make one with demo-node init, or join one with"
            " demo-node start --peers <multiaddr>"
        )
    if config.run_id and compute_run_id(manifest).hex() != config.run_id:
        raise ConfigError(
            f"{node.datadir.path} belongs to run {compute_run_id(manifest).hex()[:16]}, not"
            f" {config.run_id[:16]}; choose another --datadir for this one",
            exit_code=76,
        )
    await asyncio.to_thread(save_manifest, node.disk, node.datadir.manifest, manifest)
    return manifest


async def _begin_neighbours(node: Node, run_id: bytes, group: asyncio.TaskGroup) -> None:
    """Say on this LAN that this node is in the run, and hear who else is."""
    from demo_node.neighbours import Neighbours, compute_service  # 0.1 s, unless --no-mdns

    key = b""
    if node.config.psk_file is not None:
        key = await asyncio.to_thread(load_swarm_key, node.disk, node.config.psk_file)
    name = encode_peer_id(node.key.public)
    neighbours = Neighbours(node.mesh.listening, name, node.peering.hear)
    group.create_task(neighbours.run(compute_service(run_id, key)))


def _begin_signposts(node: Node, run_id: bytes, group: asyncio.TaskGroup) -> None:
    """Ask the DHT who is in the run, and say there that this node is."""
    if isinstance(node.mesh, FindingMesh):
        signposts = Signposts(
            node.mesh,
            node.peering.hear,
            node.observer.on_event,
            lambda: node.operations.manifest is not None,
        )
        node.operations.sources.append(signposts.figures)
        group.create_task(signposts.run(run_id))


async def _wait_for_neighbours(node: Node) -> None:
    """Who names nobody has only them to join by. Raises ConfigError where there are none."""
    until_s = time.monotonic() + NEIGHBOURS_S
    while not node.peering.knows_others:
        if time.monotonic() > until_s:
            raise ConfigError(
                f"nobody on this LAN takes part in run {node.config.run_id[:16]}; name a peer with"
                " --peers",
                exit_code=75,
            )
        await asyncio.sleep(POLL_S)


def _check_k(manifest: Manifest, k: int) -> None:
    """Raises ConfigError for more than peers accept (rule T8)."""
    if k > manifest.learning.k:
        raise ConfigError(
            f"k {k} is more than run {manifest.name!r} allows; choose 1 to {manifest.learning.k},"
            " or leave it out"
        )


def _check_admission(manifest: Manifest, public_key: bytes) -> None:
    """Rule 26. Raises ConfigError for who is not listed: nobody would ever let it in."""
    if not is_listed(public_key, manifest.agreement):
        raise ConfigError(
            f"run {manifest.name!r} takes only nodes that it lists, and not"
            f" {encode_peer_id(public_key)}: start with a key that is listed, or follow the run"
            " with --role archive",
            exit_code=77,
        )


def _compose_invitation(node: Node, run_id: bytes) -> str:
    """The line that the next volunteer pastes."""
    mesh = "" if node.config.mesh == MESHES[0] else f" --mesh {node.config.mesh}"
    key = ""
    if node.config.psk_file is not None:
        key = f" --psk-file {shlex.quote(node.config.psk_file.name)}"
    return f"demo-node start --peers {node.mesh.addresses()[0]} --run-id {run_id.hex()}{mesh}{key}"


async def _leave(node: Node) -> None:
    """Announce it and keep what was learned."""
    operations = node.operations
    if operations.driver is None or operations.snapshotting is None:
        return
    operations.driver.leave()
    try:
        async with asyncio.timeout(LEAVE_S):
            await operations.driver.outbox.flush()
    except TimeoutError:
        node.observer.on_event("leave.unsent")
    try:
        async with asyncio.timeout(operations.status().round_ms / 1000 + LAST_SNAPSHOT_S):
            await operations.snapshotting.save_head()
    except (LearnerLost, LookupError):  # its successor may still be replaying to the head
        node.observer.on_event("snapshot.missed", reason="the trainer has died")
    except ConfigError as error:
        node.observer.on_event("snapshot.missed", reason=str(error))
    except TimeoutError:
        node.observer.on_event("snapshot.missed", reason="it took too long")
