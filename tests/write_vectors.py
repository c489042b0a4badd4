"""Rewrite the golden vectors: python -m tests.write_vectors. The git diff is the review."""

import hashlib
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from demo_node.learn.exact import apply_update
from demo_protocol.assignment import (
    compute_intervals,
    compute_probation_samples,
    compute_samples,
)
from demo_protocol.digest import compute_digest
from demo_protocol.fp32 import Step
from demo_protocol.initial import compute_initial_state
from demo_protocol.payload import encode_payload
from demo_protocol.presets import PRESETS
from demo_protocol.schema import TensorSpec, build_schema, compute_schema
from tests.learn.builders import make_payload, make_schema, make_state
from tests.protocol_vectors.files import CASES, write_text

FOLDER = Path(__file__).parent / "vectors"


def payload_cases() -> list[dict[str, Any]]:
    """Payloads of odd and even k, whole and in bytes."""
    cases = []
    tensors = {"matrix": (65, 64), "vector": (3,)}
    schema = build_schema(TensorSpec(name, shape) for name, shape in tensors.items())
    for k in (1, 2, 7, 16, 32):
        payload = make_payload(schema, k, k)
        cases.append(
            {
                "tensors": tensors,
                "k": k,
                "positions": payload.positions.tolist(),
                "negative": payload.negative.astype(int).tolist(),
                "scales": payload.scales.tolist(),
                "bytes": encode_payload(payload).hex(),
            }
        )
    return cases


def state0_cases() -> list[dict[str, Any]]:
    """Digest of state 0, and the SHA-256 of every tensor's little-endian bytes."""
    cases = []
    for preset, seed in (("tiny", 7), ("tiny", 0), ("small", 2**32 - 1)):
        state = compute_initial_state(compute_schema(PRESETS[preset].model), seed)
        hashes = {
            n: hashlib.sha256(t.astype("<f4").tobytes()).hexdigest() for n, t in state.items()
        }
        cases.append(
            {
                "preset": preset,
                "seed": seed,
                "digest": compute_digest(state).hex(),
                "sha256": hashes,
            }
        )
    return cases


def apply_cases() -> list[dict[str, Any]]:
    """Records one after another: their payloads' bytes, the step, the digest after it."""
    schema = make_schema()
    state: Mapping[str, Tensor] = make_state(schema, 1)
    cases: list[dict[str, Any]] = []
    for record in range(4):
        payloads = [make_payload(schema, 4 + i, 10 * record + i) for i in range(record)]
        step = Step(lr_bits=0x3C23_D70A - record, decay_bits=0x3F80_0000 - record)
        state = apply_update(state, payloads, schema, step)
        cases.append(
            {
                "payloads": [encode_payload(payload).hex() for payload in payloads],
                "lr_bits": step.lr_bits,
                "decay_bits": step.decay_bits,
                "digest": compute_digest({n: t.numpy() for n, t in state.items()}).hex(),
            }
        )
    return cases


def assignment_case() -> dict[str, Any]:
    """Samples of an interval across the end of an epoch; intervals of a roster."""
    source = random.Random(1)
    numbers = list(range(995, 1010))
    run_id, root, key = source.randbytes(32), source.randbytes(32), source.randbytes(32)
    members = [
        (source.randbytes(32), source.randbytes(32), source.randint(1, 99)) for _ in range(5)
    ]
    intervals, cursor = compute_intervals(members, 12, 345)
    samples = compute_samples(run_id, root, 1000, np.array(numbers, dtype=np.int64))
    return {
        "run_id": run_id.hex(),
        "data_root": root.hex(),
        "total": 1000,
        "numbers": numbers,
        "samples": samples.tolist(),
        "round": 12,
        "cursor": 345,
        "members": [(p.hex(), k.hex(), n) for p, k, n in members],
        "intervals": {p.hex(): (i.first, i.count) for p, i in intervals.items()},
        "cursor_after": cursor,
        "probation_key": key.hex(),
        "probation": compute_probation_samples(key, 12, 1000, 0, 8).tolist(),
    }


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, vectors in (
        ("payload", payload_cases()),
        ("state0", state0_cases()),
        ("apply", apply_cases()),
        ("assignment", assignment_case()),
    ):
        (FOLDER / f"{name}.json").write_text(json.dumps(vectors, indent=1) + "\n")
    (FOLDER / "protocol").mkdir(exist_ok=True)
    for name in CASES:
        (FOLDER / f"protocol/{name}.json").write_text(write_text(name))
