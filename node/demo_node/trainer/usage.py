"""What trainer processes take of the machine, as Linux tells it; elsewhere nothing is known."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Usage:
    """Of one process, now: processor time since its start, and resident memory."""

    cpu_s: float
    resident_bytes: int


def read_usage(pid: int, root: Path = Path("/proc")) -> Usage | None:
    """None where there is no such process, or no /proc. `root`: where that lies."""
    try:
        stat = (root / str(pid) / "stat").read_text()
    except OSError:
        return None
    # After the name, which may hold anything: state first, utime and stime 12th, rss 22nd.
    fields = stat.rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    return Usage(
        cpu_s=ticks / os.sysconf("SC_CLK_TCK"),
        resident_bytes=int(fields[21]) * os.sysconf("SC_PAGE_SIZE"),
    )


class CpuTotal:
    """Processor time of one process after another: it never falls.

    What each was last seen to have used counts; its end is not seen.
    """

    def __init__(self) -> None:
        self._pid = 0
        self._latest_s = 0.0
        self._ended_s = 0.0

    @property
    def seconds(self) -> float:
        """All of them together."""
        return self._ended_s + self._latest_s

    def see(self, pid: int, cpu_s: float) -> None:
        """The process that runs now has used so much; another one than last time is its heir."""
        if pid != self._pid:
            self._ended_s += self._latest_s
            self._pid, self._latest_s = pid, 0.0
        self._latest_s = max(self._latest_s, cpu_s)
