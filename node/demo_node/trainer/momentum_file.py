"""The momentum file: what a restart would lose of one node, as safetensors.

Tensors, one after the other: `residual` fp32 [N, 4096]; by parameter AdamW's `exp_avg`,
`exp_avg_sq` and `step`, or none of them; for each round that was sent and is not decided
`sent.<round>`, a payload's bytes; at the end `sha256`, uint8 [32], over all bytes before it, so
that a file is written as it is computed and holds one tensor's copy at a time.

What the metadata says fixes where everything lies, so a file is taken to the byte or not at all.
"""

import hashlib
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from demo_node.learn.adamw import MOMENTS
from demo_node.learn.demo import DELTA_MAX, Momentum
from demo_node.native import decode_payload
from demo_protocol.errors import Reject
from demo_protocol.limits import K_MAX, PAYLOAD_BYTES_MAX
from demo_protocol.schema import SLOTS, Schema

FORMAT: Final = "demo-node/momentum/1"

_HEADER_BYTES_MAX: Final = 16 << 20
_SENT_MAX: Final = 256
"""Rounds that wait for a decision: late_rounds is at most 64."""

_CHECKSUM: Final = "sha256"
_RESIDUAL: Final = "residual"

assert sys.byteorder == "little"


class NotMomentum(ValueError):
    """This file cannot be gone on from; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MomentumInfo:
    """What the metadata says. `round`: the newest one in the residual, -1 for none.

    `sent`: (round, bytes, decays) of payloads. `has_moments`: whether AdamW took a step.
    """

    round: int
    decays: int
    sent: tuple[tuple[int, int, int], ...]
    has_moments: bool


@dataclass(frozen=True, slots=True)
class Kept:
    """A whole file, on the processor."""

    info: MomentumInfo
    momentum: Momentum
    moments: Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True, slots=True)
class _Entry:
    """One tensor of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return _NUMPY[self.dtype].itemsize * math.prod(self.shape)


_NUMPY: Final[Mapping[str, np.dtype[Any]]] = {"F32": np.dtype("<f4"), "U8": np.dtype("u1")}


def encode_momentum(
    run_id: bytes, schema: Schema, info: MomentumInfo, tensors: Iterable[Tensor]
) -> Iterator[memoryview]:
    """The file's bytes. `tensors`: in the order above, each asked for when it is due."""
    header = _encode_header(run_id, schema, info)
    hasher = hashlib.sha256(header)
    yield memoryview(header)
    for entry, tensor in zip(_list_entries(schema, info), tensors, strict=True):
        array = tensor.cpu().contiguous().numpy()
        assert (array.shape, array.dtype) == (entry.shape, _NUMPY[entry.dtype])
        raw = array.reshape(-1).view(np.uint8).data
        hasher.update(raw)
        yield raw
    yield memoryview(hasher.digest())


def read_momentum(path: Path, run_id: bytes, schema: Schema) -> Kept:
    """A file of this run and model, every number of it sound.

    Raises NotMomentum, before anything large is read where the header is not the one that belongs
    here, and OSError.
    """
    with path.open("rb") as file:
        header = _read_header(file)
        info = _decode_metadata(header, run_id, schema)
        # [NotMomentum] what lies where is what these metadata say, and the file ends there
        if header != _encode_header(run_id, schema, info):
            raise NotMomentum("its header is not one that this version writes")
        entries = _list_entries(schema, info)
        end = len(header) + sum(entry.size for entry in entries) + hashlib.sha256().digest_size
        if path.stat().st_size != end:
            raise NotMomentum("it is cut off or too long")
        hasher = hashlib.sha256(header)
        tensors = {entry.name: _read_tensor(file, entry, hasher) for entry in entries}
        if file.read(hasher.digest_size) != hasher.digest():
            raise NotMomentum("it is damaged (its checksum differs)")
    for name, tensor in tensors.items():
        _check_values(name, tensor)
    try:
        payloads = [
            decode_payload(tensors[_name_sent(round_)].numpy().tobytes(), schema, K_MAX)
            for round_, _, _ in info.sent
        ]
    except Reject as error:
        raise NotMomentum(str(error)) from None
    pairs = zip(info.sent, payloads, strict=True)
    sent = {round_: (payload, past) for (round_, _, past), payload in pairs}
    names = list(schema.shapes) if info.has_moments else []
    moments = {name: {key: tensors[f"{key}.{name}"] for key in MOMENTS} for name in names}
    return Kept(info, Momentum(tensors[_RESIDUAL], info.decays, sent), moments)


def _list_entries(schema: Schema, info: MomentumInfo) -> list[_Entry]:
    entries = [_Entry(_RESIDUAL, "F32", (schema.chunks, SLOTS))]
    if info.has_moments:
        for name, shape in schema.shapes.items():
            shapes = {"exp_avg": shape, "exp_avg_sq": shape, "step": ()}
            entries += [_Entry(f"{key}.{name}", "F32", shapes[key]) for key in MOMENTS]
    return entries + [_Entry(_name_sent(round_), "U8", (size,)) for round_, size, _ in info.sent]


def _name_sent(round_: int) -> str:
    return f"sent.{round_}"


def _hash_shapes(schema: Schema) -> str:
    """Names the model: two runs may have one, and one run never has two."""
    text = json.dumps([[name, *shape] for name, shape in schema.shapes.items()])
    return hashlib.sha256(text.encode()).hexdigest()


def _encode_header(run_id: bytes, schema: Schema, info: MomentumInfo) -> bytes:
    tree: dict[str, Any] = {
        "__metadata__": {
            "demo.format": FORMAT,
            "demo.run_id": run_id.hex(),
            "demo.schema": _hash_shapes(schema),
            "demo.round": str(info.round),
            "demo.decays": str(info.decays),
            "demo.sent": json.dumps(info.sent),
            "demo.moments": json.dumps(info.has_moments),
        }
    }
    end = 0
    for entry in (*_list_entries(schema, info), _Entry(_CHECKSUM, "U8", (32,))):
        start, end = end, end + entry.size
        tree[entry.name] = {
            "dtype": entry.dtype,
            "shape": entry.shape,
            "data_offsets": (start, end),
        }
    text = json.dumps(tree, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _read_header(file: BufferedReader) -> bytes:
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or not 2 <= length <= _HEADER_BYTES_MAX:
        raise NotMomentum("it does not begin like a safetensors file")
    text = file.read(length)
    if len(text) != length:
        raise NotMomentum("it is cut off")
    return start + text


def _decode_metadata(header: bytes, run_id: bytes, schema: Schema) -> MomentumInfo:
    try:
        metadata = json.loads(header[8:])["__metadata__"]
        marks = [metadata[key] for key in ("demo.format", "demo.run_id", "demo.schema")]
    except (KeyError, TypeError, ValueError, RecursionError):
        raise NotMomentum("its header is damaged") from None
    # [NotMomentum] it is of this version, run and model
    belongs = (
        (FORMAT, "it is no momentum file, or of another version"),
        (run_id.hex(), "it belongs to another run"),
        (_hash_shapes(schema), "it belongs to another model"),
    )
    for mark, (expected, reason) in zip(marks, belongs, strict=True):
        if mark != expected:
            raise NotMomentum(reason)
    try:
        info = MomentumInfo(
            round=int(metadata["demo.round"]),
            decays=int(metadata["demo.decays"]),
            sent=tuple(
                (round_, size, past) for round_, size, past in json.loads(metadata["demo.sent"])
            ),
            has_moments=json.loads(metadata["demo.moments"]),
        )
    except (KeyError, TypeError, ValueError, RecursionError):
        raise NotMomentum("its header is damaged") from None
    # [NotMomentum] what was sent may be a payload, and is of the file's round or before
    is_sound = (
        type(info.has_moments) is bool
        and len(info.sent) <= _SENT_MAX
        and all(type(number) is int for entry in info.sent for number in entry)
        and all(0 <= r <= info.round and 0 < b <= PAYLOAD_BYTES_MAX for r, b, _ in info.sent)
        and all(0 <= past <= info.decays for _, _, past in info.sent)
    )
    if not is_sound:
        raise NotMomentum("its header is damaged")
    return info


def _read_tensor(file: BufferedReader, entry: _Entry, hasher: "hashlib._Hash") -> Tensor:
    array = np.empty(entry.shape, _NUMPY[entry.dtype])
    raw = array.reshape(-1).view(np.uint8).data
    if file.readinto(raw) != entry.size:
        raise NotMomentum("it is cut off")
    hasher.update(raw)
    return torch.from_numpy(array)


def _check_values(name: str, tensor: Tensor) -> None:
    """Raise NotMomentum for what would spread: NaN, infinity, a square that is negative."""
    if tensor.dtype is not torch.float32:
        return
    low, high = (float(bound) for bound in torch.aminmax(tensor))
    is_positive = name.startswith(("exp_avg_sq.", "step."))
    floor = 0 if is_positive else -DELTA_MAX
    if not (floor <= low and high <= DELTA_MAX):  # false for a NaN
        raise NotMomentum(f"{name} holds what no node would write")
