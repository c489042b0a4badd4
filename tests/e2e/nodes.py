"""Nodes that a test starts by hand, as a volunteer would."""

import asyncio
import contextlib
import shlex
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from demo_node.control.client import ControlClient, NotRunning, Refused, control_client
from demo_node.views import NodeState, RoundView, StatusView
from tests.cli.command import COMMAND, demo_node
from tests.e2e.processes import marked_environment, nothing_left
from tests.e2e.swarm_run import find_metrics_url
from tests.waiting import wait_until_sync

Answer = TypeVar("Answer")

LOCAL = ("--listen", "/ip4/127.0.0.1/tcp/0", "--metrics-address", "127.0.0.1:0")
"""Any free ports, of this machine only."""

ROUND_S = 2
"""Rounds of runs made by hand. Most of what is waited for is told in rounds."""

CALMLY = ("--train-percent", "25")
"""Trainers of a test share a machine with those of others; a quarter of their time is enough."""

UP_S, LONG_S = 90.0, 90.0
"""Deadlines that only a bug misses: starting is importing, and others use the cores too."""


@dataclass(frozen=True, slots=True)
class RunningNode:
    """One `demo-node start`."""

    datadir: Path
    process: subprocess.Popen[bytes]

    @property
    def stdout(self) -> str:
        """What it printed."""
        return _output_path(self.datadir, "stdout").read_text()

    @property
    def stderr(self) -> str:
        """Its log."""
        return _output_path(self.datadir, "stderr").read_text()

    def invitation(self) -> list[str]:
        """The arguments of the line that the next volunteer pastes, once it is printed."""
        wait_until_sync(lambda: "demo-node start --peers" in self.stdout, UP_S)
        (line,) = [line for line in self.stdout.splitlines() if "demo-node start" in line]
        command, *arguments = shlex.split(line)
        assert command == "demo-node"
        return arguments

    def ask(self, question: Callable[[ControlClient], Awaitable[Answer]]) -> Answer:
        """One question over the control socket."""

        async def ask() -> Answer:
            async with control_client(self.datadir) as client:
                return await question(client)

        return asyncio.run(ask())

    def metrics_url(self) -> str:
        """Where its metrics are, once it serves them."""
        wait_until_sync(lambda: "/metrics" in self.stderr, UP_S)
        return find_metrics_url(_output_path(self.datadir, "stderr"))

    def status(self) -> StatusView:
        """The node now."""
        return self.ask(lambda client: client.status())

    def rounds(self) -> Sequence[RoundView]:
        """Its rounds so far, oldest first."""
        return self.ask(lambda client: client.rounds(10_000))

    def wait_for_status(
        self, holds: Callable[[StatusView], object], deadline_s: float = LONG_S
    ) -> StatusView:
        """The first status for which `holds`."""

        async def look(client: ControlClient) -> StatusView:
            return await client.status()

        return self._wait(look, holds, deadline_s)

    def wait_for_rounds(
        self, holds: Callable[[Sequence[RoundView]], object], deadline_s: float = LONG_S
    ) -> Sequence[RoundView]:
        """The rounds as soon as `holds`."""

        async def look(client: ControlClient) -> Sequence[RoundView]:
            return await client.rounds(10_000)

        return self._wait(look, holds, deadline_s)

    def wait_until_active(self) -> StatusView:
        """Its status when it takes part."""
        return self.wait_for_status(lambda status: status.state is NodeState.ACTIVE)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the node process, not to its trainer."""
        self.process.send_signal(number)

    def wait(self, deadline_s: float = LONG_S) -> int:
        """Its exit code, as a shell shows it."""
        code = self.process.wait(timeout=deadline_s)
        return code if code >= 0 else 128 - code

    def _wait(
        self,
        look: Callable[[ControlClient], Awaitable[Answer]],
        holds: Callable[[Answer], object],
        deadline_s: float,
    ) -> Answer:
        async def wait() -> Answer:
            async with control_client(self.datadir) as client:
                async for _status in _watch(client):
                    answer = await look(client)
                    if holds(answer):
                        return answer
            raise AssertionError(f"the node ended:\n{self.stderr[-2000:]}")

        async def wait_within_deadline() -> Answer:
            async with asyncio.timeout(deadline_s):
                return await wait()

        wait_until_sync(self._is_up, UP_S)
        try:
            return asyncio.run(wait_within_deadline())
        except TimeoutError:
            raise AssertionError(f"not within {deadline_s} s:\n{self.stderr[-2000:]}") from None

    def _is_up(self) -> bool:
        assert self.process.poll() is None, self.stderr[-2000:]
        with contextlib.suppress(NotRunning, Refused):
            self.status()
            return True
        return False


async def _watch(client: ControlClient) -> AsyncIterator[StatusView]:
    async for status in client.watch(interval_ms=200):
        yield status


@contextlib.contextmanager
def started(
    datadir: Path,
    *arguments: str,
    command: Sequence[str] = COMMAND,
    places: Sequence[str] = LOCAL,
    **environment: str,
) -> Iterator[RunningNode]:
    """`demo-node start` in the background; gone, with all its processes, when the block ends."""
    datadir.parent.mkdir(parents=True, exist_ok=True)
    line = [*command, *(arguments or ("start",)), "--datadir", str(datadir), *places]
    line += ["--log-format", "json", "--threads", "1", *CALMLY]
    with (
        nothing_left(datadir),
        _output_path(datadir, "stdout").open("wb") as stdout,
        _output_path(datadir, "stderr").open("wb") as stderr,
        subprocess.Popen(
            line,
            env=marked_environment(datadir, **environment),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
        ) as process,
    ):
        try:
            yield RunningNode(datadir, process)
        finally:
            process.kill()


def make_run(datadir: Path, *flags: str) -> None:
    """`demo-node init` with short rounds."""
    done = demo_node("init", "--datadir", datadir, "--round-seconds", ROUND_S, *flags)
    assert done.returncode == 0, done.stderr


def _output_path(datadir: Path, name: str) -> Path:
    """Beside the data folder: the node owns what is in it."""
    return datadir.with_name(f"{datadir.name}.{name}")
