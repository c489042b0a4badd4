"""What can go wrong with arithmetic and memory, told apart from bugs."""

from typing import Final

import torch

from demo_protocol.errors import LocalFault

_CPU_ALLOCATOR: Final = "can't allocate memory"
"""How torch's CPU allocator says it, in a plain RuntimeError."""


class Diverged(LocalFault):
    """A delta with a NaN or infinity: a learning rate, a weight decay, a flaky card."""


class OutOfMemory(MemoryError):
    """Not even one sample at once fits into the memory."""


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an allocation failed, on any device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and _CPU_ALLOCATOR in str(error)
