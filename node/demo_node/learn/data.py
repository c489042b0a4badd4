"""Text in and out of the model: batches, held-out loss, sampled text.

A corpus is bytes. Sample i of a text is its bytes [i*T, i*T + T + 1), T the context: inputs and,
shifted by one, targets. B below is the number of samples in a batch.
"""

import math
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
import torch
from torch import Tensor

from demo_node.learn.model import Decoder
from demo_protocol.assignment import Indices
from demo_protocol.prng import compute_stream_key, compute_words

EVALUATED_BYTES: Final = 16 << 10
"""Held-out loss is taken over this much text."""

EVALUATION_BATCH: Final = 4
"""Samples evaluated at once: so few need little memory beside training, and stay in caches."""

PROMPT: Final = b"\ndef "
TEMPERATURE: Final = 0.7

SHOWN: Final = torch.tensor([byte == 10 or 32 <= byte < 127 for byte in range(256)])
"""Bytes that may be sampled: what any terminal shows as it is, [256]."""


def gather_batch(text: Tensor, samples: Tensor, context: int) -> Tensor:
    """uint8 text [bytes], sample indices int64 [B] -> int64 [B, context + 1]."""
    offsets = torch.arange(context + 1, device=text.device)
    return text[samples[:, None] * context + offsets].long()


def iterate_batches(
    text: Tensor, samples: Indices, context: int, micro_batch: int
) -> Iterator[Tensor]:
    """Micro-batches int64 [B, context + 1] of `samples`, in order; the last may be smaller."""
    indices = torch.from_numpy(samples).to(text.device)
    for start in range(0, len(samples), micro_batch):
        yield gather_batch(text, indices[start : start + micro_batch], context)


@torch.no_grad()
def evaluate(
    decoder: Decoder, heldout: Tensor, should_stop: Callable[[], bool] = lambda: False
) -> float:
    """Mean loss in nats per byte over the first 16 KiB of held-out text (uint8 [bytes]).

    In fp32 whatever the device, so that figures from different machines can be compared. NaN
    where `should_stop` said so.
    """
    context = decoder.model.context
    count = (min(len(heldout), EVALUATED_BYTES) - 1) // context
    assert count > 0, "the held-out text is shorter than one sample"
    indices = torch.arange(count, device=heldout.device)
    total = 0.0
    for part in torch.split(indices, EVALUATION_BATCH):
        if should_stop():
            return math.nan
        batch = gather_batch(heldout, part, context)
        total += decoder.loss(batch).item() * len(part)
    return total / count


@torch.no_grad()
def generate(
    decoder: Decoder, digest: bytes, length: int, should_stop: Callable[[], bool] = lambda: False
) -> bytes:
    """`length` bytes of text that follow a fixed prompt, equal for equal parameters.

    Fewer where `should_stop` said so.

    Sampled at temperature 0.7 with random numbers from the parameters' digest: the most likely
    text of a small model repeats one line. Logits may differ in their last bits between
    machines, so on unlike machines a byte can differ once in about a million.
    """
    key = compute_stream_key(b"demo-node/generate/1", digest)
    words = compute_words(key, np.arange(length, dtype=np.uint32))
    device = decoder.embedding.weight.device
    text = bytearray(PROMPT)
    for word in words.tolist():
        if should_stop():
            break
        recent = torch.tensor([list(text[-decoder.model.context :])], device=device)
        logits = decoder(recent)[0, -1].double().cpu()
        logits[~SHOWN] = -torch.inf
        cumulative = torch.softmax(logits / TEMPERATURE, dim=0).cumsum(dim=0)
        drawn = torch.tensor(word / 2**32 * cumulative[-1].item(), dtype=torch.float64)
        text.append(int(torch.searchsorted(cumulative, drawn, right=True)))
    return bytes(text[len(PROMPT) :])
