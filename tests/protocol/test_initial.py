"""Rule E1: state 0 from integers, the same on every processor."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from demo_protocol.digest import compute_digest
from demo_protocol.initial import compute_initial_state
from demo_protocol.presets import PRESETS
from demo_protocol.schema import compute_schema

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "state0.json").read_bytes())
TINY = compute_schema(PRESETS["tiny"].model)
CAPABILITIES = ["default", "avx2", "avx512"]

IN_A_PROCESS_OF_ITS_OWN = """
import torch
from demo_node.learn.digest import compute_digest, known_answer
from demo_protocol.initial import compute_initial_state
from demo_protocol.presets import PRESETS
from demo_protocol.schema import compute_schema
schema = compute_schema(PRESETS["tiny"].model)
state = {n: torch.from_numpy(t) for n, t in compute_initial_state(schema, 7).items()}
print(torch.backends.cpu.get_cpu_capability().lower())
print(compute_digest(state).hex(), known_answer(torch.device("cpu")))
"""


@pytest.mark.parametrize("case", VECTORS, ids=lambda case: f"{case['preset']}-{case['seed']}")
def test_e1_state_0_is_a_constant(case: dict[str, object]) -> None:
    schema = compute_schema(PRESETS[str(case["preset"])].model)
    state = compute_initial_state(schema, int(str(case["seed"])))
    assert compute_digest(state).hex() == case["digest"]
    found = {n: hashlib.sha256(t.astype("<f4").tobytes()).hexdigest() for n, t in state.items()}
    assert found == case["sha256"]


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_e1_state_0_and_the_known_answer_hold_under_each_cpu_kernel(capability: str) -> None:
    best = torch.backends.cpu.get_cpu_capability().lower()
    if best not in CAPABILITIES or CAPABILITIES.index(capability) > CAPABILITIES.index(best):
        pytest.skip(f"this processor has no {capability}")
    done = subprocess.run(
        [sys.executable, "-c", IN_A_PROCESS_OF_ITS_OWN],
        env={"ATEN_CPU_CAPABILITY": capability, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    expected = next(c["digest"] for c in VECTORS if (c["preset"], c["seed"]) == ("tiny", 7))
    assert done.stdout.split() == [capability, expected, "True"]


def test_matrices_fill_their_range_evenly_and_norms_are_one() -> None:
    state = compute_initial_state(TINY, 3)
    for spec in TINY.tensors:
        tensor = state[spec.name]
        if spec.init_bits is None:
            assert (tensor == 1).all()
            continue
        bound = 2.0**-spec.init_bits
        assert -bound <= tensor.min() < -0.99 * bound
        assert 0.99 * bound < tensor.max() < bound
        assert abs(tensor.mean()) < 0.05 * bound
        assert tensor.std() == pytest.approx(bound / 3**0.5, rel=0.03)


def test_seeds_and_tensors_have_streams_of_their_own() -> None:
    one, two = compute_initial_state(TINY, 1), compute_initial_state(TINY, 2)
    query, key = "layers.0.attention.query.weight", "layers.0.attention.key.weight"
    for a, b in ((one[query], two[query]), (one[query], one[key])):
        assert abs(np.corrcoef(a.reshape(-1), b.reshape(-1))[0, 1]) < 0.06
