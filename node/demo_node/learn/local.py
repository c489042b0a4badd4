"""One round's local work (rule T1): train from the replicated parameters, say what moved.

"steps": AdamW takes a step per micro-batch, delta = start - end, the local copy is dropped;
AdamW's own state stays on the node. "accumulate" (DeMo as published): the parameters stand
still, delta = lr * mean gradient. No clock is read here: it is an argument.

What does not fit into memory at once is taken in parts whose gradients add up to the same step.
A gradient that is not finite is left out, as if its samples had never been: it moves no parameter
and none of AdamW's moments, which therefore stay finite for ever. One whose square overflows is
taken for such a gradient, and so is that of a loss which is not finite.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from demo_node.learn.adamw import AdamW
from demo_node.learn.faults import OutOfMemory, is_out_of_memory
from demo_node.learn.flat import Flat
from demo_node.learn.model import Decoder, load_state
from demo_protocol.fp32 import compute_inner_lr, compute_step
from demo_protocol.manifest import PPM, Learning, Model

STEP_TIMES: Final = 4
"""The next step is expected to last as long as the slowest of this many."""

REHEARSED: Final = 0.02
"""Every parameter in a rehearsal: memory does not depend on values, but time may (subnormals)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalWork:
    """What a round came to: only what is in the delta counts, but for `nonfinite` and time.

    `busy_ns` is time in forward, backward and optimizer only.
    """

    delta: Flat  # fp32: subtracting it from the start is the local move
    samples: int
    tokens: int
    loss: float  # mean, nats per byte; 0 where no sample was done
    steps: int
    nonfinite: int  # gradients left out: of a step each, with "accumulate" the round's only one
    busy_ns: int
    gradient_norm: float  # mean over what was clipped, before that; 0 where no sample was done


@dataclass(frozen=True, slots=True)
class _Gradient:
    """What was clipped at once: of one step, or with "accumulate" of the round."""

    batches: list[int]  # samples of each micro-batch in it
    told: Tensor  # fp32 [3] on the device: what `_judge` says


class LocalTrainer:
    """A decoder and its optimizer, on one device. The state they start from is given per round."""

    def __init__(
        self, model: Model, learning: Learning, device: torch.device, now_ns: Callable[[], int]
    ) -> None:
        """`now_ns` is any monotonic clock in nanoseconds."""
        self.learning = learning
        self.device = device
        self.decoder = Decoder(model, device)
        self.micro_batch = learning.micro_batch
        """Samples taken at once: at most the manifest's, halved whenever memory was too short."""
        self._now_ns = now_ns
        self._step_ns: deque[int] = deque(maxlen=STEP_TIMES)
        self._parameters = list(self.decoder.parameters())
        self._gradient: Flat | None = None
        """With "accumulate": the round's, added up; the parameters' gradients are its tensors."""
        self._optimizer = AdamW(self._parameters, learning, fused=device.type in ("cpu", "cuda"))
        self.between_steps = threading.Lock()
        """Whoever holds it finds AdamW's state as it is between two steps."""

    def train(
        self,
        state: Mapping[str, Tensor],
        round_: int,
        batches: Iterator[Tensor],
        should_continue: Callable[[int], bool],
    ) -> LocalWork:
        """Work through `batches` (int64 [B, T + 1]) from `state` until told to stop.

        Before each, `should_continue` gets the nanoseconds the next step will probably take (0:
        unknown) and says whether it still fits (rule T2). After one that is left out the next one
        follows: what is not finite now would not be at a second try. Raises OutOfMemory where not
        even one sample fits; the next round starts clean.
        """
        self._forget_gradient()
        start = Flat.of(state, self.decoder.flat.layout.schema)
        load_state(self.decoder, start)
        steps = self.learning.local == "steps"
        lr = compute_inner_lr(self.learning, round_)
        if not steps:
            self._begin_gradient()
        gradients: list[_Gradient] = []
        worked: list[int] = []  # samples of each micro-batch whose gradients are accumulated
        loss = torch.zeros((), device=self.device)
        busy_ns = 0
        while should_continue(max(self._step_ns, default=0)):
            batch = next(batches, None)
            if batch is None:
                break
            start_ns = self._now_ns()
            if steps:
                gradients.append(_Gradient([len(batch)], self._take_step(batch, lr)))
            else:
                loss += self._add_gradient(batch)
                worked.append(len(batch))
            self._finish()
            step_ns = self._now_ns() - start_ns
            self._step_ns.append(step_ns)
            busy_ns += step_ns
        if worked:
            gradients.append(_Gradient(worked, _judge(loss, self._clip_mean(sum(worked)))))
        kept, loss_sum, norm_sum = _read(gradients)
        samples = sum(sum(gradient.batches) for gradient in kept)
        return LocalWork(
            delta=self._moved(start) if steps else self._scaled_gradient(round_, bool(kept)),
            samples=samples,
            tokens=samples * self.decoder.model.context,
            loss=loss_sum / max(samples, 1),
            steps=sum(len(gradient.batches) for gradient in kept),
            nonfinite=len(gradients) - len(kept),
            busy_ns=busy_ns,
            gradient_norm=norm_sum / max(len(kept), 1),
        )

    def rehearse(self, bytes_left: int) -> None:
        """Take one step of the manifest's size that nobody keeps, and so find `micro_batch`.

        On a processor what certainly needs more than `bytes_left` is not tried: systems promise
        more memory than they have, and kill whoever takes it. Whatever a round needs is then
        allocated, and stays. Call it before the first round: the optimizer is left as new.
        Raises what `is_out_of_memory` knows where not even one sample fits.
        """
        flat = self.decoder.flat
        flat.row.fill_(REHEARSED).index_fill_(0, flat.layout.padding_on(self.device), 0.0)
        batch = self._make_blank(self.learning.micro_batch)
        if self.device.type == "cpu":
            sample_bytes = self._measure_sample()
            while self.micro_batch * sample_bytes > bytes_left:
                self._halve(self.micro_batch)
        if self.learning.local == "steps":
            self._take_step(batch, compute_inner_lr(self.learning, 0))
        else:
            self._begin_gradient()
            self._add_gradient(batch)
        self._finish()
        self._forget_gradient()
        self._optimizer.forget_steps()

    def get_moments(self) -> dict[str, dict[str, Tensor]]:
        """AdamW's own tensors, which steps change, by MOMENTS and by parameter; empty: none yet."""
        states = self._optimizer.state
        named = list(self.decoder.named_parameters())
        if any(parameter not in states for _, parameter in named):
            return {}
        return {name: states[parameter] for name, parameter in named}

    def adopt_moments(self, moments: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Go on with what `get_moments` gave, of any device, for a model of these shapes."""
        for name, parameter in self.decoder.named_parameters():
            self._optimizer.adopt(parameter, moments[name])

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

    def _take_step(self, batch: Tensor, lr: float) -> Tensor:
        """One optimizer step, unless its gradient is not finite; `_judge` of that."""
        loss = self._add_gradients(batch, len(batch))
        told = _judge(loss, self._clip())
        with self.between_steps:
            self._optimizer.step(lr, told[2])
        self._optimizer.forget_gradients()
        return told

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
        held = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        if held:
            torch._foreach_add_(held, gradients)
        else:
            for parameter, gradient in zip(self._parameters, gradients, strict=True):
                parameter.grad = gradient
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

    def _clip(self) -> Tensor:
        """Returns the norm before, [] on the device: NaN or infinity where a gradient has one."""
        return torch.nn.utils.clip_grad_norm_(
            self._parameters, self.learning.clip_ppm / PPM, foreach=True
        )

    def _clip_mean(self, samples: int) -> Tensor:
        """Make the gradient of `samples` added up their mean, and clip that; as `_clip`."""
        assert self._gradient is not None
        self._gradient.row /= samples
        return self._clip()

    def _finish(self) -> None:
        """Wait for the card: a step that was only queued has no duration yet."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _begin_gradient(self) -> None:
        """Of a round: 0, in one row."""
        self._gradient = Flat.zeros(self.decoder.flat.layout, self.device)
        for name, parameter in self.decoder.named_parameters():
            parameter.grad = self._gradient[name]

    def _forget_gradient(self) -> None:
        self._gradient = None
        self._optimizer.forget_gradients()

    def _moved(self, start: Flat) -> Flat:
        """start - end."""
        row, end = start.row.to(self.device), self.decoder.flat.row
        # The replicated state itself is nobody's to change; a copy on another device is ours.
        return Flat(row - end if row is start.row else row.sub_(end), start.layout)

    def _scaled_gradient(self, round_: int, is_kept: bool) -> Flat:
        """lr * gradient, in the row where it was added up; zeros where it is not kept."""
        gradient = self._gradient
        assert gradient is not None
        self._forget_gradient()
        if is_kept:
            gradient.row *= compute_step(self.learning, round_).lr
        else:
            gradient.row.zero_()
        return gradient


def _judge(loss: Tensor, norm: Tensor) -> Tensor:
    """Of a gradient its summed loss and its norm, fp32 [] each, and 1 where one is not finite.

    fp32 [3], where they are: nobody waits for a card before the round is over.
    """
    return torch.stack([loss, norm, (~torch.isfinite(loss + norm)).to(loss.dtype)])


def _read(gradients: list[_Gradient]) -> tuple[list[_Gradient], float, float]:
    """Those that are finite, and of these the sums of losses and norms."""
    rows = torch.stack([gradient.told for gradient in gradients]).tolist() if gradients else []
    kept = [pair for pair in zip(gradients, rows, strict=True) if not pair[1][2]]
    return (
        [gradient for gradient, _row in kept],
        sum(row[0] for _gradient, row in kept),
        sum(row[1] for _gradient, row in kept),
    )
