"""The model of a run: a byte-level decoder in one file.

Pre-norm blocks with RMSNorm, rotary positions (RoPE), causal attention by PyTorch's SDPA, a
SwiGLU feed-forward, no biases, and one tied matrix for embedding and logits. Parameter names and
shapes are those of `demo_protocol.schema.compute_schema`; their values are loaded, never drawn.

Shapes: B batch, T positions, W width, H heads, D = W / H, F hidden, V = 256 bytes.
"""

from collections.abc import Callable, Mapping
from typing import NoReturn

import torch
from torch import Tensor, nn
from torch.nn import functional

from demo_node.learn.flat import Flat, find_layout
from demo_protocol.manifest import Model
from demo_protocol.schema import compute_schema

ROPE_BASE = 10_000.0
"""Longest wavelength in positions / 2 pi (RoFormer, arXiv:2104.09864)."""

NORM_EPSILON = 1e-6


CPU = torch.device("cpu")


class Decoder(nn.Module):
    """Predicts the next byte. Parameters lie in one row, and are 0 until `load_state` fills it."""

    def __init__(self, model: Model, device: torch.device = CPU) -> None:
        super().__init__()
        self.model = model
        with torch.device("meta"):  # names and shapes alone
            self.embedding = Weight(model.vocabulary, model.width)
            self.layers = nn.ModuleList(Block(model) for _ in range(model.layers))
            self.norm = Norm(model.width)
        self.flat = Flat.zeros(find_layout(compute_schema(model)), device)
        # AdamW walks over the memory of a parameter as if it were of one piece.
        assert all(view.is_contiguous() for view in self.flat.values()), "a width is no multiple"
        self.load_state_dict(self.flat, assign=True)
        cos, sin = compute_rope(model.context, model.width // model.heads)
        # Not persistent: recomputed on every machine, in no snapshot, in no digest (rule E14).
        self.register_buffer("cos", cos.to(device), persistent=False)
        self.register_buffer("sin", sin.to(device), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> NoReturn:
        """What `to` and its like do: they would take the parameters out of the row."""
        raise TypeError("a decoder stays on the device that it was made on")

    def forward(self, tokens: Tensor) -> Tensor:
        """int64 [B, T], T <= context -> logits [B, T, V]."""
        length = tokens.shape[1]
        assert length <= self.model.context, f"{length} positions, context {self.model.context}"
        cos, sin = self.get_buffer("cos")[:length], self.get_buffer("sin")[:length]
        x = functional.embedding(tokens, self.embedding.weight)  # [B, T, W]
        for block in self.layers:
            x = block(x, cos, sin)
        logits: Tensor = self.embedding(self.norm(x))
        return logits

    def loss(self, batch: Tensor) -> Tensor:
        """Mean cross-entropy in nats per byte; int64 [B, T + 1], targets are shifted by one."""
        logits = self(batch[:, :-1])
        targets = batch[:, 1:].reshape(-1)
        return functional.cross_entropy(logits.reshape(len(targets), -1).float(), targets)


class Weight(nn.Module):
    """A matrix without bias: x [..., columns] -> [..., rows]."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, columns))

    def forward(self, x: Tensor) -> Tensor:
        """[..., columns] -> [..., rows]."""
        return functional.linear(x, self.weight)


class Norm(nn.Module):
    """RMSNorm (arXiv:1910.07467): divide by the root mean square, multiply by a weight."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))

    def forward(self, x: Tensor) -> Tensor:
        """[..., W] -> [..., W]."""
        return functional.rms_norm(x, self.weight.shape, self.weight, NORM_EPSILON)


class Attention(nn.Module):
    """Causal self-attention with rotary positions."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = Weight(width, width)
        self.key = Weight(width, width)
        self.value = Weight(width, width)
        self.output = Weight(width, width)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """[B, T, W] and tables [T, D / 2] -> [B, T, W]."""
        query, key, value = (self._split(w(x)) for w in (self.query, self.key, self.value))
        mixed = functional.scaled_dot_product_attention(
            rotate(query, cos, sin), rotate(key, cos, sin), value, is_causal=True
        )  # [B, H, T, D]
        out: Tensor = self.output(mixed.transpose(1, 2).reshape(x.shape))
        return out

    def _split(self, x: Tensor) -> Tensor:
        """[B, T, W] -> [B, H, T, D]."""
        batch, length, width = x.shape
        return x.view(batch, length, self.heads, width // self.heads).transpose(1, 2)


class FeedForward(nn.Module):
    """SwiGLU (arXiv:2002.05202): a SiLU gate times a linear path."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate = Weight(hidden, width)
        self.up = Weight(hidden, width)
        self.down = Weight(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, W] -> [B, T, W]."""
        out: Tensor = self.down(functional.silu(self.gate(x)) * self.up(x))
        return out


class Block(nn.Module):
    """Attention, then feed-forward, each on a normed copy and added back."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.attention_norm = Norm(model.width)
        self.attention = Attention(model.width, model.heads)
        self.feed_forward_norm = Norm(model.width)
        self.feed_forward = FeedForward(model.width, model.hidden)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """[B, T, W] and tables [T, D / 2] -> [B, T, W]."""
        attended: Tensor = x + self.attention(self.attention_norm(x), cos, sin)
        fed: Tensor = attended + self.feed_forward(self.feed_forward_norm(attended))
        return fed


def compute_rope(positions: int, depth: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines [positions, depth / 2]; pair i turns by position * base^(-2i / depth)."""
    frequencies = ROPE_BASE ** (-torch.arange(0, depth, 2) / depth)
    angles = torch.outer(torch.arange(positions), frequencies)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (x[i], x[i + D/2]) of [B, H, T, D] by the angle of their position."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1).type_as(x)


@torch.no_grad()
def load_state(decoder: Decoder, state: Mapping[str, Tensor]) -> None:
    """Copy the parameters of `state` into `decoder`. Raises KeyError where a name is missing."""
    flat = decoder.flat
    flat.row.copy_(Flat.of(state, flat.layout.schema).row)
