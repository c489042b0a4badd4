"""How long what was trained and encoded is, for people to look at."""

from collections.abc import Iterable

from torch import Tensor

from demo_node.learn.demo import measure_norm
from demo_node.learn.faults import is_out_of_memory
from demo_node.ports import Norms


def measure_or_none(tensors: Iterable[Tensor]) -> float | None:
    """None where memory is too short to look: what was trained goes out all the same."""
    try:
        return measure_norm(tensors)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    return None


def to_norms(
    gradient: float, delta: float | None, before: float | None, residual: float | None
) -> Norms | None:
    """None where one of them could not be measured. `before`: the residual with all of delta."""
    if delta is None or before is None or residual is None:
        return None
    return Norms(
        gradient=gradient,
        delta=delta,
        residual=residual,
        residual_ratio=residual / before if before else 0.0,
    )
