"""What the two sides of the trainer tell each other at the start, and the errors they share.

No torch here: the node process imports this.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from demo_protocol.errors import ConfigError

OnEvent = Callable[..., None]
"""(name, **fields), as RoundObserver.on_event."""


class UnknownState(LookupError):
    """The trainer does not hold the state that was named: load it, or apply up to it, first."""


class DoesNotFit(ConfigError):
    """The model is too large for the memory there is now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerSettings:
    """What to train, on what, with what."""

    manifest: bytes
    """Canonical bytes."""
    corpus: Path
    """Training text, then held-out text."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    threads: int = 0
    """Cores that one operation may use; 0: all that this process may use."""
    initial: Path | None = None
    """Where the snapshot file lies that the manifest may name as state 0."""
    nice: int = 10
    """Niceness: the network has to answer while every core trains."""
    gpu_memory_mb: int = 0
    """MiB of a graphics card's memory that may be used; 0: all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerInfo:
    """What a trainer that is ready says of itself."""

    pid: int
    parameters: int
    device: str
    """Where forward and backward run."""
    apply_device: str
    """Where updates are applied: the CPU where the device failed the known-answer test."""
    can_contribute: bool
    """False: the known-answer test failed on the CPU too. It trains nothing, sends heartbeats."""
    micro_batch: int = 0
    """Samples taken at once: what fits of the manifest's micro-batch, found by trial."""
    codec: str = "torch"
    """What updates are applied with on a processor: a build of the compiled codec, or torch."""


def compute_threads(nodes: int = 1) -> int:
    """Threads for one of `nodes` trainers that share this machine; at least 1."""
    # macOS cannot say which cores a process may use.
    usable = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if usable else os.cpu_count() or 1
    return max(1, cores // nodes)
