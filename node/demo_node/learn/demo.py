"""What a node sends: momentum in the DCT domain, its largest coefficients, and error feedback.

The transform is linear and orthonormal, so momentum kept as coefficients is the published
algorithm's momentum (arXiv:2411.19870, Algorithm 1) without its inverse transform per step.
Unlike it, values are one sign bit times a scale per chunk, and exactly that leaves the residual
(rule T3): what quantisation lost is sent later. Encoding may round as it likes; only its sender
depends on it. N chunks, k coefficients each.

A graphics card is waited for once a round, when a payload comes back: until then nothing here
reads a value, and how many operations it is asked for does not depend on the number of tensors.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from demo_node.learn.dct import (
    compute_basis,
    forward_dct,
    forward_halves,
    halve_basis,
    inverse_dct,
    sort_basis,
)
from demo_node.learn.faults import Diverged
from demo_node.learn.flat import Flat, Layout, find_layout
from demo_node.native import find_codec
from demo_protocol.errors import LocalFault
from demo_protocol.manifest import PPM, Learning
from demo_protocol.payload import Payload
from demo_protocol.scale import SCALE_MIDPOINTS, SCALE_VALUES, compute_unit_exponent
from demo_protocol.schema import CHUNK, SLOTS, Schema

DELTA_MAX: Final = 2.0**64
"""No element of a sound delta comes near; sums of larger ones could leave what fp32 holds."""

_BLOCK: Final = 64
_BLOCK_CARD: Final = 4096
"""Chunks transformed at once, in two arrays of a MB on a processor, of 64 MB on a card."""


@dataclass(frozen=True, slots=True)
class _Sent:
    """What left the residual in one round, and how often the residual had decayed before."""

    payload: Payload
    decays: int


@dataclass(frozen=True, slots=True)
class Momentum:
    """What an encoder must not lose. `sent`, by round: what, and how often it had decayed then."""

    residual: Tensor  # fp32 [N, 4096]
    decays: int
    sent: Mapping[int, tuple[Payload, int]]


class Encoder:
    """Residual of one node: fp32 [N, 4096] coefficients, zero at first."""

    def __init__(self, schema: Schema, learning: Learning, device: torch.device) -> None:
        self.schema = schema
        self.layout = find_layout(schema)
        self.beta = learning.beta_ppm / PPM
        self.unit = 2.0 ** -compute_unit_exponent(learning)
        self.residual = torch.zeros((schema.chunks, SLOTS), device=device)
        self._codec = find_codec() if device.type == "cpu" else None
        basis = compute_basis(CHUNK)
        self._basis = basis.to(device, torch.float32)
        self._halves = halve_basis(self._basis)
        self._sorted_basis = sort_basis(basis)
        self._midpoints = torch.from_numpy(SCALE_MIDPOINTS).to(device)
        self._values = torch.from_numpy(SCALE_VALUES).to(device)
        self._padded, self._support = _padded_chunks(self.layout, device)
        self._sent: dict[int, _Sent] = {}
        self._decays = 0
        self._looks_at_once = device.type == "cpu"
        self._sound: Tensor | None = None
        """Whether the last delta was: bool [], on a card that nobody has waited for since."""

    @torch.no_grad()
    def accumulate(self, delta: Mapping[str, Tensor]) -> None:
        """residual <- beta * residual + DCT(delta), once per round (rule T1).

        delta: fp32 tensors of the schema's shapes. Raises Diverged, with the residual as it
        was, when one holds a NaN or is beyond DELTA_MAX: it would stay in the residual for ever.
        A card keeps the residual by itself then, and `encode` or `confirm`, which must follow,
        raises.
        """
        self._settle()
        row = Flat.of(delta, self.schema).row
        least, most = torch.aminmax(row)
        sound = (least >= -DELTA_MAX) & (most <= DELTA_MAX)  # false for a NaN
        if self._looks_at_once and not sound:
            raise _diverged()
        gate = None if self._looks_at_once else sound
        self._project(gate)
        if self._codec is not None:
            rows = row.numpy(), self.layout.places, self.residual.numpy()
            self._codec.accumulate(*rows, self.beta, self._sorted_basis, torch.get_num_threads())
        else:
            self._accumulate(row, gate)
        self._sound = gate
        self._decays += 1

    def _accumulate(self, row: Tensor, gate: Tensor | None) -> None:
        """In torch, some chunks at a time; nothing where `gate`, bool [], is false."""
        lines, residual = self.layout.lines(row.device), self.residual.view(-1, CHUNK, CHUNK)
        size = min(_find_block(row.device), len(residual))
        chunk_room = residual.new_empty((size, CHUNK, CHUNK))
        parts_room = residual.new_empty((2, size, CHUNK // 2, CHUNK))
        parts = zip(torch.split(residual, size), torch.split(lines, size * CHUNK), strict=True)
        for old, own in parts:
            chunks, down = chunk_room[: len(old)], parts_room[:, : len(old)]
            torch.index_select(row.view(-1, CHUNK), 0, own, out=chunks.view(-1, CHUNK))
            forward_halves(self._halves, chunks, down)
            evens, odds = torch.split(old.view(-1, 2 * CHUNK), CHUNK, dim=1)
            for rows, half in zip((evens, odds), down, strict=True):
                if gate is None:
                    torch.addmm(rows, half.view(-1, CHUNK), self._basis, beta=self.beta, out=rows)
                else:
                    new = torch.addmm(rows, half.view(-1, CHUNK), self._basis, beta=self.beta)
                    torch.where(gate, new, rows, out=rows)

    def confirm(self) -> None:
        """Wait for a card's word on the last delta, unless `encode` has. Raises Diverged."""
        if self._sound is not None:
            self._conclude(bool(_fetch(self._sound.view(torch.uint8).view(1))[0]))

    def _settle(self) -> None:
        """`confirm` for a round whose encoding failed: of its delta nobody wants to hear now."""
        with suppress(Diverged):
            self.confirm()

    def _conclude(self, is_sound: bool) -> None:
        """Raise Diverged where the residual of a card stayed as it was."""
        pending, self._sound = self._sound, None
        if pending is not None and not is_sound:
            self._decays -= 1
            raise _diverged()

    @torch.no_grad()
    def encode(self, k: int, round_: int) -> Payload:
        """Take the k largest coefficients of every chunk out of the residual, as a payload.

        Each is sent as its sign times the chunk's mean magnitude, to the nearest scale code;
        this, exactly, is subtracted (rule T3), and kept until `release` or `restore`. Raises
        Diverged as `accumulate` says.
        """
        if k > SLOTS or k < 1:
            raise LocalFault(f"encode: k {k} is not in 1 to {SLOTS}")
        if self._codec is not None:
            residual = self.residual.numpy()
            payload = self._codec.take(residual, k, self.unit, torch.get_num_threads())
        else:
            slots, values, told = self._choose(k)
            payload = self._receive(k, told)
            self.residual.scatter_add_(1, slots, -values)  # now that it can no longer be lost
        self._sent[round_] = _Sent(payload, self._decays)
        return payload

    def _choose(self, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """In torch: what to send, as slots int64 and values fp32, both [N, k], and as bytes.

        The bytes are all that the processor needs, so that one copy brings it: positions, signs
        and scale codes as Payload has them, and whether the last delta was sound.
        """
        slots = find_largest(self.residual, k)
        chosen = self.residual.gather(1, slots)  # [N, k]
        negative = chosen < 0
        codes = torch.bucketize(chosen.abs().mean(dim=1) / self.unit, self._midpoints)
        scales = self._values[codes].to(torch.float32)[:, None] * self.unit
        sound = self._sound
        if sound is None:
            sound = torch.ones((), dtype=torch.bool, device=slots.device)
        parts = [slots.to(torch.int16), negative, codes.to(torch.uint8), sound]
        told = torch.cat([part.view(-1).view(torch.uint8) for part in parts])
        return slots, torch.where(negative, -scales, scales), told

    def _receive(self, k: int, told: Tensor) -> Payload:
        """The payload in the bytes of `_choose`. Raises Diverged."""
        raw, chunks = _fetch(told), self.schema.chunks
        positions, negative, scales, sound = np.split(
            raw, np.cumsum([2 * chunks * k, chunks * k, chunks])
        )
        self._conclude(bool(sound[0]))
        return Payload(
            k=k,
            positions=positions.view(np.uint16).reshape(chunks, k),
            negative=negative.view(np.bool_).reshape(chunks, k),
            scales=scales,
        )

    def release(self, round_: int) -> None:
        """The payload of `round_` counted: forget it. Unknown rounds are none of our business."""
        self._sent.pop(round_, None)

    @torch.no_grad()
    def restore(self, round_: int) -> None:
        """The payload of `round_` did not count: put it back (rules T3 and 24).

        The residual becomes what it were, had nothing been sent: decayed since like the rest.
        """
        sent = self._sent.pop(round_, None)
        if sent is None:
            return
        self._settle()
        slots, values = self._expand(sent.payload)
        decayed = self.beta ** (self._decays - sent.decays)
        self.residual.scatter_add_(1, slots, values * decayed)

    def export(self) -> Momentum:
        """A copy, on the device of the residual."""
        self._settle()
        sent = {round_: (sent.payload, sent.decays) for round_, sent in self._sent.items()}
        return Momentum(self.residual.clone(), self._decays, sent)

    def adopt(self, momentum: Momentum) -> None:
        """Go on where `export` was called, in another process perhaps."""
        self._sound = None
        self.residual.copy_(momentum.residual)
        self._decays = momentum.decays
        self._sent = {round_: _Sent(*sent) for round_, sent in momentum.sent.items()}

    @torch.no_grad()
    def retrace(self, payload: Payload, round_: int, rounds: int) -> None:
        """Take out what was sent in `round_`, `rounds` after the newest one that is known here.

        An encoder that is gone made it, also of a delta that is lost, so that the residual may
        have less in a slot than was sent: then nothing is left there. Never more is taken, which
        would take back what was learned. As after `encode`: `release` or `restore` must follow.
        """
        self._settle()
        self.residual.mul_(self.beta**rounds)
        self._decays += rounds
        slots, values = self._expand(payload)
        held = self.residual.gather(1, slots)
        left = (held.abs() - values.abs()).clamp(min=0) * held.sign()
        self.residual.scatter_(1, slots, left.masked_fill((held < 0) != (values < 0), 0.0))
        self._sent[round_] = _Sent(payload, self._decays)

    def _expand(self, payload: Payload) -> tuple[Tensor, Tensor]:
        """Slots int64 [N, k] and values fp32 [N, k] of a payload, on the residual's device."""
        device = self.residual.device
        signs = np.where(payload.negative, np.float32(-1), np.float32(1))
        values = signs * SCALE_VALUES[payload.scales].astype(np.float32)[:, None]
        slots = torch.from_numpy(payload.positions.astype(np.int64))
        return slots.to(device), torch.from_numpy(values).to(device) * self.unit

    def _project(self, gate: Tensor | None) -> None:
        """Drop what leaked into padding: it serves no element and would cost coefficients (E13).

        Nothing where `gate`, bool [], is false.
        """
        if len(self._padded):
            old = self.residual.index_select(0, self._padded)
            inside = inverse_dct(old.view(-1, CHUNK, CHUNK), self._basis) * self._support
            new = forward_dct(inside, self._basis).flatten(1)
            new = new if gate is None else torch.where(gate, new, old)
            self.residual.index_copy_(0, self._padded, new)


def _diverged() -> Diverged:
    return Diverged("encode: local training diverged, its delta is not finite")


def _find_block(device: torch.device) -> int:
    return _BLOCK if device.type == "cpu" else _BLOCK_CARD


def _fetch(numbers: Tensor) -> npt.NDArray[np.uint8]:
    """uint8 [n], once they are there. A card is waited for until here and no further."""
    if numbers.device.type != "cuda":
        return numbers.cpu().numpy()
    here = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
    here.copy_(numbers, non_blocking=True)
    arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    arrived.record(torch.cuda.current_stream(numbers.device))
    arrived.synchronize()
    return here.numpy()


def find_largest(coefficients: Tensor, k: int) -> Tensor:
    """Slots of the k largest magnitudes of each row of [N, 4096], ascending: int64 [N, k].

    All of them lie in the k groups whose maxima are largest, so that only those are sorted out.
    """
    size = SLOTS // 4 // k  # the groups', where that leaves four times as many as are wanted
    size = min(1 << size.bit_length() - 1, 8) if size else 1
    groups = SLOTS // size
    steps = torch.arange(0, SLOTS, groups, device=coefficients.device)
    found, room = [], coefficients.new_empty(0)
    for part in torch.split(coefficients, _find_block(coefficients.device)):
        magnitudes = torch.abs(part, out=room.resize_(part.shape))
        maxima = magnitudes.view(-1, size, groups).amax(dim=1)
        first = _partition(maxima, k)  # [n, k]
        places = (first[:, None, :] + steps[None, :, None]).flatten(1)  # [n, size * k]
        found.append(places.gather(1, _partition(magnitudes.gather(1, places), k)))
    return torch.cat(found).sort(dim=1).values


def _partition(values: Tensor, k: int) -> Tensor:
    """Indices int64 [n, k] of the k largest of each row, in any order."""
    if values.device.type == "cpu":  # numpy selects, torch sorts: twice as long
        return torch.from_numpy(np.argpartition(values.numpy(), -k, axis=1)[:, -k:])
    return values.topk(k, dim=1, sorted=False).indices


@torch.no_grad()
def measure_norm(tensors: Iterable[Tensor]) -> float:
    """Euclidean length of all elements together; reads them only.

    Rows in fp32, which every device has, and then in fp64: right to six digits at any size.
    """
    rows = [torch.linalg.vector_norm(tensor, dim=-1).flatten() for tensor in tensors]
    return float(torch.linalg.vector_norm(torch.cat(rows).cpu().double()))


def _padded_chunks(layout: Layout, device: torch.device) -> tuple[Tensor, Tensor]:
    """Indices int64 [n] of chunks with padding, and their support: 1 where an element lies."""
    row = torch.ones(layout.size).index_fill_(0, layout.padding, 0.0)
    support = layout.cut(row)
    padded = torch.nonzero((support == 0).any(dim=2).any(dim=1)).flatten()
    return padded.to(device), support[padded].to(device)
