"""Node processes: how they are started, and that none is left behind.

All that a swarm starts inherits a mark in its environment, by which it is found: fork servers and
trainers of a killed node too, and no stranger that got the number of a process that has died.
Linux only: elsewhere there is no table of processes to read, and none is found.
"""

import asyncio
import contextlib
import ctypes
import os
import random
import signal
import socket
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

from demo_node.config import ENV_PREFIX

MARK: Final = "TMPDIR"
"""Environment variable; its value is the swarm's scratch folder, no other swarm has the same.

Programs put temporary files there: those of a killed process are gone with the swarm.
"""

GONE_S: Final = 20.0
"""What a node leaves behind goes by itself; a fork server first finishes importing torch."""

LOOK_S: Final = 0.1
"""How often it is looked for meanwhile."""

PORTS: Final = range(20_000, 32_000)
"""Below those that kernels give to whoever dials: a port must still be free after a restart."""

PROC: Final = Path("/proc")

GRPC_FORK: Final = "GRPC_ENABLE_FORK_SUPPORT"
"""Environment variable: may gRPC run handlers of its own around each fork? Off as a precaution.

The swarm's process uses gRPC and forks while it has threads. A restarted node of thirty once ended
with SIGSEGV: whether before or after it became a node, and whether gRPC had any part in it, is not
known. Nodes do not inherit the setting.
"""

PR_SET_PDEATHSIG: Final = 1
"""Linux prctl: the signal to get when the parent dies."""

_LIBC: Final = ctypes.CDLL(None) if sys.platform == "linux" else None


def find_free_ports(count: int, taken: Collection[int] = ()) -> list[int]:
    """Ports of the loopback that nobody listens on now, and none of those `taken`."""
    found: list[int] = []
    for port in random.sample(PORTS, len(PORTS)):
        if len(found) == count:
            break
        if port in taken:
            continue
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
    return found


async def spawn(command: Sequence[str], log: Path, scratch: Path) -> asyncio.subprocess.Process:
    """Start a process that ends with us; what it prints is added to `log`."""
    environment = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(ENV_PREFIX) and key != GRPC_FORK
    }
    with log.open("ab") as output:
        return await asyncio.create_subprocess_exec(
            *command,
            env={**environment, MARK: str(scratch)},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            # Ctrl-C is ours to handle, once. A group and no session: Linux shares the processor
            # out among sessions, and `nice` counts only inside of one (sched_autogroup).
            process_group=0,
            preexec_fn=_die_with_parent,
        )


def _die_with_parent() -> None:
    """Runs in the new process: a killed swarm must not leave nodes behind, stopped ones neither."""
    if _LIBC is not None:
        _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def find_marked(scratch: Path, proc: Path = PROC) -> list[int]:
    """Living processes of the swarm with that scratch folder."""
    wanted = f"{MARK}={scratch}".encode()
    found = []
    for entry in proc.glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended, or is not ours
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return sorted(found)


async def end_marked(scratch: Path) -> list[int]:
    """Kill what of the swarm does not go by itself; returns the process ids that had to be."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + GONE_S
    while (left := find_marked(scratch)) and loop.time() < deadline:  # noqa: ASYNC110  others' end
        await asyncio.sleep(LOOK_S)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return left


def kill_member(pid: int, group: int) -> bool:
    """SIGKILL for a process of that process group: its number may be another's by now."""
    with contextlib.suppress(ProcessLookupError):
        if pid and os.getpgid(pid) == group:
            os.kill(pid, signal.SIGKILL)
            return True
    return False
