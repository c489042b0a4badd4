"""Headers of safetensors files: read one, and put metadata into one while its bytes stream by.

A safetensors file is 8 bytes of header length (little endian), that much JSON, then the tensors'
bytes. Offsets in the JSON count from the end of the header, so a longer header moves nothing.
Source: safetensors README, "Format".
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Final

_LENGTH_BYTES: Final = 8

METADATA: Final = "__metadata__"
"""The one key that is no tensor: strings to strings."""

HEADER_BYTES_MAX: Final = 16 << 20
"""A header is about 100 bytes a tensor plus our metadata; a larger one is an attack or damage."""


class NotTensors(ValueError):
    """These bytes are not a safetensors file; the message says why."""


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """What a header says: metadata, and how many bytes follow it."""

    metadata: Mapping[str, str]
    header_bytes: int
    tensor_bytes: int


def compute_header_end(start: bytes) -> int:
    """Where the tensors begin, from the file's first 8 bytes. Raises NotTensors."""
    length = int.from_bytes(start[:_LENGTH_BYTES], "little")
    if len(start) < _LENGTH_BYTES or not 2 <= length <= HEADER_BYTES_MAX:
        raise NotTensors("it does not begin like a safetensors file")
    return _LENGTH_BYTES + length


def decode_header(raw: bytes) -> TensorHeader:
    """Read a header from the file's first bytes. Raises NotTensors."""
    end = compute_header_end(raw)
    tree = _parse(raw[_LENGTH_BYTES:end], end - _LENGTH_BYTES)
    metadata = tree.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise NotTensors("its metadata is not made of strings")
    return TensorHeader(metadata, end, max(map(_compute_tensor_end, tree.values()), default=0))


def decode_shapes(raw: bytes) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the fp32 tensors, from the file's first bytes.

    Raises NotTensors, also where a tensor is of another type.
    """
    end = compute_header_end(raw)
    tree = _parse(raw[_LENGTH_BYTES:end], end - _LENGTH_BYTES)
    tree.pop(METADATA, None)
    return {name: _get_shape(entry) for name, entry in tree.items()}


def encode_header(shapes: Mapping[str, Sequence[int]], metadata: Mapping[str, str]) -> bytes:
    """The header of a file of fp32 tensors that follow each other in the order of their names.

    The very bytes that `HeaderRewriter` makes of such a file's.
    """
    tree: dict[str, Any] = {}
    end = 0
    for name in sorted(shapes):
        start, end = end, end + 4 * prod(shapes[name])
        tree[name] = {"dtype": "F32", "shape": [*shapes[name]], "data_offsets": [start, end]}
    return _encode(metadata, tree)


class HeaderRewriter:
    """Passes a safetensors file through in pieces, with `metadata` added to its header.

    `header_bytes`: where the tensors begin in what comes out; 0 until that is known.
    """

    def __init__(self, metadata: Mapping[str, str]) -> None:
        self.header_bytes = 0
        self._metadata = metadata
        self._held = b""
        self._remaining: int | None = None

    def feed(self, piece: bytes) -> bytes:
        """What can be written now; empty while the header is incomplete. Raises NotTensors."""
        if self._remaining is None:
            self._held += piece
            if len(self._held) < _LENGTH_BYTES:
                return b""
            end = compute_header_end(self._held)
            if len(self._held) < end:
                return b""
            self._remaining = decode_header(self._held).tensor_bytes
            header, piece, self._held = self._held[:end], self._held[end:], b""
            return self._rewrite(header) + self._pass(piece)
        return self._pass(piece)

    def finish(self) -> None:
        """Raise NotTensors unless the file was complete."""
        if self._remaining != 0:
            raise NotTensors("it ends too early")

    def _pass(self, piece: bytes) -> bytes:
        assert self._remaining is not None
        self._remaining -= len(piece)
        if self._remaining < 0:
            raise NotTensors("it is longer than its header says")
        return piece

    def _rewrite(self, header: bytes) -> bytes:
        tree = _parse(header[_LENGTH_BYTES:], len(header) - _LENGTH_BYTES)
        rewritten = _encode({**tree.pop(METADATA, {}), **self._metadata}, tree)
        self.header_bytes = len(rewritten)
        return rewritten


def _encode(metadata: Mapping[str, str], tree: Mapping[str, Any]) -> bytes:
    text = json.dumps({METADATA: {**metadata}, **tree}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors stay aligned for readers that map the file
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text


def _parse(text: bytes, length: int) -> dict[str, Any]:
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError):
        tree = None
    if len(text) != length or not isinstance(tree, dict):
        raise NotTensors("its header is damaged")
    return tree


def _get_shape(entry: object) -> tuple[int, ...]:
    match entry:
        case {"dtype": "F32", "shape": [*sizes]} if all(type(size) is int for size in sizes):
            return tuple(sizes)
        case _:
            raise NotTensors("its tensors are not all fp32")


def _compute_tensor_end(entry: object) -> int:
    match entry:
        case {"data_offsets": [int() as start, int() as end]} if 0 <= start <= end:
            return end
        case _:
            raise NotTensors("its header is damaged")
