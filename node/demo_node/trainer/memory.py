"""Whether a run's model fits into the memory that this process may use."""

import os
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from demo_node.trainer.device import Devices
from demo_node.trainer.settings import DoesNotFit
from demo_protocol.limits import STATES_KEPT
from demo_protocol.manifest import Learning
from demo_protocol.schema import SLOTS, Schema

STATES: Final = STATES_KEPT + 2
"""Replicated states at once: those within a rollback's reach, the head's and the next."""

ROWS: Final = 6
"""Rows of numbers beside them: those in training, those being read, a gradient, a delta (where
gradients are added up: a gradient and their sum, which becomes the delta), the residual, and its
copy while that is written to the disk."""

MOMENTS: Final = 2
"""AdamW's moments, where local steps are taken."""

_FP32: Final = 4


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes that can still be taken, and what it is that has no more."""

    bytes: int
    where: str


@dataclass(frozen=True, slots=True)
class Needs:
    """Bytes that a model takes for good, its activations left out: those are found by trial."""

    parameters: int
    train: int
    """Rows and moments."""
    apply: int
    """Replicated states, and the votes and signs of an update."""


def compute_needs(schema: Schema, learning: Learning) -> Needs:
    """What training and applying updates take, whatever the device."""
    moments = MOMENTS if learning.local == "steps" else 0
    slots = schema.chunks * SLOTS
    return Needs(
        parameters=schema.parameters,
        train=_FP32 * (ROWS * slots + moments * schema.parameters),
        apply=_FP32 * STATES * slots + (_FP32 + 1) * slots,
    )


def check_fits(needs: Needs, devices: Devices, gpu_memory_mb: int) -> None:
    """Raise DoesNotFit, with the numbers, where a device has no room. Allocates nothing."""
    wanted = {devices.train: 0, devices.apply: 0}
    wanted[devices.train] += needs.train
    wanted[devices.apply] += needs.apply
    for device, bytes_ in wanted.items():
        room = find_room(device, gpu_memory_mb)
        if bytes_ > room.bytes:
            raise DoesNotFit(explain(needs, bytes_, room))


def explain(needs: Needs, bytes_: int, room: Room, more: str = "") -> str:
    """One line: what is needed (`more`: besides), what there is, what to do."""
    return (
        f"this model needs about {show_bytes(bytes_)} for {STATES} states of"
        f" {needs.parameters:,} parameters and the training of one{more}; {room.where} has"
        f" {show_bytes(room.bytes)} free: use a larger machine, or a run with a smaller model"
    )


def show_bytes(count: int) -> str:
    """In decimal units: 1.5 GB, 30 MB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def find_room(device: torch.device, gpu_memory_mb: int = 0) -> Room:
    """What a device still has for this process."""
    if device.type == "cuda":
        free, _total = torch.cuda.mem_get_info(device)
        capped = gpu_memory_mb << 20 if gpu_memory_mb else free
        return Room(min(free, capped), f"the card {device}")
    # Apple's graphics memory is the machine's.
    return find_host_room()


def find_host_room(root: Path = Path("/")) -> Room:
    """The least of what machine, control group and process limits leave. `root`: of /proc, /sys."""
    rooms = [_find_machine_room(root), *_find_group_rooms(root)]
    status = _read_table(root / "proc/self/status")
    for limit, used, where in (
        (resource.RLIMIT_AS, "VmSize", "this process's address space (ulimit -v)"),
        (resource.RLIMIT_DATA, "VmData", "this process's data limit (ulimit -d)"),
    ):
        most, _hard = resource.getrlimit(limit)
        if most != resource.RLIM_INFINITY:
            rooms.append(Room(max(0, most - status.get(used, 0)), where))
    return min(rooms, key=lambda room: room.bytes)


def _find_machine_room(root: Path) -> Room:
    available = _read_table(root / "proc/meminfo").get("MemAvailable")
    if available is None:  # not Linux: all there is, whoever uses it
        available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Room(available, "this machine")


def _find_group_rooms(root: Path) -> list[Room]:
    """Room in every control group that this process is in, with its parents; v2 and v1."""
    rooms = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0":
            base, most, used = root / "sys/fs/cgroup", "memory.max", "memory.current"
        elif controllers == "memory":
            base = root / "sys/fs/cgroup/memory"
            most, used = "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        inside = Path(path.lstrip("/"))
        for group in (inside, *inside.parents):
            limit, usage = _read(base / group / most).strip(), _read(base / group / used).strip()
            if limit.isdigit() and usage.isdigit():
                # Pages of files that are only cached are given back when somebody needs them.
                cached = _read_table(base / group / "memory.stat").get("inactive_file", 0)
                room = int(limit) - int(usage) + cached
                rooms.append(Room(max(0, room), "this process's control group"))
    return rooms


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _read_table(path: Path) -> dict[str, int]:
    """`Name: 12 kB` or `name 12` per line, in bytes."""
    table = {}
    for line in _read(path).splitlines():
        name, *rest = line.replace(":", " ").split()
        if rest and rest[0].isdigit():
            table[name] = int(rest[0]) << (10 if rest[-1] == "kB" else 0)
    return table
