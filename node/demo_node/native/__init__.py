"""The codec in C: payload bytes, forward and exact inverse transform, selection, step.

Chunk by chunk, so that a chunk stays in the processor's nearest cache from its votes to the step.
What must be exact is integers and separate roundings, in C as in torch, so both give the same bits
(tests/native/). Compiled at installation (build.py); where that failed, or on a graphics card,
torch does the same. Arrays are contiguous and in memory of the processor. N chunks.
"""

import ctypes
import functools
import itertools
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from demo_protocol import payload as payloads
from demo_protocol.errors import ConfigError, Reject
from demo_protocol.fp32 import Step
from demo_protocol.payload import (
    PAYLOAD_VERSION,
    PREFIX_BYTES,
    Payload,
    check_prefix,
    fixed_bytes,
    payload_bytes_range,
    rice_bits,
)
from demo_protocol.scale import SCALE_MIDPOINTS, SCALE_VALUES
from demo_protocol.schema import SLOTS, Schema

LIBRARY: Final = Path(__file__).with_name("codec.so")

CHOICE: Final = "DEMO_CODEC"
"""Environment variable. torch: do without the library; v1 to v4: this build, not the fastest."""

WRONG: Final = {
    1: "payload: it has more or fewer codes than its k",
    2: "payload: a scale code is out of range",
    3: "payload: a position is beyond the chunk's end",
    4: "payload: spare bits are set",
}
"""By what unpack_* returns."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Where chunks lie in a row of `size` numbers: from an offset on, each row a pitch further."""

    offsets: npt.NDArray[np.int64]
    pitches: npt.NDArray[np.int32]
    size: int


class Codec:
    """One build of the library. Chunks are independent, so `threads` of them change no bit."""

    def __init__(self, library: ctypes.CDLL, level: str) -> None:
        """Raises AttributeError where the library has no such level."""
        self.level = level
        # p: pointer, f: float, i: int32, l: int64
        self._accumulate = _find(library, f"accumulate_{level}", "ppppfpll")
        self._take = _find(library, f"take_{level}", "pifpppppll")
        self._apply = _find(library, f"apply_{level}", "ppppippppppffpll")
        self._pack = _find(library, f"pack_{level}", "pppliipll", ctypes.c_int64)
        self._unpack = _find(library, f"unpack_{level}", "plllliippp", ctypes.c_int32)

    def accumulate(
        self,
        delta: Floats,
        places: Places,
        residual: Floats,
        beta: float,
        basis: Floats,
        threads: int = 1,
    ) -> None:
        """residual [N, 4096] <- beta * residual + DCT(delta), a row of `places`.

        basis: the orthonormal one, as learn.dct.sort_basis has it.
        """
        offsets, pitches = _point(places.offsets), _point(places.pitches)
        row = _point(delta, places.size)
        kept = _point(residual, len(places.offsets) * SLOTS)
        entries = _point(basis)

        def accumulate(begin: int, end: int) -> None:
            self._accumulate(row, offsets, pitches, kept, beta, entries, begin, end)

        _share(accumulate, len(places.offsets), threads)

    def take(self, residual: Floats, k: int, unit: float, threads: int = 1) -> Payload:
        """The k largest coefficients of each chunk, out of the residual [N, 4096] (rule T3)."""
        chunks = len(residual)
        payload = _blank(chunks, k)
        kept = _point(residual, chunks * SLOTS)
        midpoints, values = _point(SCALE_MIDPOINTS), _point(SCALE_VALUES)
        arrays = _point_to(payload, chunks)

        def take(begin: int, end: int) -> None:
            self._take(kept, k, unit, midpoints, values, *arrays, begin, end)

        _share(take, chunks, threads)
        return payload

    def apply(
        self,
        before: Floats,
        after: Floats,
        places: Places,
        listed: Sequence[Payload],
        step: Step,
        basis: Floats,
        threads: int = 1,
    ) -> None:
        """`after` <- the step of rule T6 from `before`, rows of `places`; one payload or more.

        basis: the integer one, as learn.dct.sort_basis has it.
        """
        chunks = len(places.offsets)
        old, new = _point(before, places.size), _point(after, places.size)
        offsets, pitches = _point(places.offsets), _point(places.pitches)
        ks = np.array([payload.k for payload in listed], dtype=np.int32)
        arrays = [_point_to(payload, chunks) for payload in listed]
        slots, negative, scales = (
            (ctypes.c_void_p * len(listed))(*pointers) for pointers in zip(*arrays, strict=True)
        )
        values, entries = _point(SCALE_VALUES), _point(basis)

        def apply(begin: int, end: int) -> None:
            room = np.empty(2 * len(listed), dtype=np.int32)
            self._apply(
                *(old, new, offsets, pitches),
                *(len(listed), _point(ks), slots, negative, scales, values, entries),
                *(step.lr, step.decay, _point(room), begin, end),
            )

        _share(apply, chunks, threads)

    def encode_payload(self, payload: Payload, schema: Schema) -> bytes:
        """As demo_protocol.payload.encode_payload."""
        k, chunks = payload.k, schema.chunks
        raw = np.empty(payload_bytes_range(schema, k).stop - 1, dtype=np.uint8)
        raw[:PREFIX_BYTES] = (PAYLOAD_VERSION, k & 0xFF, k >> 8)
        unary_at = PREFIX_BYTES + fixed_bytes(schema, k)
        arrays = _point_to(payload, chunks)
        end = self._pack(*arrays, chunks, k, rice_bits(k), _point(raw), PREFIX_BYTES, unary_at)
        return raw[:end].tobytes()

    def decode_payload(self, raw: bytes, schema: Schema, k_max: int) -> Payload:
        """As demo_protocol.payload.decode_payload. Raises Reject."""
        k, chunks = check_prefix(raw, schema, k_max), schema.chunks
        payload = _blank(chunks, k)
        unary_at = PREFIX_BYTES + fixed_bytes(schema, k)
        arrays = _point_to(payload, chunks)
        bounds = (PREFIX_BYTES, unary_at, len(raw))
        wrong = self._unpack(raw, *bounds, chunks, k, rice_bits(k), *arrays)
        if wrong:
            raise Reject(WRONG[wrong])
        return payload


_torch_only = False


@contextmanager
def torch_only() -> Iterator[None]:
    """Inside there is no codec: to compare with it, in tests and benchmarks."""
    global _torch_only
    before, _torch_only = _torch_only, True
    try:
        yield
    finally:
        _torch_only = before


def find_codec() -> Codec | None:
    """The build for this processor; None where nothing was compiled, or CHOICE says torch.

    Raises ConfigError where CHOICE names a build that is not there.
    """
    return None if _torch_only else _load(os.environ.get(CHOICE, ""))


@functools.cache
def _load(choice: str) -> Codec | None:
    if choice == "torch" or sys.byteorder != "little":
        return None
    try:
        library = ctypes.CDLL(str(LIBRARY))
        library.level.restype = ctypes.c_char_p
        return Codec(library, choice or library.level().decode())
    except (OSError, AttributeError):
        if not choice:
            return None
        reason = f"{CHOICE}={choice}: there is no such build; name torch, or v1 to v4"
        raise ConfigError(reason) from None


def encode_payload(payload: Payload, schema: Schema) -> bytes:
    """demo_protocol.payload.encode_payload, as fast as it can be had."""
    codec = find_codec()
    return (
        payloads.encode_payload(payload) if codec is None else codec.encode_payload(payload, schema)
    )


def decode_payload(raw: bytes, schema: Schema, k_max: int) -> Payload:
    """demo_protocol.payload.decode_payload, as fast as it can be had. Raises Reject."""
    codec = find_codec()
    decode = payloads.decode_payload if codec is None else codec.decode_payload
    return decode(raw, schema, k_max)


def _find(
    library: ctypes.CDLL, name: str, arguments: str, result: type[Any] | None = None
) -> Callable[..., Any]:
    types: dict[str, Any] = {
        "p": ctypes.c_void_p,
        "f": ctypes.c_float,
        "i": ctypes.c_int32,
        "l": ctypes.c_int64,
    }
    function = library[name]
    function.argtypes = [types[letter] for letter in arguments]
    function.restype = result

    def call(*values: Any) -> Any:
        assert len(values) == len(arguments), "ctypes takes more than it was told of"
        return function(*values)

    return call


def _point(array: npt.NDArray[Any], size: int | None = None) -> int:
    """Its address, once sure that there are `size` elements one after the other."""
    assert array.flags.c_contiguous, "the codec reads contiguous arrays"
    assert size is None or array.size == size, "the codec was given an array of another size"
    return array.ctypes.data


def _point_to(payload: Payload, chunks: int) -> tuple[int, int, int]:
    """Addresses of its three arrays."""
    assert payload.positions.dtype == np.uint16
    assert payload.negative.dtype == np.bool_
    assert payload.scales.dtype == np.uint8
    return (
        _point(payload.positions, chunks * payload.k),
        _point(payload.negative, chunks * payload.k),
        _point(payload.scales, chunks),
    )


def _blank(chunks: int, k: int) -> Payload:
    return Payload(
        k=k,
        positions=np.empty((chunks, k), dtype=np.uint16),
        negative=np.empty((chunks, k), dtype=np.bool_),
        scales=np.empty(chunks, dtype=np.uint8),
    )


def _share(work: Callable[[int, int], None], chunks: int, threads: int) -> None:
    """Call `work` for parts of the chunks; the library holds no lock of Python's meanwhile."""
    bounds = [chunks * part // threads for part in range(threads + 1)]
    first, *rest = itertools.pairwise(bounds)
    others = [threading.Thread(target=work, args=part) for part in rest]
    for other in others:
        other.start()
    work(*first)
    for other in others:
        other.join()
