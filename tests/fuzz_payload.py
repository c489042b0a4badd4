"""Payloads from a hostile peer, by the million: both decoders, the one in C under sanitizers.

    python -m tests.fuzz_payload --runs 1000000      make fuzz: the same

atheris makes the inputs, led by the branches of both decoders. Of an input the first byte chooses
a case (a schema, and a sound prefix for some k), the rest goes behind that prefix. Half of the new
inputs are valid payloads with some damage done to them; the others are atheris' own mutations of
what it found interesting. For each must hold: nothing but Reject is raised; both decoders take it,
for the same arrays, or both refuse it; what is taken encodes to the same bytes; memory stays below
a multiple of the payload's length; no read or write out of bounds, no undefined arithmetic in C.

What breaks that is left in .scratch/fuzz/, as are the inputs worth keeping, with which the next
run begins. Name such a file to play it alone.
"""

import argparse
import ctypes
import functools
import importlib
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import tracemalloc
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np

from demo_node.native import Codec
from demo_node.native.build import LIBRARY as COMPILED
from demo_node.native.build import build, list_levels
from demo_protocol import payload as reference
from demo_protocol.errors import Reject
from demo_protocol.payload import PAYLOAD_VERSION, PREFIX_BYTES, Payload
from demo_protocol.schema import SLOTS, Schema, TensorSpec, build_schema

FOLDER: Final = Path(__file__).parents[1] / ".scratch" / "fuzz"

LIBRARY: Final = "DEMO_FUZZ_LIBRARY"
"""Environment variable of the process that fuzzes: the codec, compiled for it."""

FLAGS: Final = (
    *("-std=gnu11", "-O1", "-g", "-fPIC", "-fvisibility=hidden", "-fno-omit-frame-pointer"),
    *("-fsanitize=address,undefined,fuzzer-no-link", "-fno-sanitize-recover=all"),
)

INPUT_BYTES_MAX: Final = 8 << 10

BYTES_PER_BYTE: Final = {"python": 160, "c": 16}
"""Memory that decoding may take for each byte of the payload, numpy's arrays included. Of k 4096 a
coefficient has two bits; in Python it takes five numbers of 8 bytes at most, in C 3 bytes."""

BYTES_BESIDE: Final = 16 << 10
"""And beside that: Python's own objects."""

MEASURED_EVERY: Final = 32
"""Of so many inputs the memory of one is measured, chosen by its bytes: tracemalloc takes time, and
leaks a kilobyte whenever it is stopped."""

ALLOCATION_MB: Final = 4
"""No single allocation, for any input, is larger: libFuzzer sees all."""

VALID_KEPT: Final = 32
"""Valid payloads of each case that damage is done to."""


@dataclass(frozen=True, slots=True)
class Case:
    """Payloads with k coefficients a chunk; k = 0: the input brings its own prefix."""

    schema: Schema
    k: int

    @property
    def prefix(self) -> bytes:
        """What is put before the input."""
        return bytes([PAYLOAD_VERSION]) + self.k.to_bytes(2, "little") if self.k else b""


ONE: Final = build_schema([TensorSpec("a", (64, 64))])
FIVE: Final = build_schema([TensorSpec("a", (100, 70)), TensorSpec("b", (5,))])
FORTY: Final = build_schema([TensorSpec("a", (64 * 13, 64 * 3)), TensorSpec("b", (7,))])

CASES: Final = (
    *(Case(ONE, k) for k in (1, 2, 3, 8, 32, 500, 1365, 2047, 2048, 4095, 4096)),
    *(Case(FIVE, k) for k in (1, 3, 4, 7, 8, 31, 32, 33, 128)),
    *(Case(FORTY, k) for k in (1, 8, 32)),
    *(Case(schema, 0) for schema in (ONE, FIVE, FORTY)),
)


def main() -> int:
    """Compile, and fuzz in a process into which the sanitizers are loaded; its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz_payload")
    parser.add_argument("--runs", type=int, default=1_000_000, help="inputs; 1000000")
    parser.add_argument("--seed", type=int, default=0, help="of atheris' dice; 0 throws new ones")
    parser.add_argument("inputs", nargs="*", type=Path, help="files to play, and nothing else")
    asked = parser.parse_args()
    if LIBRARY in os.environ:
        return fuzz(asked.runs, asked.seed, asked.inputs)
    compiler = shutil.which("clang")
    if compiler is None or find_spec("atheris") is None:
        sys.stderr.write(
            "fuzzing needs clang and atheris: sudo apt-get install clang;"
            f" {sys.executable} -m pip install atheris\n"
        )
        return 2
    with tempfile.TemporaryDirectory(prefix="demo-fuzz-") as folder:
        library = Path(folder) / "codec.so"
        build([compiler], FLAGS, library)
        preloaded = [str(Path(_atheris().path()) / "asan_with_fuzzer.so")]
        options = "detect_leaks=0:quarantine_size_mb=16"
        if not asked.inputs:
            # A preloaded libFuzzer finds only a mutator that is preloaded, too (atheris' issue 54).
            # With that no symbolizer starts: stacks have names once a file is played alone.
            preloaded.append(_find_mutator())
            options += ":symbolize=0"
        environment = {
            **os.environ,
            LIBRARY: str(library),
            "LD_PRELOAD": " ".join(preloaded),
            "ASAN_OPTIONS": options,
            "PYTHONMALLOC": "malloc",  # else many objects lie side by side in one allocation
        }
        command = [sys.executable, "-m", "tests.fuzz_payload", *sys.argv[1:]]
        return subprocess.run(command, env=environment).returncode


def fuzz(runs: int, seed: int, inputs: list[Path]) -> int:
    """Let atheris make `runs` inputs. Does not return: libFuzzer ends the process."""
    atheris = _atheris()
    for function in (
        *(reference.decode_payload, reference.check_prefix, reference._read_unary),
        *(Codec.decode_payload, judge),
    ):
        atheris.instrument_func(function)
    (FOLDER / "corpus").mkdir(parents=True, exist_ok=True)
    if inputs:
        runs = 1  # of each
    told = Told(len(inputs) or runs)
    options = [
        *(f"-runs={runs}", f"-seed={seed}", f"-max_len={INPUT_BYTES_MAX}"),
        *(f"-malloc_limit_mb={ALLOCATION_MB}", "-rss_limit_mb=1024", "-timeout=10"),
        *("-detect_leaks=0", "-reload=0", f"-artifact_prefix={FOLDER}/"),
        *([str(path) for path in inputs] or [str(FOLDER / "corpus")]),
    ]
    atheris.Setup(
        ["fuzz", *options],
        lambda data: check(bytes(data), told),
        custom_mutator=functools.partial(mutate, told=told),
    )
    atheris.Fuzz()
    return 0


class Told:
    """What is told at the end."""

    def __init__(self, runs: int) -> None:
        self.runs = runs
        self.begin_s = time.monotonic()
        self.inputs = self.made_valid = 0
        self.verdicts: Counter[str] = Counter()
        self.peaks = {"python": 0, "c": 0}
        """Most bytes that one payload took."""
        self.longest = 0

    def tell(self) -> None:
        """Some lines, once all inputs were judged."""
        if self.inputs != self.runs:
            return
        seconds = time.monotonic() - self.begin_s
        process_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        lines = [
            f"{self.inputs} inputs in {seconds:.0f} s, {time.process_time():.0f} of a processor;"
            f" load {os.getloadavg()[0]:.1f}",
            f"{self.made_valid:9}  made of valid payloads",
            *(f"{count:9}  {verdict}" for verdict, count in self.verdicts.most_common()),
            f"the longest payload has {self.longest} bytes; memory at most: to decode in Python"
            f" {self.peaks['python'] >> 10} KiB, in C {self.peaks['c'] >> 10} KiB; the process"
            f" {process_mb} MiB",
        ]
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()


def check(data: bytes, told: Told) -> None:
    """All that must hold of one input. Raises AssertionError."""
    case = CASES[(data[0] if data else 0) % len(CASES)]
    raw = case.prefix + data[1:]
    codec = find_codecs()[len(raw) % len(find_codecs())]
    k_max = case.k or SLOTS
    expected = judge("python", raw, reference.decode_payload, case.schema, k_max, told)
    found = judge("c", raw, codec.decode_payload, case.schema, k_max, told)
    if isinstance(expected, Payload) and isinstance(found, Payload):
        assert_equal(found, expected)
        assert (np.diff(expected.positions.astype(int), prepend=-1, axis=1) > 0).all()
        assert (expected.positions < SLOTS).all()
        assert reference.encode_payload(expected) == raw
        assert codec.encode_payload(found, case.schema) == raw
        told.verdicts["taken"] += 1
    else:
        assert isinstance(expected, str), f"only C refuses it: {found}"
        assert isinstance(found, str), f"only Python refuses it: {expected}"
        told.verdicts[f"refused: {expected}"] += 1
    told.inputs += 1
    told.longest = max(told.longest, len(raw))
    told.tell()


def judge(
    by: str,
    raw: bytes,
    decode: Callable[[bytes, Schema, int], Payload],
    schema: Schema,
    k_max: int,
    told: Told,
) -> Payload | str:
    """The payload, or in general words why it was refused."""
    verdict: Payload | str
    is_measured = zlib.crc32(raw) % MEASURED_EVERY == 0
    if is_measured:
        tracemalloc.start()
    try:
        verdict = decode(raw, schema, k_max)
    except Reject as error:
        verdict = " ".join(word for word in str(error).split() if not word.isdigit())
    if is_measured:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        told.peaks[by] = max(told.peaks[by], peak)
        bound = BYTES_PER_BYTE[by] * len(raw) + BYTES_BESIDE
        assert peak <= bound, f"{peak} bytes of memory for a payload of {len(raw)}"
    return verdict


def assert_equal(found: Payload, expected: Payload) -> None:
    """The same arrays, of the same types."""
    assert found.k == expected.k
    for mine, theirs in (
        (found.positions, expected.positions),
        (found.negative, expected.negative),
        (found.scales, expected.scales),
    ):
        assert mine.dtype == theirs.dtype
        assert np.array_equal(mine, theirs)


@functools.cache
def find_codecs() -> tuple[Codec, ...]:
    """One for each level that this processor can run."""
    library = ctypes.CDLL(os.environ.get(LIBRARY, str(COMPILED)))
    library.level.restype = ctypes.c_char_p
    names = list(list_levels())
    able = names[: names.index(library.level().decode()) + 1]
    return tuple(Codec(library, name) for name in able)


# --- making inputs -------------------------------------------------------------------------------


def mutate(data: bytes, size_max: int, seed: int, *, told: Told) -> bytes:
    """The next input: half of them valid payloads with damage, whatever `data` was."""
    if seed % 2:
        room = ctypes.create_string_buffer(data, size_max)
        # Not by atheris.Mutate, which knows nothing of a libFuzzer that was preloaded.
        size = find_libfuzzer().LLVMFuzzerMutate(room, len(data), size_max)
        return room.raw[:size]
    told.made_valid += 1
    dice = random.Random(seed)
    at = dice.randrange(len(CASES))
    case = CASES[at] if CASES[at].k else Case(CASES[at].schema, dice.choice([1, 5, 32, 64]))
    raw = bytearray(make_valid(case.schema, case.k, dice.randrange(VALID_KEPT)))
    for _ in range(dice.choice([0, 1, 1, 2, 4])):
        dice.choice(DAMAGES)(raw, PREFIX_BYTES if CASES[at].k else 0, dice)
    return (bytes([at]) + raw[len(CASES[at].prefix) :])[:size_max]


@functools.cache
def find_libfuzzer() -> ctypes.CDLL:
    """It was preloaded, so its functions are the process' own."""
    return ctypes.CDLL(None)


@functools.cache
def make_valid(schema: Schema, k: int, seed: int) -> bytes:
    """A payload: positions uniform, or all at one end; scales alike, or any."""
    dice = np.random.default_rng(seed)
    positions = np.sort(np.argsort(dice.random((schema.chunks, SLOTS)), axis=1)[:, :k], axis=1)
    if seed % 4 == 1:
        positions[:] = np.arange(k) + (SLOTS - k if seed % 8 == 1 else 0)
    spread = 256 if seed % 3 == 1 else 3
    return reference.encode_payload(
        Payload(
            k=k,
            positions=positions.astype(np.uint16),
            negative=dice.random((schema.chunks, k)) < 0.5,
            scales=dice.integers(0, spread, schema.chunks).astype(np.uint8),
        )
    )


Damage = Callable[[bytearray, int, random.Random], None]


def flip_bit(raw: bytearray, first: int, dice: random.Random) -> None:
    """One, from byte `first` on."""
    if len(raw) > first:
        raw[dice.randrange(first, len(raw))] ^= 1 << dice.randrange(8)


def move_bits(raw: bytearray, first: int, dice: random.Random) -> None:
    """Put a zero or a one in, or leave a bit out: all codes behind it move."""
    if len(raw) <= first:
        return
    at = dice.randrange(8 * first, 8 * len(raw))
    bits = int.from_bytes(raw, "little")
    low, high = bits & ((1 << at) - 1), bits >> at
    kind = dice.randrange(3)
    high = high >> 1 if kind == 2 else high << 1 | kind
    raw[:] = (high << at | low).to_bytes(len(raw) + 1, "little")[: len(raw) + (kind != 2)]


def swap_for_run(raw: bytearray, first: int, dice: random.Random) -> None:
    """Some bytes become zeros, ones, or others' bytes."""
    at = dice.randrange(first, len(raw) + 1)
    count = dice.choice([1, 2, 8, 9, 64])
    run = dice.choice([b"\0", b"\xff", b"\x80", b"\1"]) * count
    raw[at : at + count] = run[: max(0, len(raw) - at)]


def cut_or_go_on(raw: bytearray, first: int, dice: random.Random) -> None:
    """The end comes some bytes early or late."""
    if dice.randrange(2):
        del raw[max(first, len(raw) - dice.randrange(1, 10)) :]
    else:
        raw += dice.choice([b"\0", b"\xff", b"\x80"]) * dice.randrange(1, 10)


def double(raw: bytearray, first: int, dice: random.Random) -> None:
    """A piece of it comes twice, in place of what was there."""
    at, to = (dice.randrange(first, len(raw) + 1) for _ in range(2))
    piece = raw[at : at + dice.randrange(1, 40)][: max(0, len(raw) - to)]
    raw[to : to + len(piece)] = piece


DAMAGES: Final[tuple[Damage, ...]] = (flip_bit, move_bits, swap_for_run, cut_or_go_on, double)


def _find_mutator() -> str:
    """By which atheris calls `mutate`."""
    spec = find_spec("atheris.custom_mutator")
    assert spec is not None
    assert spec.origin is not None
    return spec.origin


def _atheris() -> Any:
    return importlib.import_module("atheris")


if __name__ == "__main__":
    sys.exit(main())
