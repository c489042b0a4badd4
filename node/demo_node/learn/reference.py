"""DeMo as published: an optimizer for anyone's script, alone or over torch.distributed.

Source: Decoupled Momentum Optimization (arXiv:2411.19870), Algorithm 1; bloc97/DeMo demo.py at
0e48145. One step, for each tensor:

    p     <- p * (1 - lr * weight_decay)
    delta <- decay * delta + lr * grad
    sent  <- the k largest of the chunked DCT of delta;  delta <- delta - IDCT(sent)
    u     <- IDCT(mean over those who sent a coefficient, of what every process sent)
    p     <- p - lr * sign(u)

It differs where the published code crashes or loses something: tensors of three and more
dimensions are taken as slices over their last two, a scalar as a vector of one element, empty
tensors are skipped; a parameter without gradient decays its delta and takes part; arithmetic and
state are fp32 whatever the parameter's type; delta is in state_dict; weight decay is per group;
a NaN raises; two collectives per step instead of two per tensor. What the nodes of a run do is
demo.py and exact.py: there one peer cannot outvote the others and replicas are bit-identical on
unlike machines.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.optim.optimizer import ParamsT

from demo_node.learn.dct import compute_basis


@dataclass(frozen=True, slots=True, eq=False)
class Coefficients:
    """What one process sends of one tensor: per chunk, ascending slots and their values."""

    slots: Tensor  # int64 [chunks, k]
    values: Tensor  # fp32 [chunks, k]


class DeMo(torch.optim.Optimizer):
    """SGD with decoupled momentum. Every process must hold the same parameters in one order."""

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        compression_decay: float = 0.999,
        compression_topk: int = 32,
        compression_chunk: int = 64,
        weight_decay: float = 0.0,
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        """Exchange over `process_group`, by default over all processes, if there are any."""
        if not 0 <= compression_decay < 1:
            raise ValueError(f"compression_decay must be in [0, 1), not {compression_decay}")
        if compression_topk < 1 or compression_chunk < 1:
            raise ValueError("compression_topk and compression_chunk must be at least 1")
        self._process_group = process_group
        super().__init__(
            params,
            {
                "lr": lr,
                "compression_decay": compression_decay,
                "compression_topk": compression_topk,
                "compression_chunk": compression_chunk,
                "weight_decay": weight_decay,
            },
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Encode, exchange with the other processes, move. Returns what `closure` returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.apply(self._exchange(self.encode()))
        return loss

    @torch.no_grad()
    def encode(self) -> list[Coefficients]:
        """Take this process's coefficients out of its deltas: one entry per non-empty tensor.

        Raises FloatingPointError when a gradient brought in a NaN or infinity.
        """
        sent = []
        for group, parameter in self._parameters():
            delta = self._delta(parameter)
            delta.mul_(group["compression_decay"])
            if parameter.grad is not None:
                delta.add_(parameter.grad.to(torch.float32), alpha=group["lr"])
            chunking = Chunking.of(parameter, group["compression_chunk"])
            coefficients = top_k(chunking.forward(delta), group["compression_topk"])
            delta.sub_(chunking.inverse(scatter_mean([coefficients], chunking)))
            sent.append(coefficients)
        if sent and not torch.isfinite(torch.cat([c.values.flatten() for c in sent])).all():
            raise FloatingPointError("DeMo: a gradient is not finite")
        return sent

    @torch.no_grad()
    def apply(self, gathered: Sequence[Sequence[Coefficients]]) -> None:
        """Move the parameters by what every process sent, in the order of their ranks."""
        for (group, parameter), sent in zip(
            self._parameters(), zip(*gathered, strict=True), strict=True
        ):
            chunking = Chunking.of(parameter, group["compression_chunk"])
            update = chunking.inverse(scatter_mean(sent, chunking))
            moved = parameter.to(torch.float32)
            if group["weight_decay"]:
                moved = moved * (1 - group["lr"] * group["weight_decay"])
            parameter.copy_(moved - group["lr"] * update.sign())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore groups and deltas. The base class alone would round fp32 deltas to bf16."""
        super().load_state_dict(state_dict)
        for saved, group in zip(state_dict["param_groups"], self.param_groups, strict=True):
            for index, parameter in zip(saved["params"], group["params"], strict=True):
                if index in state_dict["state"]:
                    delta = state_dict["state"][index]["delta"]
                    self.state[parameter]["delta"] = delta.to(parameter.device, copy=True)

    def _parameters(self) -> list[tuple[dict[str, Any], Tensor]]:
        """(group, parameter) of every tensor that has elements."""
        return [(g, p) for g in self.param_groups for p in g["params"] if p.numel() > 0]

    def _delta(self, parameter: Tensor) -> Tensor:
        """fp32 momentum and error feedback in one, of the parameter's shape; zero at first."""
        state = self.state[parameter]
        if "delta" not in state:
            state["delta"] = torch.zeros_like(parameter, dtype=torch.float32)
        delta: Tensor = state["delta"]
        return delta

    def _exchange(self, own: list[Coefficients]) -> list[list[Coefficients]]:
        """What every process sent, by rank; `own` alone where nothing is distributed."""
        if not own or not dist.is_available() or not dist.is_initialized():
            return [own]
        # The whole model at once: a collective costs more than the bytes of one tensor.
        slots = torch.cat([c.slots.flatten() for c in own]).to(torch.int32)
        values = torch.cat([c.values.flatten() for c in own])
        size = dist.get_world_size(self._process_group)
        all_slots = [torch.empty_like(slots) for _ in range(size)]
        all_values = [torch.empty_like(values) for _ in range(size)]
        dist.all_gather(all_slots, slots, group=self._process_group)
        dist.all_gather(all_values, values, group=self._process_group)
        counts = [c.slots.numel() for c in own]
        return [
            [
                Coefficients(s.view_as(c.slots).long(), v.view_as(c.values))
                for c, s, v in zip(
                    own, torch.split(slots, counts), torch.split(values, counts), strict=True
                )
            ]
            for slots, values in zip(all_slots, all_values, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class Chunking:
    """How a tensor is cut: slices over the last two dimensions, blocks of height x width.

    A vector has blocks of `width` and no height (0). Coefficients are [chunks, slots], chunks
    in row-major order of (slice, block row, block column), slot = row frequency * width + column.
    """

    shape: tuple[int, ...]
    height: int
    width: int
    device: torch.device

    @staticmethod
    def of(tensor: Tensor, limit: int) -> "Chunking":
        """Blocks as long, in each dimension, as the largest divisor up to `limit`."""
        shape = tuple(tensor.shape)
        height = largest_divisor(shape[-2], limit) if len(shape) >= 2 else 0
        width = largest_divisor(shape[-1], limit) if shape else 1
        return Chunking(shape, height, width, tensor.device)

    @property
    def slots(self) -> int:
        """Coefficients per chunk."""
        return max(self.height, 1) * self.width

    @property
    def chunks(self) -> int:
        """Number of chunks."""
        return prod(self.shape) // self.slots

    def forward(self, tensor: Tensor) -> Tensor:
        """fp32 of the tensor's shape -> orthonormal DCT-II coefficients [chunks, slots]."""
        across = _basis(self.width, self.device)
        if not self.height:
            return tensor.reshape(-1, self.width) @ across
        down = self.shape[-2] // self.height
        blocks = tensor.reshape(-1, down, self.height, self.shape[-1] // self.width, self.width)
        coefficients = _basis(self.height, self.device).T @ (blocks.transpose(2, 3) @ across)
        return coefficients.reshape(self.chunks, self.slots)

    def inverse(self, coefficients: Tensor) -> Tensor:
        """Inverse of `forward`: fp32 of the tensor's shape."""
        across = _basis(self.width, self.device).T
        if not self.height:
            tensor = coefficients @ across
            return tensor.view(self.shape)
        down, right = self.shape[-2] // self.height, self.shape[-1] // self.width
        blocks = coefficients.view(-1, down, right, self.height, self.width)
        blocks = _basis(self.height, self.device) @ (blocks @ across)
        return blocks.transpose(2, 3).reshape(self.shape)


def largest_divisor(length: int, limit: int) -> int:
    """The largest divisor of `length` that is at most `limit`; 1 for a larger prime."""
    return next(d for d in range(min(length, limit), 0, -1) if length % d == 0)


def top_k(coefficients: Tensor, k: int) -> Coefficients:
    """The k coefficients of largest magnitude of each chunk, or all there are; [chunks, slots]."""
    k = min(k, coefficients.shape[1])
    chosen = coefficients.abs().topk(k, dim=1, sorted=False).indices
    slots = chosen.sort(dim=1).values
    return Coefficients(slots, coefficients.gather(1, slots))


def scatter_mean(sent: Sequence[Coefficients], chunking: Chunking) -> Tensor:
    """Per slot the mean of the values over those who sent it, else 0: fp32 [chunks, slots].

    Process after process: the order of additions, and so the bits, do not depend on threads.
    """
    total = torch.zeros((chunking.chunks, chunking.slots), device=chunking.device)
    senders = torch.zeros_like(total)
    for part in sent:
        total.scatter_add_(1, part.slots, part.values)
        senders.scatter_add_(1, part.slots, torch.ones_like(part.values))
    return total / senders.clamp_(min=1)


@lru_cache(maxsize=64)
def _basis(length: int, device: torch.device) -> Tensor:
    return compute_basis(length).to(device, torch.float32)
