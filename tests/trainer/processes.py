"""What runs on this machine, read from /proc."""

from pathlib import Path


def descendants(pid: int) -> set[int]:
    """All processes below `pid`, whatever they have become since."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        new = children.get(waiting.pop(), [])
        found.update(new)
        waiting += new
    return found


def read_state(pid: int) -> str:
    """One letter: R running, S sleeping, T stopped, Z zombie; X where there is no process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def is_alive(pid: int) -> bool:
    """Running, and not a zombie that nobody has reaped."""
    return read_state(pid) not in "ZX"


def arguments(pid: int) -> str:
    """The command line, or nothing where the process has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def has_mapped(pid: int, library: str) -> bool:
    """Whether the process has begun to load a shared library of that name."""
    try:
        return library in Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return False
