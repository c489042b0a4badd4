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

from demo_node.native import list_usable_levels
from demo_protocol.digest import compute_digest
from tests.learn import oracle
from tests.learn.chain_digests import PLANTED, make_records, make_start

pytestmark = pytest.mark.slow

BUILDS = ["torch", *list_usable_levels()]

SETTINGS = {
    "as it comes": {},
    "oldest kernels": {
        "ATEN_CPU_CAPABILITY": "default",
        "MKL_CBWR": "COMPATIBLE",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "DEMO_CODEC": BUILDS[min(1, len(BUILDS) - 1)],
    },
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_CBWR": "AVX2,STRICT",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "DEMO_CODEC": BUILDS[len(BUILDS) // 2],
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
    assert len(found) == min(2, len(BUILDS)) * 2 * 2 * 3
    assert all(chain == expected() for chain in found)


def test_the_chain_would_notice_a_step_without_the_snap() -> None:
    payloads, step = make_records()[0]
    after = oracle.apply({n: t.numpy() for n, t in make_start().items()}, payloads, 0.0, step.decay)
    for name, tensor in make_start().items():
        start = tensor.numpy().reshape(-1).view(np.uint32)
        kept = after[name].reshape(-1).view(np.uint32) == start
        assert not kept[: min(len(PLANTED), len(kept))].all(), "nothing of it is snapped"
        assert kept[len(PLANTED) :].all()
