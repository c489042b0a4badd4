"""Processes that a test started: found by a mark they inherit, ended by their ids."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from tests.cli.command import environment
from tests.waiting import wait_until_sync

MARK = "DEMO_END_TO_END"
"""Environment variable that nodes, fork servers and trainers inherit."""


def marked_environment(mark: Path, **more: str) -> dict[str, str]:
    """The environment for a command, so that `find_processes(mark)` finds what came of it."""
    return {**environment(), **more, MARK: str(mark)}


def find_processes(mark: Path) -> list[int]:
    """Living processes of that mark. A zombie has no environment any more."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdigit() and wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


@contextlib.contextmanager
def nothing_left(mark: Path) -> Iterator[None]:
    """When the block ends, however it ends, no process of that mark is left."""
    try:
        yield
    finally:
        for pid in find_processes(mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until_sync(lambda: not find_processes(mark))


def is_alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def measure_cpu_seconds(pid: int) -> float:
    """Processor time a process has spent so far, its children not counted."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def now_s() -> float:
    """A clock for measuring; no test may depend on what it says."""
    return time.monotonic()
