"""One node of the swarm: its data folder, its process now, and what its processes said."""

import asyncio
import contextlib
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from demo_node.cli.swarm.lives import Life
from demo_node.cli.swarm.processes import spawn
from demo_node.control.client import (
    ControlClient,
    NotAnswering,
    NotRunning,
    Refused,
    control_client,
)
from demo_node.store.datadir import DataDir
from demo_node.views import StatusView

LOG_TAIL_BYTES: Final = 2_000
"""Of a failed node's log, enough for its last lines and a traceback."""


class SwarmFailed(Exception):
    """The swarm could not be run to its end; the message says why."""


@dataclass(slots=True)
class SwarmNode:
    """One node, its process now and what all its processes said of themselves."""

    index: int
    datadir: DataDir
    address: str
    """Where others reach it."""
    command: Sequence[str]
    scratch: Path
    process: asyncio.subprocess.Process
    metrics_address: str
    lives: list[Life] = field(default_factory=list)
    away: str = ""
    """Why it cannot answer just now, if we know: "killed", "leaving", "left" or "stopped"."""

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
        # It may also be stopped while we ask.
        with contextlib.suppress(NotRunning, NotAnswering, Refused):
            async with self.client() as client:
                status = await client.status()
                if status.pid == life.pid:
                    life.look(status, await client.rounds(life.count_asked(status)))

    def client(self) -> contextlib.AbstractAsyncContextManager[ControlClient]:
        """Its control service. Raises NotRunning."""
        return control_client(self.datadir.path)

    async def kill(self) -> None:
        """End the node process as a power cut would."""
        self.away = "killed"
        self.process.kill()
        await self.process.wait()

    async def leave(self, deadline_s: float) -> None:
        """Let it say goodbye and end. Raises SwarmFailed where that takes longer."""
        self.away = "leaving"
        self.process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(deadline_s):
                await self.process.wait()
        except TimeoutError:
            raise SwarmFailed(
                f"node {self.index} did not leave within {deadline_s:.0f} s"
            ) from None
        self.away = "left"

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
    def is_down(self) -> bool:
        """Whether it has no process, or soon will have none, by our hand."""
        return self.away in ("killed", "leaving", "left")

    @property
    def has_failed(self) -> bool:
        """Whether it has ended, and not by our hand."""
        code = self.process.returncode
        wanted = -signal.SIGKILL if self.away == "killed" else 0
        return code is not None and (not self.is_down or code != wanted)


def compute_log_path(datadir: DataDir) -> Path:
    """Where the swarm puts what a node prints."""
    return datadir.path / "node.log"


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
