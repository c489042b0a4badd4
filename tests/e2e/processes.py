"""Processes that a test started: found by a mark they inherit, ended by their ids."""

import contextlib
import os
import signal
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
        return _read_stat(Path(f"/proc/{pid}"))[0] != "Z"
    except OSError:
        return False


def is_stopped(pid: int) -> bool:
    """Whether SIGSTOP has reached every thread: on busy cores that takes a while."""
    return all(_read_stat(thread)[0] == "T" for thread in Path(f"/proc/{pid}/task").iterdir())


def measure_cpu_seconds(pid: int) -> float:
    """Processor time a process has spent so far, its children not counted."""
    fields = _read_stat(Path(f"/proc/{pid}"))
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _read_stat(folder: Path) -> list[str]:
    """Fields of `stat` behind the command's name: the state comes first."""
    return (folder / "stat").read_text().rpartition(")")[2].split()
