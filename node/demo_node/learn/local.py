"""One round's local work (rule T1): train from the replicated parameters, say what moved.

"steps": AdamW takes a step per micro-batch, delta = start - end, the local copy is dropped;
AdamW's own state stays on the node. "accumulate" (DeMo as published): the parameters stand
still, delta = lr * mean gradient. No clock is read here: it is an argument.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from demo_node.learn.model import Decoder, load_state
from demo_protocol.errors import LocalFault
from demo_protocol.fp32 import compute_inner_lr, compute_step
from demo_protocol.manifest import PPM, Learning, Model

STEP_TIMES: Final = 4
"""The next step is expected to last as long as the slowest of this many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalWork:
    """What a round came to. `busy_ns` is time in forward, backward and optimizer only."""

    delta: dict[str, Tensor]  # fp32, by name: subtracting it from the start is the local move
    samples: int
    tokens: int
    loss: float  # mean, nats per byte; 0 where no sample was done
    steps: int
    busy_ns: int


class LocalTrainer:
    """A decoder and its optimizer, on one device. The state they start from is given per round."""

    def __init__(
        self, model: Model, learning: Learning, device: torch.device, now_ns: Callable[[], int]
    ) -> None:
        """`now_ns` is any monotonic clock in nanoseconds."""
        self.learning = learning
        self.device = device
        self.decoder = Decoder(model).to(device)
        self._now_ns = now_ns
        self._step_ns: deque[int] = deque(maxlen=STEP_TIMES)
        self._parameters = list(self.decoder.parameters())
        decay = learning.inner_weight_decay_ppm / PPM
        matrices = [p for p in self._parameters if p.ndim >= 2]
        vectors = [p for p in self._parameters if p.ndim < 2]
        self._optimizer = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": decay},
                {"params": vectors, "weight_decay": 0.0},
            ],
            betas=(learning.inner_beta1_ppm / PPM, learning.inner_beta2_ppm / PPM),
            fused=device.type in ("cpu", "cuda"),
        )

    def train(
        self,
        state: Mapping[str, Tensor],
        round_: int,
        batches: Iterator[Tensor],
        should_continue: Callable[[int], bool],
    ) -> LocalWork:
        """Work through `batches` (int64 [B, T + 1]) from `state` until told to stop.

        Before each, `should_continue` gets the nanoseconds the next step will probably take (0:
        unknown) and says whether it still fits (rule T2). Raises LocalFault on divergence.
        """
        load_state(self.decoder, state)
        steps = self.learning.local == "steps"
        for group in self._optimizer.param_groups:
            group["lr"] = compute_inner_lr(self.learning, round_)
        loss = torch.zeros((), device=self.device)
        samples = tokens = count = busy_ns = 0
        while should_continue(max(self._step_ns, default=0)):
            batch = next(batches, None)
            if batch is None:
                break
            start_ns = self._now_ns()
            loss += self._take_step(batch) if steps else self._add_gradient(batch)
            self._finish()
            step_ns = self._now_ns() - start_ns
            self._step_ns.append(step_ns)
            busy_ns += step_ns
            samples += len(batch)
            tokens += len(batch) * (batch.shape[1] - 1)
            count += 1
        mean_loss = loss.item() / max(samples, 1)
        if mean_loss != mean_loss or mean_loss == float("inf"):
            raise LocalFault(f"train: the loss of round {round_} is not finite")
        return LocalWork(
            delta=self._moved(state) if steps else self._scaled_gradient(round_, samples),
            samples=samples,
            tokens=tokens,
            loss=mean_loss,
            steps=count,
            busy_ns=busy_ns,
        )

    def _take_step(self, batch: Tensor) -> Tensor:
        """One optimizer step; returns the batch's summed loss."""
        loss = self._loss(batch)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self._clip()
        self._optimizer.step()
        self._optimizer.zero_grad()
        return loss.detach() * len(batch)

    def _add_gradient(self, batch: Tensor) -> Tensor:
        """Add the batch's gradient, weighted by its samples; returns its summed loss."""
        loss = self._loss(batch) * len(batch)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return loss.detach()

    def _loss(self, batch: Tensor) -> Tensor:
        """Mean loss; in bf16 on graphics cards, where it is several times faster."""
        with torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=self.device.type != "cpu"
        ):
            return self.decoder.loss(batch)

    def _clip(self) -> None:
        torch.nn.utils.clip_grad_norm_(self._parameters, self.learning.clip_ppm / PPM, foreach=True)

    def _finish(self) -> None:
        """Wait for the card: a step that was only queued has no duration yet."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    @torch.no_grad()
    def _moved(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {n: state[n] - p for n, p in self.decoder.named_parameters()}

    @torch.no_grad()
    def _scaled_gradient(self, round_: int, samples: int) -> dict[str, Tensor]:
        """lr * clipped mean gradient; zeros where no sample was done."""
        lr = compute_step(self.learning, round_).lr
        for parameter in self._parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad /= max(samples, 1)
        self._clip()
        delta = {
            name: parameter.grad * lr
            for name, parameter in self.decoder.named_parameters()
            if parameter.grad is not None
        }
        self._optimizer.zero_grad()
        return delta
