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
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from demo_node.native.build import LIBRARY, hash_sources, list_levels
from demo_protocol import payload as payloads
from demo_protocol.errors import ConfigError, LocalFault, Reject
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

CHOICE: Final = "DEMO_CODEC"
"""Environment variable. torch: do without the library; v2, ...: this build, not the fastest."""

WRONG: Final = {
    1: "payload: it has more or fewer codes than its k",
    2: "payload: a scale code is out of range",
    3: "payload: a position is beyond the chunk's end",
    4: "payload: spare bits are set",
}
"""By what unpack_* returns."""

ENTRIES: Final = 32 * 32 + 16 * 16 + 8 * 8 + 4 * 4 + 2 * 2 + 1 + 1
"""Of a basis as native/dct.h has it."""

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
        offsets, pitches = _point_places(places)
        row = _point(delta, np.float32, places.size)
        kept = _point(residual, np.float32, len(places.offsets) * SLOTS)
        entries = _point(basis, np.float32, ENTRIES)

        def accumulate(begin: int, end: int) -> None:
            self._accumulate(row, offsets, pitches, kept, beta, entries, begin, end)

        _share(accumulate, len(places.offsets), threads)

    def take(self, residual: Floats, k: int, unit: float, threads: int = 1) -> Payload:
        """The k largest coefficients of each chunk, out of the residual [N, 4096] (rule T3)."""
        chunks = len(residual)
        payload = _blank(chunks, k)
        kept = _point(residual, np.float32, chunks * SLOTS)
        midpoints = _point(SCALE_MIDPOINTS, np.float32, 255)
        values = _point(SCALE_VALUES, np.int32, 256)
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
        old, new = (_point(row, np.float32, places.size) for row in (before, after))
        offsets, pitches = _point_places(places)
        ks = np.array([payload.k for payload in listed], dtype=np.int32)
        arrays = [_point_to(payload, chunks) for payload in listed]
        slots, negative, scales = (
            (ctypes.c_void_p * len(listed))(*pointers) for pointers in zip(*arrays, strict=True)
        )
        values = _point(SCALE_VALUES, np.int32, 256)
        entries = _point(basis, np.float32, ENTRIES)

        def apply(begin: int, end: int) -> None:
            energies = np.empty(len(listed), dtype=np.int64)
            self._apply(
                *(old, new, offsets, pitches),
                *(
                    len(listed),
                    _point(ks, np.int32, len(listed)),
                    slots,
                    negative,
                    scales,
                    values,
                    entries,
                ),
                *(step.lr, step.decay, energies.ctypes.data, begin, end),
            )

        _share(apply, chunks, threads)

    def encode_payload(self, payload: Payload, schema: Schema) -> bytes:
        """As demo_protocol.payload.encode_payload. Raises LocalFault for slots out of order."""
        k, chunks = payload.k, schema.chunks
        raw = np.empty(payload_bytes_range(schema, k).stop - 1, dtype=np.uint8)
        raw[:PREFIX_BYTES] = (PAYLOAD_VERSION, k & 0xFF, k >> 8)
        unary_at = PREFIX_BYTES + fixed_bytes(schema, k)
        arrays = _point_to(payload, chunks)
        end = self._pack(*arrays, chunks, k, rice_bits(k), raw.ctypes.data, PREFIX_BYTES, unary_at)
        if end < 0:
            raise LocalFault("payload: its positions do not ascend")
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
    if choice == "torch":
        return None
    levels = list_usable_levels()
    if choice and choice not in levels:
        usable = " or ".join(["torch", *levels])
        raise ConfigError(f"{CHOICE}={choice}: no such build runs here; name {usable}")
    return Codec(ctypes.CDLL(str(LIBRARY)), choice or levels[-1]) if levels else None


def list_usable_levels() -> list[str]:
    """Builds that this processor can run, the fastest last. None of a library of other sources:
    its functions could take other arguments."""
    if sys.byteorder != "little" or not LIBRARY.exists():
        return []
    try:
        library = ctypes.CDLL(str(LIBRARY))
        library.level.restype = library.sources.restype = ctypes.c_char_p
        best, sources = library.level().decode(), library.sources().decode()
    except (OSError, AttributeError):
        return []
    names = list(list_levels())
    if sources != hash_sources() or best not in names:
        return []
    return names[: names.index(best) + 1]


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


def _point(array: npt.NDArray[Any], dtype: npt.DTypeLike, size: int) -> int:
    """Its address, once sure that there are `size` elements of this type one after the other."""
    assert array.flags.c_contiguous, "the codec reads contiguous arrays"
    assert array.dtype == dtype, "the codec was given an array of another type"
    assert array.size == size, "the codec was given an array of another size"
    return array.ctypes.data


def _point_to(payload: Payload, chunks: int) -> tuple[int, int, int]:
    """Addresses of its three arrays."""
    return (
        _point(payload.positions, np.uint16, chunks * payload.k),
        _point(payload.negative, np.bool_, chunks * payload.k),
        _point(payload.scales, np.uint8, chunks),
    )


def _blank(chunks: int, k: int) -> Payload:
    return Payload(
        k=k,
        positions=np.empty((chunks, k), dtype=np.uint16),
        negative=np.empty((chunks, k), dtype=np.bool_),
        scales=np.empty(chunks, dtype=np.uint8),
    )


def _point_places(places: Places) -> tuple[int, int]:
    """Addresses of its two arrays."""
    chunks = len(places.offsets)
    return (
        _point(places.offsets, np.int64, chunks),
        _point(places.pitches, np.int32, chunks),
    )


def _share(work: Callable[[int, int], None], chunks: int, threads: int) -> None:
    """Call `work` for parts of the chunks; the library holds no lock of Python's meanwhile.

    Whatever happens, nobody works any more when this returns: arrays may be freed then.
    """
    count = max(min(threads, chunks), 1)
    bounds = [chunks * part // count for part in range(count + 1)]
    with ThreadPoolExecutor(count) as pool:
        for done in [pool.submit(work, *part) for part in itertools.pairwise(bounds)]:
            done.result()
