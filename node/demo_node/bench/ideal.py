"""The nodes' algorithm in float64: no scale code, no integer votes, no shifted inverse transform.

What learn/demo.py and learn/exact.py would do if a payload could hold a real number and every
machine added alike. Selection, signs, error feedback, the clip to the lower median (rule T6) and
the step are the same, so the difference in loss is what quantised scales and the exact decode
cost. N chunks, k coefficients each, M nodes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from demo_node.learn.dct import compute_basis, forward_dct, inverse_dct
from demo_node.learn.exact import step_parameter
from demo_node.learn.flat import Flat, find_layout
from demo_protocol.fp32 import compute_step
from demo_protocol.manifest import PPM, Learning
from demo_protocol.schema import CHUNK, SLOTS, Schema


@dataclass(frozen=True, slots=True, eq=False)
class Votes:
    """One node's: int64 slots [N, k], signs in {-1, 1} [N, k], mean magnitudes [N]; float64."""

    slots: Tensor
    signs: Tensor
    scales: Tensor


class IdealExchange:
    """Implements exchange.Exchange. Residuals: float64 [M, N, 4096] coefficients, zero at first."""

    def __init__(self, schema: Schema, learning: Learning, nodes: int) -> None:
        self._layout = find_layout(schema)
        self._learning = learning
        self._basis = compute_basis(CHUNK)
        self.residuals = torch.zeros((nodes, schema.chunks, SLOTS), dtype=torch.float64)
        support = torch.ones(self._layout.size).index_fill_(0, self._layout.padding, 0.0)
        self._support = self._layout.cut(support)

    @torch.no_grad()
    def advance(
        self, round_: int, state: Mapping[str, Tensor], deltas: Sequence[Mapping[str, Tensor]]
    ) -> Mapping[str, Tensor]:
        """As Exchange.advance."""
        votes = [
            self._vote(residual, delta)
            for residual, delta in zip(self.residuals, deltas, strict=True)
        ]
        update = inverse_dct(self._sum(votes).view(-1, CHUNK, CHUNK), self._basis)
        signs = self._layout.view(self._layout.join(update.sign()))
        step = compute_step(self._learning, round_)
        return {name: step_parameter(tensor, signs[name], step) for name, tensor in state.items()}

    def _vote(self, residual: Tensor, delta: Mapping[str, Tensor]) -> Votes:
        """residual [N, 4096] <- beta * residual + DCT(delta), less what it then sends."""
        blocks = residual.view(-1, CHUNK, CHUNK)
        # Padding is left out (E13): nothing there serves an element.
        kept = inverse_dct(blocks, self._basis) * self._support
        own = self._layout.cut(Flat.of(delta, self._layout.schema).row)
        kept = kept * (self._learning.beta_ppm / PPM) + own
        residual.copy_(forward_dct(kept, self._basis).flatten(1))
        slots = residual.abs().topk(self._learning.k, dim=1, sorted=False).indices
        chosen = residual.gather(1, slots)
        signs = 1 - 2 * (chosen < 0).double()  # a payload has no zero either
        votes = Votes(slots, signs, chosen.abs().mean(dim=1))
        residual.scatter_add_(1, slots, -votes.signs * votes.scales[:, None])
        return votes

    def _sum(self, votes: Sequence[Votes]) -> Tensor:
        """float64 [N, 4096] of all votes, of one k, each clipped to its chunk's lower median."""
        median = torch.stack([v.scales for v in votes]).median(dim=0).values  # torch's is lower
        total = torch.zeros_like(self.residuals[0])
        for v in votes:
            total.scatter_add_(1, v.slots, v.signs * torch.minimum(v.scales, median)[:, None])
        return total
