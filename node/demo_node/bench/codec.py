"""The codec against published DeMo's way of doing the same: `demo-node bench codec`.

The other side is learn/reference.py: each tensor by itself, three transforms, fp32 values and int64
slots. Both get the same gradients, and as many payloads of the same k. Times are the processor's,
of one thread, the best of some turns, and both sides take turns: what counts is their ratio.
"""

import ctypes
import gc
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from demo_node.learn.demo import Encoder
from demo_node.learn.exact import apply_update
from demo_node.learn.flat import Flat, find_layout
from demo_node.learn.reference import Chunking, Coefficients, DeMo
from demo_node.native import decode_payload, encode_payload, torch_only
from demo_protocol.fp32 import Step, round_to_fp32_bits
from demo_protocol.initial import compute_initial_state
from demo_protocol.manifest import Learning, Model
from demo_protocol.payload import Payload
from demo_protocol.presets import PRESETS
from demo_protocol.schema import SLOTS, Schema, compute_schema

MODELS: Final = {
    "1M": PRESETS["small"].model,
    "10M": PRESETS["base"].model,
    "50M": Model(layers=10, width=640, hidden=1728, heads=10, context=512),
    "124M": PRESETS["gpu"].model,
}
"""By their parameters, about."""

CPU: Final = torch.device("cpu")

STEP: Final = Step(round_to_fp32_bits(1, 1000), round_to_fp32_bits(1, 1))

SETTLED_ROUNDS: Final = 4
"""After so many rounds of noise positions are as good as uniform, as in training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Milliseconds of one round; total = encode + peers x decode_per_peer + apply."""

    encode: float
    decode_per_peer: float
    apply: float
    total: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One model, k and number of payloads, on one path."""

    params: int
    k: int
    peers: int
    path: str  # fast: compiled; torch
    ours_ms: Times
    plain_ms: Times
    inverse_ratio: float  # exact inverse over the plain fp32 inverse
    peak_extra_bytes: int | None  # beyond parameters, gradients and residual; None: not to be had
    threads: int

    @property
    def ratio(self) -> float:
        """Our total over the plain one."""
        return self.ours_ms.total / self.plain_ms.total


class Side:
    """What is measured of either side."""

    encode: Callable[[], object]
    """From gradients to what is sent."""
    decode: Callable[[int], object]
    """What so many peers sent, from bytes, where there are bytes."""
    apply: Callable[[int], object]
    """What so many peers sent, decoded, into new parameters."""
    invert: Callable[[], object]
    """The inverse transform."""


class Ours(Side):
    """A node's way: bytes in, bytes out."""

    def __init__(self, schema: Schema, gradients: Tensor, k: int, peers: int) -> None:
        learning = Learning(local="accumulate", k=k)
        self._encoder = encoder = Encoder(schema, learning, CPU)
        layout = find_layout(schema)
        delta = Flat(gradients, layout)
        state = Flat.of(
            {n: torch.from_numpy(a) for n, a in compute_initial_state(schema, 1).items()}, schema
        )
        payloads = [draw_payload(schema, k, peer) for peer in range(peers)]
        sent = [encode_payload(payload, schema) for payload in payloads]
        lonely = [draw_payload(schema, 1, 1)]

        def encode() -> bytes:
            encoder.accumulate(delta)
            raw = encode_payload(encoder.encode(k, 0), schema)
            encoder.release(0)
            return raw

        self.encode = encode
        self.decode = lambda count: [decode_payload(raw, schema, k) for raw in sent[:count]]
        self.apply = lambda count: apply_update(state, payloads[:count], schema, STEP)
        self.invert = lambda: apply_update(state, lonely, schema, STEP)


class Plain(Side):
    """Published DeMo: learn/reference.py."""

    def __init__(self, schema: Schema, gradients: Tensor, k: int, peers: int) -> None:
        state = compute_initial_state(schema, 1)
        parameters = [torch.nn.Parameter(torch.from_numpy(array)) for array in state.values()]
        views = find_layout(schema).view(gradients)
        for name, parameter in zip(state, parameters, strict=True):
            parameter.grad = views[name]
        optimizer = DeMo(parameters, lr=STEP.lr, compression_topk=k)
        chunkings = [Chunking.of(parameter, 64) for parameter in parameters]
        generator = torch.Generator().manual_seed(1)
        received = [
            [_draw_coefficients(chunking, k, generator) for chunking in chunkings]
            for _ in range(peers)
        ]
        blank = [torch.randn(c.chunks, c.slots, generator=generator) for c in chunkings]
        self.encode = optimizer.encode
        self.decode = lambda count: None
        self.apply = lambda count: optimizer.apply(received[:count])
        self.invert = lambda: [c.inverse(x) for c, x in zip(chunkings, blank, strict=True)]


def measure(name: str, k: int, peers: Sequence[int], paths: Sequence[str], turns: int) -> list[Row]:
    """Rows of one model, for each number of peers and path. One thread."""
    schema = compute_schema(MODELS[name])
    gradients = draw_gradients(schema, 1)
    plain = Plain(schema, gradients, k, max(peers))
    rows = []
    for path in paths:
        with torch_only() if path == "torch" else nullcontext():
            ours = Ours(schema, gradients, k, max(peers))
            rows += _measure_rows(schema, ours, plain, k, peers, path, turns)
    return rows


def _measure_rows(
    schema: Schema, ours: Side, plain: Side, k: int, peers: Sequence[int], path: str, turns: int
) -> list[Row]:
    encode = _alternate(ours.encode, plain.encode, turns)
    inverse = _alternate(ours.invert, plain.invert, turns)
    receive = {
        count: _alternate(partial(_receive, ours, count), partial(_receive, plain, count), turns)
        for count in sorted({1, *peers})
    }
    each = _divide(receive[1], receive[max(peers)], max(peers))

    def go_through_a_round(count: int) -> None:
        ours.encode()
        _receive(ours, count)

    return [
        Row(
            params=schema.parameters,
            k=k,
            peers=count,
            path=path,
            ours_ms=_make_times(encode[0], receive[count][0], each[0], count),
            plain_ms=_make_times(encode[1], receive[count][1], each[1], count),
            inverse_ratio=inverse[0] / inverse[1],
            peak_extra_bytes=measure_peak(partial(go_through_a_round, count)),
            threads=torch.get_num_threads(),
        )
        for count in peers
    ]


def measure_bytes(name: str, k: int) -> float:
    """Bytes a parameter of a whole payload, from a residual as in steady state."""
    schema = compute_schema(MODELS[name])
    encoder = Encoder(schema, Learning(k=k), CPU)
    layout = find_layout(schema)
    for round_ in range(SETTLED_ROUNDS):
        encoder.accumulate(Flat(draw_gradients(schema, round_), layout))
        payload = encoder.encode(k, round_)
    return len(encode_payload(payload, schema)) / schema.parameters


def draw_gradients(schema: Schema, seed: int) -> Tensor:
    """A row of normally distributed numbers; tensors differ in size as in a model's gradient."""
    layout = find_layout(schema)
    generator = torch.Generator().manual_seed(seed)
    row = torch.randn(layout.size, generator=generator) * 1e-3
    for place, view in enumerate(layout.view(row).values()):
        view.mul_(2.0 ** (place % 3))
    return row.index_fill_(0, layout.padding, 0.0)


def draw_payload(schema: Schema, k: int, seed: int) -> Payload:
    """Positions and signs as good as uniform, scales of neighbours alike."""
    random = np.random.default_rng(seed)
    # Sorted with repeats, then spread: all different, and no need to sort 4096 numbers.
    positions = np.sort(random.integers(0, SLOTS - k + 1, (schema.chunks, k)), axis=1)
    return Payload(
        k=k,
        positions=(positions + np.arange(k)).astype(np.uint16),
        negative=random.random((schema.chunks, k)) < 0.5,
        scales=np.clip(random.normal(110, 2, schema.chunks), 0, 255).astype(np.uint8),
    )


def _draw_coefficients(chunking: Chunking, k: int, generator: torch.Generator) -> Coefficients:
    k = min(k, chunking.slots)
    shape = (chunking.chunks, k)
    slots = torch.randint(0, chunking.slots - k + 1, shape, generator=generator)
    slots = slots.sort(dim=1).values + torch.arange(k)
    return Coefficients(slots, torch.randn(shape, generator=generator))


def _receive(side: Side, peers: int) -> None:
    side.decode(peers)
    side.apply(peers)


def _divide(one: tuple[float, float], most: tuple[float, float], peers: int) -> tuple[float, float]:
    """What a further peer costs either side: of as many as there are, or it would be noise."""
    others = max(peers - 1, 1)
    return (most[0] - one[0]) / others, (most[1] - one[1]) / others


def _make_times(encode: float, receive: float, each: float, peers: int) -> Times:
    return Times(
        encode=encode,
        decode_per_peer=each,
        apply=receive - peers * each,
        total=encode + receive,
    )


def _alternate(
    first: Callable[[], object], second: Callable[[], object], turns: int
) -> tuple[float, float]:
    """Milliseconds of the processor for either, the best of `turns` and one to warm up."""
    best = [float("inf"), float("inf")]
    for turn in range(turns + 1):
        for which, work in enumerate((first, second)):
            begin_ns = time.process_time_ns()
            work()
            took_ms = (time.process_time_ns() - begin_ns) / 1e6
            if turn:
                best[which] = min(best[which], took_ms)
    return best[0], best[1]


def measure_peak(work: Callable[[], object]) -> int | None:
    """Bytes of memory that `work` holds at most beyond what is held now; Linux only."""
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what is freed and kept would be used unseen
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from now on
        before = _read_status("VmRSS")
        work()
        return _read_status("VmHWM") - before
    except (OSError, AttributeError, KeyError):
        return None


def _read_status(key: str) -> int:
    """Bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    values = dict(line.split(":", 1) for line in lines)
    return int(values[key].split()[0]) << 10
