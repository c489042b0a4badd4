"""AdamW (Loshchilov & Hutter 2019, algorithm 2) by torch's kernels, whose state is in our hands.

`torch.optim.AdamW` has the same bits, but the first use of any optimizer class of torch imports
its compiler, `torch._dynamo`: 1.2 to 2.3 s and 74 MB on each node for what no node compiles. The
function below it needs neither, and a file of moments is our own dictionary, not a `state_dict`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from demo_protocol.manifest import PPM, Learning

MOMENTS: Final = ("exp_avg", "exp_avg_sq", "step")
"""What AdamW keeps of a parameter: two tensors of its shape, and how many steps they saw."""

EPSILON: Final = 1e-8


@dataclass(slots=True)
class Group:
    """Parameters that decay alike, by so much times the learning rate in each step."""

    parameters: list[Tensor]
    decay: float


class AdamW:
    """Matrices decay, vectors do not. `state`: MOMENTS of each parameter that took a step."""

    def __init__(self, parameters: Iterable[Tensor], learning: Learning, *, fused: bool) -> None:
        """`fused`: in one kernel, where the parameters' device has it."""
        self.parameters = list(parameters)
        self.state: dict[Tensor, dict[str, Tensor]] = {}
        decay = learning.inner_weight_decay_ppm / PPM
        self.groups = [
            Group([p for p in self.parameters if p.ndim >= 2], decay),
            Group([p for p in self.parameters if p.ndim < 2], 0.0),
        ]
        self._betas = learning.inner_beta1_ppm / PPM, learning.inner_beta2_ppm / PPM
        self._fused = fused

    @torch.no_grad()
    def step(self, lr: float, found_inf: Tensor) -> None:
        """Move all parameters by their gradients, unless `found_inf` (fp32 []) is 1.

        As torch's GradScaler tells it: a fused step leaves itself out, and nobody waits for a card.
        """
        if not self._fused and found_inf.item():
            return
        beta1, beta2 = self._betas
        for group in self.groups:
            gradients = [p.grad for p in group.parameters if p.grad is not None]
            assert len(gradients) == len(group.parameters)
            kept = [self._state_of(parameter) for parameter in group.parameters]
            adamw(
                group.parameters,
                gradients,
                [moments["exp_avg"] for moments in kept],
                [moments["exp_avg_sq"] for moments in kept],
                [],
                [moments["step"] for moments in kept],
                fused=self._fused,
                found_inf=found_inf if self._fused else None,
                amsgrad=False,
                beta1=beta1,
                beta2=beta2,
                lr=lr,
                weight_decay=group.decay,
                eps=EPSILON,
                maximize=False,
            )

    def forget_gradients(self) -> None:
        """The parameters have none."""
        for parameter in self.parameters:
            parameter.grad = None

    def forget_steps(self) -> None:
        """As new, in the memory that is there."""
        for moments in self.state.values():
            for tensor in moments.values():
                tensor.zero_()

    def adopt(self, parameter: Tensor, moments: Mapping[str, Tensor]) -> None:
        """Go on with MOMENTS of another AdamW's parameter of this shape, of any device."""
        self.state[parameter] = {
            "exp_avg": moments["exp_avg"].to(parameter.device),
            "exp_avg_sq": moments["exp_avg_sq"].to(parameter.device),
            "step": moments["step"].to(self._counts_on(parameter)),
        }

    def _state_of(self, parameter: Tensor) -> dict[str, Tensor]:
        if parameter not in self.state:
            self.state[parameter] = self._blank(parameter)
        return self.state[parameter]

    def _blank(self, parameter: Tensor) -> dict[str, Tensor]:
        return {
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
            "step": torch.zeros((), device=self._counts_on(parameter)),
        }

    def _counts_on(self, parameter: Tensor) -> torch.device:
        """Without a fused kernel steps are counted on the processor: no card is asked."""
        return parameter.device if self._fused else torch.device("cpu")
