"""A shell in a clone, as a reader of the pages has it, but with a home and ports of its own."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from tests.cli.command import ROOT
from tests.e2e.processes import marked_environment, nothing_left
from tests.waiting import wait_until_sync

Process = subprocess.Popen[bytes]

LEAVE_S: Final = 60.0
"""After Ctrl-C: a round and ten seconds, on a busy machine."""

START: Final = "set -euo pipefail; source .venv/bin/activate"


@dataclass(frozen=True)
class Running:
    """A command that stays until it is interrupted."""

    process: Process
    log: Path

    def wait_for(self, words: str, deadline_s: float = 90) -> None:
        """Until it has printed them."""
        wait_until_sync(lambda: words in self.read(), deadline_s)

    def read(self) -> str:
        """What it has printed. Fails the test if it has ended."""
        assert self.process.poll() is None, self.log.read_text()[-3000:]
        return self.log.read_text()

    def interrupt(self) -> int:
        """What Ctrl-C does; returns the exit code."""
        os.killpg(self.process.pid, signal.SIGINT)
        try:
            return self.process.wait(LEAVE_S)
        finally:
            self.process.kill()  # whatever it started is found by its mark


class Shell:
    """Runs commands; `home` is their home."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._environment = marked_environment(
            home,
            HOME=str(home),
            XDG_DATA_HOME=str(home / ".local/share"),
            DEMO_NODE_LISTEN="/ip4/127.0.0.1/tcp/0",
            DEMO_NODE_METRICS_ADDRESS="127.0.0.1:0",
        )

    def run(self, line: str, timeout_s: float = 110) -> str:
        """What a command prints. Fails the test with its last words where it ends with an error."""
        with self._open(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            try:
                printed, told = map(bytes.decode, process.communicate(timeout=timeout_s))
            finally:
                if process.poll() is None:
                    Running(process, self.home).interrupt()  # it tidies up after itself
        assert process.returncode == 0, f"{line}: {printed[-2000:]}{told[-3000:]}"
        return printed

    @contextlib.contextmanager
    def started(self, line: str) -> Iterator[Running]:
        """A command in the background, interrupted when the block ends."""
        log = self.home / "log"
        with log.open("wb") as output, self._open(line, stdout=output, stderr=output) as process:
            running = Running(process, log)
            try:
                yield running
            finally:
                if process.poll() is None:
                    running.interrupt()

    def _open(self, line: str, stdout: int | IO[bytes], stderr: int | IO[bytes]) -> Process:
        return subprocess.Popen(
            ["bash", "-c", f"{START}; {line}"],
            cwd=ROOT,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
            # Of a shell's background job SIGINT is ignored, and so it is of all it starts.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )


@contextlib.contextmanager
def opened_shell(home: Path) -> Iterator[Shell]:
    """A shell with an empty home; whatever it started is gone when the block ends."""
    home.mkdir()
    with nothing_left(home):
        yield Shell(home)
