"""Which device trains, which applies updates, and whether this machine's arithmetic can be used."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from demo_node.learn.digest import known_answer
from demo_protocol.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Devices:
    """`train`: forward and backward. `apply`: replicated states and exact updates."""

    train: torch.device
    apply: torch.device
    can_contribute: bool = True
    """False: updates come out wrong even on the CPU, so this node's states are nobody else's."""


def choose_devices(
    name: str, gpu_memory_mb: int = 0, is_exact: Callable[[torch.device], bool] = known_answer
) -> Devices:
    """Devices for auto, cpu, cuda, cuda:N or mps, after the start-up known-answer test.

    A device that fails it still trains; updates are then applied on the CPU. At most
    `gpu_memory_mb` MiB of a graphics card are used (0: all). Raises ConfigError where there is
    no such device.
    """
    train = find_device(name)
    limit_memory(train, gpu_memory_mb)
    return check_devices(train, is_exact)


def check_devices(train: torch.device, is_exact: Callable[[torch.device], bool]) -> Devices:
    """The first of `train` and the CPU that `is_exact` accepts applies updates."""
    cpu = torch.device("cpu")
    for apply in dict.fromkeys((train, cpu)):
        try:
            if is_exact(apply):
                return Devices(train, apply)
        except RuntimeError:  # it lacks an operation (NotImplementedError is one of these)
            continue
    return Devices(train, cpu, can_contribute=False)


def limit_memory(device: torch.device, gpu_memory_mb: int) -> None:
    """Let this process take at most so many MiB of a graphics card; 0: all."""
    if device.type == "cuda" and gpu_memory_mb:
        total = torch.cuda.get_device_properties(device).total_memory
        fraction = min(1.0, (gpu_memory_mb << 20) / total)
        torch.cuda.set_per_process_memory_fraction(fraction, device)


def find_device(name: str) -> torch.device:
    """The device of that name; auto: a graphics card if there is one. Raises ConfigError."""
    found = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next((kind for kind, is_here in found.items() if is_here), "cpu")
    kind = name.partition(":")[0]
    if kind not in ("cpu", "cuda", "mps"):
        raise ConfigError(f"device {name!r} is unknown: use auto, cpu, cuda, cuda:N or mps")
    if found.get(kind, True):
        try:
            return torch.empty(0, device=name).device
        except RuntimeError:
            pass
    raise ConfigError(f"device {name!r} is not available here: use auto or cpu")
