"""Pure torch: the model, local training, what is sent and the exact update. No I/O, no clock."""

from demo_node.learn.reference import DeMo

__all__ = ["DeMo"]
