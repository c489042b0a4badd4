"""Builds one node from its rooms and owns the one TaskGroup.

In the order of a node's life: data folder, key, mesh and control service; then the manifest and
the corpus; then trainer, chain and round machine; then rounds, until somebody asks it to stop.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable
from importlib.metadata import version

import uvloop

from demo_node.config import Config
from demo_node.control.requests import RequestCounts
from demo_node.control.service import control_server
from demo_node.garbage import collect_often, short_pauses
from demo_node.listening import open_mesh, serve_metrics
from demo_node.mesh.addresses import LIST_PREFIX, decode_address, decode_list
from demo_node.mesh.hivemind.installed import check_installed
from demo_node.mesh.peer_id import encode_peer_id
from demo_node.node import Node, NodeStopped, run_node
from demo_node.observe.log import NodeLog, open_log
from demo_node.observe.loop_lag import watch_loop_lag
from demo_node.observe.meter import Meter
from demo_node.observe.observers import LogObserver, Observers
from demo_node.observe.recent import Recent
from demo_node.observe.sampling import Sampling
from demo_node.observer import RoundObserver
from demo_node.operations import NodeOperations
from demo_node.peering import Peering
from demo_node.ports import OpenMesh
from demo_node.scratch import make_scratch
from demo_node.service_manager import ServiceManager
from demo_node.stopping import Stopping
from demo_node.store.addresses import AddressBook
from demo_node.store.datadir import DataDir, hold_lock, open_datadir
from demo_node.store.disk import FileDisk
from demo_node.store.key import NodeKey, create_key, generate_key, load_key
from demo_node.store.swarm_key import load_swarm_key
from demo_node.system_clock import SystemClock
from demo_node.trainer.forkserver import start_server
from demo_node.views import NodeState
from demo_protocol.errors import ConfigError

STATUS_S = 1.0
"""How often metrics and logs look at the node's status."""


def run_daemon(config: Config, show: Callable[[str], None]) -> int:
    """Be a node until told to stop; returns the exit code. Raises ConfigError.

    `show` takes what an operator wants to read: the line that others paste to join.
    """
    _check_run(config)
    _check_traces(config)
    if config.kad and config.mesh != "libp2p":
        raise ConfigError("--kad needs --mesh libp2p: hivemind has a DHT of its own")
    if config.mesh == "hivemind":
        _check_private(config)
        check_installed()
    make_scratch()
    if config.train:
        start_server()  # it imports torch while the node comes up
    try:
        with short_pauses():
            return uvloop.run(_main(config, show))
    except BaseExceptionGroup as group:
        # What the operator can mend is one line, however deep in the TaskGroup it happened.
        found = group.subgroup(ConfigError)
        while found is not None:
            first = found.exceptions[0]
            if isinstance(first, ConfigError):
                raise first from None
            assert isinstance(first, BaseExceptionGroup)
            found = first
        raise


async def _main(config: Config, show: Callable[[str], None]) -> int:
    _check_addresses(config)
    log = open_log(config.log_format, config.log_level, folder=config.datadir)
    with contextlib.closing(log):
        return await _be_a_node(config, show, log)


async def _be_a_node(config: Config, show: Callable[[str], None], log: NodeLog) -> int:
    begun_s = time.monotonic()
    clock = SystemClock(round(config.clock_offset * 1000))
    recent = Recent(clock.now_ms)
    meter = Meter(Sampling(config.trace_every if config.trace_endpoint else 0), recent)
    shown = Observers([meter, LogObserver(log)])
    stopping = Stopping()
    stopping.install(asyncio.get_running_loop())
    disk = FileDisk()
    datadir = await asyncio.to_thread(open_datadir, disk, config.datadir)
    with hold_lock(disk, datadir):
        key = await asyncio.to_thread(_load_or_create_key, disk, datadir)
        log.context["node"] = encode_peer_id(key.public)
        book = await asyncio.to_thread(AddressBook, disk, datadir.peers)
        async with (
            _traces(config, key, clock, shown) as observer,
            _mesh(key, config, book, observer) as mesh,
        ):
            operations = NodeOperations(clock=clock, mesh=mesh, stopping=stopping, recent=recent)
            node = Node(
                begun_s=begun_s,
                config=config,
                disk=disk,
                datadir=datadir,
                key=key,
                clock=clock,
                mesh=mesh,
                observer=observer,
                show=show,
                operations=operations,
                stopping=stopping,
                book=book,
                peering=Peering(mesh, clock, named=config.peers, book=book),
            )
            requests = RequestCounts()
            operations.sources.append(requests.figures)
            async with (
                control_server(datadir.path, operations, requests),
                serve_metrics(config, book, observer, meter.registry, operations.status),
            ):
                await _live(node, meter, observer)
            await asyncio.to_thread(book.save)
    return 0


async def _live(node: Node, meter: Meter, observer: Observers) -> None:
    manager = ServiceManager(os.environ)
    with contextlib.suppress(NodeStopped), contextlib.ExitStack() as files:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(node.mesh.wait())  # a dead mesh takes the node down
                group.create_task(watch_loop_lag(meter.on_loop_lag))
                group.create_task(collect_often())
                group.create_task(_show_status(node.operations, observer, manager))
                await run_node(node, group, files)
                raise NodeStopped
        except BaseExceptionGroup as errors:
            _stopped, others = errors.split(NodeStopped)
            if others is not None:
                raise others from None
    node.operations.set_state(NodeState.STOPPED)
    observer.on_status(node.operations.status())
    manager.tell(node.operations.status())


async def _show_status(
    operations: NodeOperations, observer: Observers, manager: ServiceManager
) -> None:
    while True:
        status = operations.status()
        observer.on_status(status)
        manager.tell(status)
        observer.on_figures(operations.figures())
        await asyncio.sleep(STATUS_S)


@contextlib.asynccontextmanager
async def _traces(
    config: Config, key: NodeKey, clock: SystemClock, shown: Observers
) -> AsyncIterator[Observers]:
    """What was there, and traces beside it where somebody takes them."""
    if not config.trace_endpoint:
        yield shown
        return
    from demo_node.observe.traces import RoundTraces, make_exporter

    traces = RoundTraces(
        make_exporter(config.trace_endpoint),
        Sampling(config.trace_every),
        peer_id=encode_peer_id(key.public),
        version=version("demo-node"),
        now_ms=clock.now_ms,
        on_event=shown.on_event,
    )
    try:
        yield Observers([shown, traces])
    finally:
        await asyncio.to_thread(traces.close)


@contextlib.asynccontextmanager
async def _mesh(
    key: NodeKey, config: Config, book: AddressBook, observer: RoundObserver
) -> AsyncIterator[OpenMesh]:
    swarm_key = b""
    if config.psk_file is not None:
        swarm_key = await asyncio.to_thread(load_swarm_key, FileDisk(), config.psk_file)
    mesh = await open_mesh(key.seed, config, book, observer, swarm_key)
    try:
        yield mesh
    finally:
        await mesh.stop()


def _check_run(config: Config) -> None:
    """Refuse where there is no run to be had, before anything is made on disk."""
    datadir = DataDir(config.datadir)
    if config.wait_manifest or config.peers:
        return
    may_ask_neighbours = config.mdns and config.run_id
    if config.manifest is not None and not config.manifest.exists():
        raise ConfigError(f"--manifest {config.manifest}: there is no such file")
    if config.manifest is None and not datadir.manifest.exists() and not may_ask_neighbours:
        raise ConfigError(
            f"{datadir.path} holds no run; make one with demo-node init, or join one with"
            " demo-node start --peers <multiaddr>"
        )


def _check_private(config: Config) -> None:
    """Refuse where p2pd would let anybody connect to what was meant to be private."""
    if config.psk_file is not None:
        raise ConfigError("--psk-file: hivemind's p2pd knows no private swarms; use --mesh libp2p")


def _check_traces(config: Config) -> None:
    """Refuse where OpenTelemetry is asked for and missing; nothing imports it otherwise."""
    if not config.trace_endpoint:
        return
    try:
        import demo_node.observe.traces  # noqa: F401  half a second, and not on the loop
    except ModuleNotFoundError as error:
        if not str(error.name).startswith("opentelemetry"):
            raise
        raise ConfigError(
            "--trace-endpoint needs OpenTelemetry; run: pip install 'demo-node[otel]'"
        ) from None


def _check_addresses(config: Config) -> None:
    for address in config.peers:
        try:
            if address.startswith(LIST_PREFIX):
                decode_list(address)
            else:
                decode_address(address)
        except ValueError as error:
            raise ConfigError(f"--peers {address}: {error}") from None


def _load_or_create_key(disk: FileDisk, datadir: DataDir) -> NodeKey:
    """`start` on a fresh folder makes its own identity: a volunteer pastes one line."""
    if not datadir.key.exists():
        create_key(disk, datadir.key, generate_key())
    return load_key(disk, datadir.key)
