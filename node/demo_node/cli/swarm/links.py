"""Which process holds TCP connections to which other's mesh port, from the kernel's own tables.

Linux only: elsewhere there are no tables to read, and no links are reported.
"""

import os
import re
import socket
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

ESTABLISHED: Final = "01"
"""State column of /proc/net/tcp."""

PROC: Final = Path("/proc")


def find_links(ports: Mapping[int, int], proc: Path = PROC) -> list[tuple[int, int]]:
    """Sorted (pid that dialled, pid that listens). `ports`: pid -> its mesh port."""
    listener = {port: pid for pid, port in ports.items()}
    links = set()
    for pid in ports:
        held = _socket_inodes(proc / str(pid) / "fd")
        for remote_port, inode in _connections(proc / str(pid) / "net"):
            other = listener.get(remote_port)
            if inode in held and other is not None and other != pid:
                links.add((pid, other))
    return sorted(links)


def find_diallers(
    pids: Mapping[int, int],
    connections: Collection[tuple[tuple[str, int], tuple[str, int]]],
    proc: Path = PROC,
) -> dict[tuple[tuple[str, int], tuple[str, int]], int]:
    """Whose each IPv4 connection is, from where to where. `pids`: pid -> what is returned.

    For many at once: reading the kernel's table takes it tens of milliseconds, whatever is in it.
    """
    wanted = {
        f"{_format_place(here)} {_format_place(there)}": (here, there)
        for here, there in connections
    }
    try:
        table = (proc / "net" / "tcp").read_text()
    except OSError:
        return {}
    inodes = {}
    for line in table.splitlines()[1:]:
        columns = line.split()
        connection = wanted.get(f"{columns[1]} {columns[2]}")
        if connection is not None:
            inodes[columns[9]] = connection
    found = {}
    for pid, own in pids.items():
        for inode in _socket_inodes(proc / str(pid) / "fd") & inodes.keys():
            found[inodes[inode]] = own
    return found


def _format_place(place: tuple[str, int]) -> str:
    """As the kernel's table has it: the address in the machine's own byte order."""
    number = int.from_bytes(socket.inet_aton(place[0]), sys.byteorder)
    return f"{number:08X}:{place[1]:04X}"


def parse_port(address: str) -> int:
    """The TCP port of a multiaddr."""
    match = re.search(r"/tcp/(\d+)", address)
    if match is None:
        raise ValueError(f"{address!r} has no TCP port")
    return int(match[1])


def _socket_inodes(folder: Path) -> set[str]:
    """Inodes of the sockets a process holds open."""
    inodes = set()
    try:
        for name in os.listdir(folder):
            try:
                target = os.readlink(folder / name)
            except OSError:
                continue  # closed meanwhile
            if target.startswith("socket:["):
                inodes.add(target[len("socket:[") : -1])
    except OSError:
        return set()  # the process has ended, or this is no Linux
    return inodes


def _connections(folder: Path) -> list[tuple[int, str]]:
    """(remote port, inode) of each established connection in the process's network namespace."""
    found = []
    for table in ("tcp", "tcp6"):
        try:
            lines = (folder / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for columns in map(str.split, lines):
            remote, state, inode = columns[2], columns[3], columns[9]
            if state == ESTABLISHED:
                found.append((int(remote.rpartition(":")[2], 16), inode))
    return found
