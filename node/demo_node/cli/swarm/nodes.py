"""The swarm's nodes: each with a data folder of its own, none outliving the swarm."""

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from demo_node.cli.swarm.lives import Life
from demo_node.cli.swarm.processes import end_marked, find_free_ports, spawn
from demo_node.cli.swarm.targets import Target, listed_targets
from demo_node.control.client import ControlClient, NotRunning, Refused, control_client
from demo_node.mesh.peer_id import encode_peer_id
from demo_node.store.datadir import DataDir, open_datadir
from demo_node.store.disk import FileDisk
from demo_node.store.key import create_key, generate_key
from demo_node.views import StatusView

LEAVE_MARGIN_S: Final = 15.0
"""A node leaves within one round and 10 s; what takes longer is killed."""

LOG_TAIL_BYTES: Final = 2_000
"""Of a failed node's log, enough for its last lines and a traceback."""

ROUNDS_LOOKED_AT: Final = 64
"""At every look: more than a node can show at once after it was stopped."""


class SwarmFailed(Exception):
    """The swarm could not be run to its end; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SwarmOptions:
    """What the command line asked for."""

    nodes: int
    rounds: int
    round_ms: int
    preset: str
    seed: int
    device: str
    targets: Path | None = None


@dataclass(slots=True)
class SwarmNode:
    """One node, its process now and what all its processes said of themselves."""

    index: int
    datadir: DataDir
    command: Sequence[str]
    scratch: Path
    process: asyncio.subprocess.Process
    metrics_address: str
    lives: list[Life] = field(default_factory=list)
    away: str = ""
    """Why it cannot answer just now, if we know: "killed" or "stopped"."""

    def __post_init__(self) -> None:
        self.lives.append(Life(self.pid))

    @property
    def pid(self) -> int:
        """Of the node process."""
        return self.process.pid

    @property
    def life(self) -> Life:
        """Its process now, or the last one it had."""
        return self.lives[-1]

    @property
    def status(self) -> StatusView | None:
        """What it last said, unless it cannot speak now."""
        return None if self.away else self.life.status

    @property
    def log(self) -> Path:
        """Everything it printed."""
        return compute_log_path(self.datadir)

    async def refresh(self) -> None:
        """Ask for its status and rounds; what does not answer just now keeps the last ones."""
        if self.away:
            return
        life = self.life  # it may be killed while we ask
        with contextlib.suppress(NotRunning, Refused):
            async with self.client() as client:
                status = await client.status()
                if status.pid == life.pid:
                    life.look(status, await client.rounds(ROUNDS_LOOKED_AT))

    def client(self) -> contextlib.AbstractAsyncContextManager[ControlClient]:
        """Its control service. Raises NotRunning."""
        return control_client(self.datadir.path)

    async def kill(self) -> None:
        """End the node process as a power cut would."""
        self.away = "killed"
        self.process.kill()
        await self.process.wait()

    async def start_again(self) -> None:
        """Same data folder, same options."""
        self.process = await spawn(self.command, self.log, self.scratch)
        self.lives.append(Life(self.pid))
        self.away = ""

    def stop(self) -> None:
        """Freeze the node process until `go_on`."""
        self.away = "stopped"
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it run again."""
        self.process.send_signal(signal.SIGCONT)
        self.away = ""

    @property
    def has_failed(self) -> bool:
        """Whether it has ended, and not by our hand."""
        code = self.process.returncode
        return code is not None and (self.away != "killed" or code != -signal.SIGKILL)


def compute_log_path(datadir: DataDir) -> Path:
    """Where the swarm puts what a node prints."""
    return datadir.path / "node.log"


@dataclass(slots=True)
class Swarm:
    """All nodes; once they have ended, also what of them did not go by itself."""

    nodes: list[SwarmNode] = field(default_factory=list)
    left_behind: Sequence[int] = ()


@contextlib.asynccontextmanager
async def running_swarm(folder: Path, options: SwarmOptions) -> AsyncIterator[Swarm]:
    """Start the nodes; when the block ends, however it ends, no process of theirs is left."""
    swarm = Swarm()
    # Of its own, and short: trainers have sockets in there, and paths of sockets may not be long.
    with tempfile.TemporaryDirectory(prefix="demo-swarm-", ignore_cleanup_errors=True) as name:
        try:
            await _start_nodes(swarm.nodes, folder, Path(name), options)
            with _listed(swarm.nodes, options.targets):
                yield swarm
        finally:
            await stop_nodes(swarm.nodes, options.round_ms / 1000 + LEAVE_MARGIN_S)
            swarm.left_behind = await end_marked(Path(name))


def _listed(
    nodes: Sequence[SwarmNode], targets: Path | None
) -> contextlib.AbstractContextManager[None]:
    if targets is None:
        return contextlib.nullcontext()
    return listed_targets(
        targets, [Target(node.metrics_address, node.index, node.datadir.path) for node in nodes]
    )


async def _start_nodes(
    nodes: list[SwarmNode], folder: Path, scratch: Path, options: SwarmOptions
) -> None:
    """Every node keeps its ports over a restart, so that others still find it there."""
    invitation = ""
    ports = find_free_ports(2 * options.nodes)
    for index, port in enumerate(ports[: options.nodes]):
        metrics_address = f"127.0.0.1:{ports[options.nodes + index]}"
        listen = f"/ip4/127.0.0.1/tcp/{port}"
        datadir, peer_id = await asyncio.to_thread(_make_datadir, folder / f"node{index}")
        flags = ["--listen", listen, "--metrics-address", metrics_address]
        flags += ["--peers", invitation] if index else []
        invitation = invitation or f"{listen}/p2p/{peer_id}"
        command = _make_command(datadir, flags, options)
        process = await spawn(command, compute_log_path(datadir), scratch)
        nodes.append(SwarmNode(index, datadir, command, scratch, process, metrics_address))


def _make_datadir(path: Path) -> tuple[DataDir, str]:
    disk, key = FileDisk(), generate_key()
    datadir = open_datadir(disk, path)
    create_key(disk, datadir.key, key)
    return datadir, encode_peer_id(key.public)


def _make_command(datadir: DataDir, flags: Sequence[str], options: SwarmOptions) -> list[str]:
    threads = max(1, (os.cpu_count() or 1) // options.nodes)
    command = [sys.executable, "-m", "demo_node.cli", "start", "--wait-manifest"]
    command += ["--datadir", str(datadir.path)]
    command += ["--rounds", str(options.rounds), "--threads", str(threads)]
    return [*command, "--device", options.device, "--log-format", "json", *flags]


def check_alive(nodes: Sequence[SwarmNode]) -> None:
    """Raise SwarmFailed, with the end of its log, if a node has ended that was not killed."""
    for node in nodes:
        if node.has_failed:
            tail = node.log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace").rstrip()
            raise SwarmFailed(
                f"node {node.index} ended with exit code {node.process.returncode};"
                f" its log ends:\n{tail}"
            )


async def stop_nodes(nodes: Sequence[SwarmNode], deadline_s: float) -> None:
    """Ask all to leave, wait, kill what is left."""
    running = [node for node in nodes if node.process.returncode is None]
    for node in running:
        node.process.send_signal(signal.SIGTERM)
        node.process.send_signal(signal.SIGCONT)  # one that was stopped could not hear it
    try:
        async with asyncio.timeout(deadline_s):
            await asyncio.gather(*(node.process.wait() for node in running))
    except TimeoutError:
        pass  # the rest is killed below
    finally:  # also when the waiting itself is cancelled
        for node in running:
            if node.process.returncode is None:
                node.process.kill()
        await asyncio.gather(*(node.process.wait() for node in running))
