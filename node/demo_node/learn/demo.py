"""What a node sends: momentum in the DCT domain, its largest coefficients, and error feedback.

The transform is linear and orthonormal, so momentum kept as coefficients is the published
algorithm's momentum (arXiv:2411.19870, Algorithm 1) without its inverse transform per step.
Unlike it, values are one sign bit times a scale per chunk, and exactly that leaves the residual
(rule T3): what quantisation lost is sent later. Encoding may round as it likes; only its sender
depends on it. N chunks, k coefficients each.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from demo_node.learn.dct import compute_basis, forward_dct, inverse_dct, to_chunks
from demo_node.learn.faults import Diverged
from demo_protocol.errors import LocalFault
from demo_protocol.manifest import PPM, Learning
from demo_protocol.payload import Payload
from demo_protocol.scale import SCALE_MIDPOINTS, SCALE_VALUES, compute_unit_exponent
from demo_protocol.schema import CHUNK, SLOTS, Schema

DELTA_MAX: Final = 2.0**64
"""No element of a sound delta comes near; sums of larger ones could leave what fp32 holds."""

_BLOCK: Final = 128
"""Chunks transformed at once on a processor; they stay in its cache."""


@dataclass(frozen=True, slots=True)
class _Sent:
    """What left the residual in one round, and how often the residual had decayed before."""

    slots: Tensor  # int64 [N, k]
    values: Tensor  # fp32 [N, k]
    decays: int


class Encoder:
    """Residual of one node: fp32 [N, 4096] coefficients, zero at first."""

    def __init__(self, schema: Schema, learning: Learning, device: torch.device) -> None:
        self.schema = schema
        self.beta = learning.beta_ppm / PPM
        self.unit = 2.0 ** -compute_unit_exponent(learning)
        self.residual = torch.zeros((schema.chunks, SLOTS), device=device)
        self._basis = compute_basis(CHUNK).to(device, torch.float32)
        self._midpoints = torch.from_numpy(SCALE_MIDPOINTS).to(device)
        self._values = torch.from_numpy(SCALE_VALUES).to(device)
        self._padded, self._support = _padded_chunks(schema, device)
        self._sent: dict[int, _Sent] = {}
        self._decays = 0

    @torch.no_grad()
    def accumulate(self, delta: Mapping[str, Tensor]) -> None:
        """residual <- beta * residual + DCT(delta), once per round (rule T1).

        delta: fp32 tensors of the schema's shapes. Raises Diverged, with the residual as it
        was, when one holds a NaN or is beyond DELTA_MAX: it would stay in the residual for ever.
        """
        chunks = to_chunks(delta, self.schema)
        if not (chunks.abs() <= DELTA_MAX).all():  # false for a NaN
            raise Diverged("encode: local training diverged, its delta is not finite")
        self._project()
        residual = self.residual.view(-1, CHUNK, CHUNK)
        size = _BLOCK if chunks.device.type == "cpu" else self.schema.chunks
        for old, new in zip(torch.split(residual, size), torch.split(chunks, size), strict=True):
            old.mul_(self.beta).add_(forward_dct(new, self._basis))
        self._decays += 1

    @torch.no_grad()
    def encode(self, k: int, round_: int) -> Payload:
        """Take the k largest coefficients of every chunk out of the residual, as a payload.

        Each is sent as its sign times the chunk's mean magnitude, to the nearest scale code;
        this, exactly, is subtracted (rule T3), and kept until `release` or `restore`.
        """
        if k > SLOTS or k < 1:
            raise LocalFault(f"encode: k {k} is not in 1 to {SLOTS}")
        slots = self.residual.abs().topk(k, dim=1, sorted=False).indices.sort(dim=1).values
        chosen = self.residual.gather(1, slots)  # [N, k]
        negative = chosen < 0
        codes = torch.bucketize(chosen.abs().mean(dim=1) / self.unit, self._midpoints)
        scales = self._values[codes].to(torch.float32)[:, None] * self.unit
        values = torch.where(negative, -scales, scales)
        self.residual.scatter_add_(1, slots, -values)
        self._sent[round_] = _Sent(slots, values, self._decays)
        return Payload(
            k=k,
            positions=slots.to(torch.int32).cpu().numpy().astype("uint16"),
            negative=negative.cpu().numpy(),
            scales=codes.to(torch.uint8).cpu().numpy(),
        )

    def release(self, round_: int) -> None:
        """The payload of `round_` counted: forget it. Unknown rounds are none of our business."""
        self._sent.pop(round_, None)

    def restore(self, round_: int) -> None:
        """The payload of `round_` did not count: put it back (rules T3 and 24).

        The residual becomes what it were, had nothing been sent: decayed since like the rest.
        """
        sent = self._sent.pop(round_, None)
        if sent is not None:
            decayed = self.beta ** (self._decays - sent.decays)
            self.residual.scatter_add_(1, sent.slots, sent.values * decayed)

    def _project(self) -> None:
        """Drop what leaked into padding: it serves no element and would cost coefficients (E13)."""
        if len(self._padded):
            chunks = self.residual[self._padded].view(-1, CHUNK, CHUNK)
            inside = inverse_dct(chunks, self._basis) * self._support
            self.residual[self._padded] = forward_dct(inside, self._basis).flatten(1)


@torch.no_grad()
def measure_norm(tensors: Iterable[Tensor]) -> float:
    """Euclidean length of all elements together; reads them only.

    Rows in fp32, which every device has, and then in fp64: right to six digits at any size.
    """
    rows = [torch.linalg.vector_norm(tensor, dim=-1).flatten() for tensor in tensors]
    return float(torch.linalg.vector_norm(torch.cat(rows).cpu().double()))


def _padded_chunks(schema: Schema, device: torch.device) -> tuple[Tensor, Tensor]:
    """Indices int64 [n] of chunks with padding, and their support: 1 where an element lies."""
    ones = {name: torch.ones(shape, device=device) for name, shape in schema.shapes.items()}
    support = to_chunks(ones, schema)
    padded = torch.nonzero((support == 0).any(dim=2).any(dim=1)).flatten()
    return padded, support[padded]
