"""Payloads from hostile peers, and the codec under sanitizers: no access out of bounds."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from demo_node.native.build import LIBRARY, build
from tests import fuzz_payload
from tests.fuzz_payload import CASES, INPUT_BYTES_MAX, Told, check, mutate

ROOT = Path(__file__).parents[2]

FLAGS = (
    *("-std=gnu11", "-O1", "-g", "-fPIC", "-fvisibility=hidden"),
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
)


def find_runtime(name: str) -> str:
    """What gcc compiles calls into; a path only where it is installed."""
    command = ["gcc", f"-print-file-name={name}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_all_that_the_codec_does_is_sound(tmp_path: Path) -> None:
    """Its own tests, once more, with gcc's sanitizers looking on."""
    runtimes = [find_runtime(name) for name in ("libasan.so", "libubsan.so")]
    if not all(Path(path).is_absolute() for path in runtimes):
        pytest.skip("this gcc has no sanitizers")
    for folder in ("node", "protocol"):
        shutil.copytree(
            ROOT / folder,
            tmp_path / folder,
            ignore=shutil.ignore_patterns("__pycache__", LIBRARY.name),
        )
    build(["gcc"], FLAGS, tmp_path / LIBRARY.relative_to(ROOT))
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(tmp_path / folder) for folder in ("node", "protocol")),
        "LD_PRELOAD": " ".join(runtimes),
        "ASAN_OPTIONS": "detect_leaks=0",
        "PYTHONMALLOC": "malloc",  # else many objects lie side by side in one allocation
    }
    tests = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider"]
    played = subprocess.run(
        [*tests, "--timeout", "800", "tests/native/test_codec.py"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert played.returncode == 0, played.stdout + played.stderr


def test_hostile_payloads_are_refused_or_have_one_encoding() -> None:
    """Inputs of `make fuzz`, as far as they are made without atheris."""
    told = Told(runs=0)
    for seed in range(0, 4000, 2):
        check(mutate(b"", INPUT_BYTES_MAX, seed, told=told), told)
    assert told.inputs == told.made_valid == 2000
    assert min(told.peaks.values()) > 0, "no memory was measured"
    refused = sorted(verdict for verdict in told.verdicts if verdict != "taken")
    assert refused == [
        "refused: payload: a position is beyond the chunk's end",
        "refused: payload: a scale code is out of range",
        "refused: payload: bytes; to belong to k",
        "refused: payload: it has more or fewer codes than its k",
        "refused: payload: k is not in to",
        "refused: payload: spare bits are set",
        "refused: payload: unknown version",
    ]
    assert 0 < told.verdicts["taken"] < 1500


def test_every_valid_payload_that_is_damaged_is_valid() -> None:
    told = Told(runs=0)
    cases = [at for at, case in enumerate(CASES) if case.k]
    for at in cases:
        for seed in range(8):
            raw = fuzz_payload.make_valid(CASES[at].schema, CASES[at].k, seed)
            check(bytes([at]) + raw[len(CASES[at].prefix) :], told)
    assert told.verdicts == {"taken": 8 * len(cases)}
