"""PROTOCOL.md section 4: the same bits under every setting that changes how numbers are computed.

Each case is a process of its own, because libraries read these settings once; what can be changed
inside, tests/learn/chain_digests.py goes through. The expected digests are the integer oracle's.
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from demo_node.native.build import list_levels
from demo_protocol.digest import compute_digest
from tests.learn import oracle
from tests.learn.chain_digests import make_records, make_start
from tests.native.test_codec import LEVELS

pytestmark = pytest.mark.slow

SETTINGS = {
    "as it comes": {},
    "oldest kernels": {
        "ATEN_CPU_CAPABILITY": "default",
        "MKL_CBWR": "COMPATIBLE",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "DEMO_CODEC": LEVELS[0],
    },
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_CBWR": "AVX2,STRICT",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "DEMO_CODEC": LEVELS[len(LEVELS) // 2],
    },
    "ATen avx512, MKL sse": {
        "ATEN_CPU_CAPABILITY": "avx512",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "MKL_DEBUG_CPU_TYPE": "4",
    },
    "oneDNN may round to bf16": {"ONEDNN_DEFAULT_FPMATH_MODE": "BF16"},
}


def expected() -> list[str]:
    state = {name: tensor.numpy() for name, tensor in make_start().items()}
    digests = []
    for payloads, step in make_records():
        state = oracle.apply(state, payloads, step.lr, step.decay)
        digests.append(compute_digest(state).hex())
    return digests


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_chain_has_the_oracles_digests(setting: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.learn.chain_digests"],
        env={**os.environ, **SETTINGS[setting]},
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    found = json.loads(done.stdout)
    assert len(found) == 2 * 2 * 2 * 3
    assert all(chain == expected() for chain in found)


def test_the_levels_that_could_not_be_tried_are_those_of_other_processors() -> None:
    names = [name for name, _ in list_levels()]
    assert names[: len(LEVELS)] == LEVELS


def test_the_start_would_notice_flushing() -> None:
    words = np.concatenate(
        [t.numpy().reshape(-1)[:7].view(np.uint32) for t in make_start().values()]
    )
    subnormal = (words & 0x7F80_0000 == 0) & (words & 0x007F_FFFF != 0)
    assert subnormal.any()
