"""One round's local work (rule T1): train from the replicated parameters, say what moved.

"steps": AdamW takes a step per micro-batch, delta = start - end, the local copy is dropped;
AdamW's own state stays on the node. "accumulate" (DeMo as published): the parameters stand
still, delta = lr * mean gradient. No clock is read here: it is an argument.

What does not fit into memory at once is taken in parts whose gradients add up to the same step.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from demo_node.learn.faults import Diverged, OutOfMemory, is_out_of_memory
from demo_node.learn.model import Decoder, load_state
from demo_protocol.fp32 import compute_inner_lr, compute_step
from demo_protocol.manifest import PPM, Learning, Model

STEP_TIMES: Final = 4
"""The next step is expected to last as long as the slowest of this many."""

REHEARSED: Final = 0.02
"""Every parameter in a rehearsal: memory does not depend on values, but time may (subnormals)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalWork:
    """What a round came to. `busy_ns` is time in forward, backward and optimizer only."""

    delta: dict[str, Tensor]  # fp32, by name: subtracting it from the start is the local move
    samples: int
    tokens: int
    loss: float  # mean, nats per byte; 0 where no sample was done
    steps: int
    busy_ns: int
    gradient_norm: float  # mean over what was clipped, before that; 0 where no sample was done


class LocalTrainer:
    """A decoder and its optimizer, on one device. The state they start from is given per round."""

    def __init__(
        self, model: Model, learning: Learning, device: torch.device, now_ns: Callable[[], int]
    ) -> None:
        """`now_ns` is any monotonic clock in nanoseconds."""
        self.learning = learning
        self.device = device
        self.decoder = Decoder(model).to(device)
        self.micro_batch = learning.micro_batch
        """Samples taken at once: at most the manifest's, halved whenever memory was too short."""
        self._now_ns = now_ns
        self._step_ns: deque[int] = deque(maxlen=STEP_TIMES)
        self._parameters = list(self.decoder.parameters())
        decay = learning.inner_weight_decay_ppm / PPM
        matrices = [p for p in self._parameters if p.ndim >= 2]
        vectors = [p for p in self._parameters if p.ndim < 2]
        self._gradient_norms: list[Tensor] = []
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
        unknown) and says whether it still fits (rule T2). Raises Diverged where the loss is not
        finite, OutOfMemory where not even one sample fits; the next round starts clean.
        """
        self._optimizer.zero_grad()
        self._gradient_norms.clear()
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
            raise Diverged(f"train: the loss of round {round_} is not finite")
        delta = self._moved(state) if steps else self._scaled_gradient(round_, samples)
        norms = self._gradient_norms if samples else []
        return LocalWork(
            delta=delta,
            samples=samples,
            tokens=tokens,
            loss=mean_loss,
            steps=count,
            busy_ns=busy_ns,
            gradient_norm=torch.stack(norms).mean().item() if norms else 0.0,
        )

    def rehearse(self, bytes_left: int) -> None:
        """Take one step of the manifest's size that nobody keeps, and so find `micro_batch`.

        On a processor what certainly needs more than `bytes_left` is not tried: systems promise
        more memory than they have, and kill whoever takes it. Whatever a round needs is then
        allocated, and stays. Call it before the first round: the optimizer is left as new.
        Raises what `is_out_of_memory` knows where not even one sample fits.
        """
        with torch.no_grad():
            for parameter in self._parameters:
                parameter.fill_(REHEARSED)
        batch = self._make_blank(self.learning.micro_batch)
        if self.device.type == "cpu":
            sample_bytes = self._measure_sample()
            while self.micro_batch * sample_bytes > bytes_left:
                self._halve(self.micro_batch)
        if self.learning.local == "steps":
            self._take_step(batch)
        else:
            self._add_gradient(batch)
        self._finish()
        self._optimizer.zero_grad()
        for state in self._optimizer.state.values():
            for tensor in state.values():
                tensor.zero_()  # as AdamW makes them

    def _make_blank(self, samples: int) -> Tensor:
        """A batch of zeros: memory does not depend on what is read."""
        size = (samples, self.decoder.model.context + 1)
        return torch.zeros(size, dtype=torch.int64, device=self.device)

    def _measure_sample(self) -> int:
        """Bytes that one sample's forward pass keeps for its backward pass: the least it needs."""
        kept: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return tensor.detach()  # an operation's own result would keep itself alive

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = self._loss(self._make_blank(1))
        del loss  # until here it held all that was noted: no two had one address
        for parameter in self._parameters:
            kept.pop(parameter.untyped_storage().data_ptr(), None)
        return sum(kept.values())

    def drop_optimizer_state(self) -> None:
        """Forget AdamW's moments: one NaN in them would make every later step one."""
        self._optimizer.state.clear()

    def _take_step(self, batch: Tensor) -> Tensor:
        """One optimizer step; returns the batch's summed loss."""
        loss = self._add_gradients(batch, len(batch))
        self._clip()
        self._optimizer.step()
        self._optimizer.zero_grad()
        return loss

    def _add_gradient(self, batch: Tensor) -> Tensor:
        """Add the batch's gradient, weighted by its samples; returns its summed loss."""
        return self._add_gradients(batch, 1)

    def _add_gradients(self, batch: Tensor, divisor: int) -> Tensor:
        """Add the gradient of (summed loss / divisor), part by part; returns the summed loss."""
        total = torch.zeros((), device=self.device)
        done = 0
        while done < len(batch):
            part = batch[done : done + self.micro_batch]
            loss = self._try_part(part, len(part) / divisor)
            if loss is None:
                self._halve(len(part))
            else:
                total += loss * len(part)
                done += len(part)
        return total

    def _try_part(self, part: Tensor, weight: float) -> Tensor | None:
        """Add the gradient of weight * mean loss, or nothing: None where memory was too short.

        All or nothing, which backward() is not: it adds to some parameters before it fails.
        """
        try:
            loss = self._loss(part)
            gradients = torch.autograd.grad(loss * weight, self._parameters)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return None  # and with the traceback goes what its frames held
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            if parameter.grad is None:
                parameter.grad = gradient
            else:
                parameter.grad += gradient
        return loss.detach()

    def _halve(self, failed: int) -> None:
        """Take half of what failed at once from now on. Raises OutOfMemory below one sample."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()  # blocks of sizes that will not be asked for again
        if failed == 1:
            raise OutOfMemory("train: not even one sample fits into the memory")
        self.micro_batch = failed // 2

    def _loss(self, batch: Tensor) -> Tensor:
        """Mean loss; in bf16 on graphics cards, where it is several times faster."""
        with torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=self.device.type != "cpu"
        ):
            return self.decoder.loss(batch)

    def _clip(self) -> None:
        norm = torch.nn.utils.clip_grad_norm_(
            self._parameters, self.learning.clip_ppm / PPM, foreach=True
        )
        self._gradient_norms.append(norm)

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
