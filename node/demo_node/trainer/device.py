"""Which device trains, which applies updates, and whether this machine's arithmetic can be used."""

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
    """False: updates come out wrong even on the CPU; what is sent would stand on sand."""


def choose_devices(name: str) -> Devices:
    """Devices for auto, cpu, cuda, cuda:N or mps, after the start-up known-answer test.

    A device that fails it still trains; updates are then applied on the CPU. Raises ConfigError
    when there is no such device.
    """
    train = _find_device(name)
    for apply in dict.fromkeys((train, torch.device("cpu"))):
        if _passes(apply):
            return Devices(train, apply)
    return Devices(train, torch.device("cpu"), can_contribute=False)


def _passes(device: torch.device) -> bool:
    try:
        return known_answer(device)
    except RuntimeError:  # the device lacks an operation (NotImplementedError is one of these)
        return False


def _find_device(name: str) -> torch.device:
    kind = name.partition(":")[0]
    found = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if kind == "auto":
        kind = name = next((kind for kind, here in found.items() if here), "cpu")
    if kind not in ("cpu", "cuda", "mps"):
        raise ConfigError(f"device {name!r} is unknown: use auto, cpu, cuda, cuda:N or mps")
    if not found.get(kind, True):
        raise ConfigError(f"device {name!r} is not available here: use auto or cpu")
    try:
        return torch.empty(0, device=name).device
    except RuntimeError:
        raise ConfigError(f"device {name!r} is not available here: use auto or cpu") from None
