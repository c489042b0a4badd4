"""What lies between the nodes' deltas and the next state: the nodes' own way, and the reference's.

Whole, for all nodes of one training, and without a protocol: nothing is signed, late or lost.
M nodes.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from demo_node.bench.learner import CPU
from demo_node.learn.demo import Encoder
from demo_node.learn.exact import apply_update
from demo_node.learn.reference import DeMo
from demo_protocol.fp32 import compute_step
from demo_protocol.manifest import PPB, PPM, Learning
from demo_protocol.payload import Payload
from demo_protocol.schema import Schema


class Exchange(Protocol):
    """Every node's residual, and the rule by which they move on together."""

    def advance(
        self, round_: int, state: Mapping[str, Tensor], deltas: Sequence[Mapping[str, Tensor]]
    ) -> Mapping[str, Tensor]:
        """The state after `round_`. state, deltas [M]: fp32 tensors by name; left as they are."""


class OwnExchange:
    """With the code of real nodes: Encoder, then the exact update."""

    def __init__(self, schema: Schema, learning: Learning, nodes: int) -> None:
        self._schema = schema
        self._learning = learning
        self._encoders = [Encoder(schema, learning, CPU.train) for _ in range(nodes)]

    def advance(
        self, round_: int, state: Mapping[str, Tensor], deltas: Sequence[Mapping[str, Tensor]]
    ) -> Mapping[str, Tensor]:
        """As Exchange.advance."""
        payloads = self.encode(round_, deltas)
        return apply_update(state, payloads, self._schema, compute_step(self._learning, round_))

    def encode(self, round_: int, deltas: Sequence[Mapping[str, Tensor]]) -> list[Payload]:
        """What the nodes send; all of it counts. deltas: [M]."""
        payloads: list[Payload] = []
        for encoder, delta in zip(self._encoders, deltas, strict=True):
            encoder.accumulate(delta)
            payloads.append(encoder.encode(self._learning.k, round_))
            encoder.release(round_)
        return payloads


class ReferenceExchange:
    """With learn/reference.py: fp32 values, their mean over senders, divisor chunks.

    For local = "accumulate" only: it holds the learning rate inside of its momentum, as delta does.
    """

    def __init__(self, schema: Schema, learning: Learning, nodes: int) -> None:
        self._learning = learning
        self._parameters = {
            name: torch.nn.Parameter(torch.zeros(shape)) for name, shape in schema.shapes.items()
        }
        # The parameters are replicated, so one copy serves all; the momentum is each node's own.
        self._optimizers = [
            DeMo(
                self._parameters.values(),
                compression_decay=learning.beta_ppm / PPM,
                compression_topk=learning.k,
                weight_decay=learning.weight_decay_ppb / PPB,
            )
            for _ in range(nodes)
        ]

    @torch.no_grad()
    def advance(
        self, round_: int, state: Mapping[str, Tensor], deltas: Sequence[Mapping[str, Tensor]]
    ) -> Mapping[str, Tensor]:
        """As Exchange.advance."""
        lr = compute_step(self._learning, round_).lr
        for name, parameter in self._parameters.items():
            parameter.copy_(state[name])
        gathered = []
        for optimizer, delta in zip(self._optimizers, deltas, strict=True):
            for name, parameter in self._parameters.items():
                parameter.grad = delta[name] / lr  # delta = lr * gradient (rule T1)
            for group in optimizer.param_groups:
                group["lr"] = lr
            gathered.append(optimizer.encode())
        self._optimizers[0].apply(gathered)
        return {name: parameter.detach().clone() for name, parameter in self._parameters.items()}
