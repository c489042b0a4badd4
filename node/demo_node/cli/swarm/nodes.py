"""The swarm's node processes: each with a data folder of its own, none outliving the swarm."""

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from demo_node.config import ENV_PREFIX
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

PR_SET_PDEATHSIG: Final = 1
"""Linux prctl: the signal to get when the parent dies."""


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


@dataclass(slots=True)
class SwarmNode:
    """One node process and what it last said of itself."""

    index: int
    datadir: DataDir
    peer_id: str
    process: asyncio.subprocess.Process
    status: StatusView | None = None

    @property
    def pid(self) -> int:
        """Of the node process."""
        return self.process.pid

    @property
    def log(self) -> Path:
        """Everything it printed."""
        return compute_log_path(self.datadir)

    async def refresh(self) -> None:
        """Ask for its status; what does not answer just now keeps the last one."""
        with contextlib.suppress(NotRunning, Refused):
            async with self.client() as client:
                self.status = await client.status()

    def client(self) -> contextlib.AbstractAsyncContextManager[ControlClient]:
        """Its control service. Raises NotRunning."""
        return control_client(self.datadir.path)


def compute_log_path(datadir: DataDir) -> Path:
    """Where the swarm puts what a node prints."""
    return datadir.path / "node.log"


@contextlib.asynccontextmanager
async def running_nodes(folder: Path, options: SwarmOptions) -> AsyncIterator[list[SwarmNode]]:
    """Start the nodes; when the block ends, however it ends, no process of theirs is left."""
    nodes: list[SwarmNode] = []
    try:
        first = f"/ip4/127.0.0.1/tcp/{_find_free_port()}"
        invitation = ""
        for index in range(options.nodes):
            datadir, peer_id = await asyncio.to_thread(_make_datadir, folder / f"node{index}")
            flags = ["--listen", first if index == 0 else "/ip4/127.0.0.1/tcp/0"]
            if index == 0:
                invitation = f"{first}/p2p/{peer_id}"
            else:
                flags += ["--peers", invitation]
            process = await _spawn(datadir, flags, options)
            nodes.append(SwarmNode(index, datadir, peer_id, process))
        yield nodes
    finally:
        await stop_nodes(nodes, options.round_ms / 1000 + LEAVE_MARGIN_S)


def _make_datadir(path: Path) -> tuple[DataDir, str]:
    disk, key = FileDisk(), generate_key()
    datadir = open_datadir(disk, path)
    create_key(disk, datadir.key, key)
    return datadir, encode_peer_id(key.public)


def _find_free_port() -> int:
    """A port of the loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def _spawn(
    datadir: DataDir, flags: Sequence[str], options: SwarmOptions
) -> asyncio.subprocess.Process:
    threads = max(1, (os.cpu_count() or 1) // options.nodes)
    command = [sys.executable, "-m", "demo_node.cli", "start", "--wait-manifest"]
    command += ["--datadir", str(datadir.path), "--metrics-address", "127.0.0.1:0"]
    command += ["--rounds", str(options.rounds), "--threads", str(threads)]
    command += ["--device", options.device, "--log-format", "json", *flags]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(ENV_PREFIX)}
    with compute_log_path(datadir).open("wb") as log:
        return await asyncio.create_subprocess_exec(
            *command,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is ours to handle, once
            preexec_fn=_leave_with_parent,
        )


_LIBC: Final = ctypes.CDLL(None) if sys.platform == "linux" else None


def _leave_with_parent() -> None:
    """Runs in the new process: a killed swarm must not leave nodes behind."""
    if _LIBC is not None:
        _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def check_alive(nodes: Sequence[SwarmNode]) -> None:
    """Raise SwarmFailed, with the end of its log, if a node has ended."""
    for node in nodes:
        if node.process.returncode is not None:
            tail = node.log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace").rstrip()
            raise SwarmFailed(
                f"node {node.index} ended with exit code {node.process.returncode};"
                f" its log ends:\n{tail}"
            )


async def stop_nodes(nodes: Sequence[SwarmNode], deadline_s: float) -> list[int]:
    """Ask all to leave, wait, kill what is left; the indexes of those that left uncleanly."""
    running = [node for node in nodes if node.process.returncode is None]
    for node in running:
        node.process.send_signal(signal.SIGTERM)
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
    return [node.index for node in running if node.process.returncode != 0]
