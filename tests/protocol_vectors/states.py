"""Vectors: a round's update, its learning rate, the digest and the Merkle root of a state."""

import hashlib
from typing import Any

import numpy as np
import torch

from demo_node.learn.exact import apply_update, compute_signs
from demo_protocol.answers import encode_chain_state
from demo_protocol.digest import compute_digest
from demo_protocol.fp32 import compute_step
from demo_protocol.limits import STATE_CHUNK_BYTES
from demo_protocol.merkle import compute_leaves, compute_root
from demo_protocol.payload import encode_payload
from demo_protocol.roster import genesis_state
from demo_protocol.scale import compute_unit_exponent
from demo_protocol.schema import TensorSpec, build_schema
from demo_protocol.state_root import compute_state_leaves, compute_state_root
from tests.learn.builders import CPU, make_payload, sum_votes
from tests.protocol_vectors.making import MANIFEST, RUN_ID

SHAPES = {"matrix": (64, 64), "vector": (3,)}

LARGE = 70_000
"""Elements: more than one chunk of a state."""


def pattern(count: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Element i has the bits (i * 2654435761 mod 2^32) & 0x3FFFFFFF: finite, all different."""
    numbers = np.arange(count, dtype=np.uint64) * np.uint64(2_654_435_761)
    return (numbers & np.uint64(0x3FFF_FFFF)).astype(np.uint32).view(np.float32)


def update_case() -> dict[str, Any]:
    """Three payloads of a matrix and a vector: votes, signs, and the parameters after them."""
    schema = build_schema(TensorSpec(name, shape) for name, shape in SHAPES.items())
    payloads = [make_payload(schema, k, k, code_min=100, code_max=180) for k in (3, 4, 5)]
    votes = sum_votes(payloads, schema).numpy()
    signs = compute_signs(payloads, schema, CPU).numpy()
    step = compute_step(MANIFEST.learning, 1)
    before = {name: torch.full(shape, 0.5) for name, shape in SHAPES.items()}
    after = {n: t.numpy() for n, t in apply_update(before, payloads, schema, step).items()}
    return {
        "tensors": SHAPES,
        "payloads": [encode_payload(payload).hex() for payload in payloads],
        "votes": [
            {str(slot): int(chunk[slot]) for slot in np.flatnonzero(chunk)}
            for chunk in votes.reshape(schema.chunks, -1)
        ],
        "signs": [
            "".join("-0+"[s + 1] for s in chunk) for chunk in signs.reshape(schema.chunks, -1)
        ],
        "round": 1,
        "lr_bits": step.lr_bits,
        "decay_bits": step.decay_bits,
        "parameters_before": "0.5 everywhere",
        "sha256_after": {n: hashlib.sha256(t.tobytes()).hexdigest() for n, t in after.items()},
        "digest_after": compute_digest(after).hex(),
        "unit_exponent": compute_unit_exponent(MANIFEST.learning),
        "learning_rates": {
            str(round_): [step.lr_bits, step.decay_bits]
            for round_ in (0, 1, 2, 3, 1_000)
            for step in [compute_step(MANIFEST.learning, round_)]
        },
    }


def state_case() -> dict[str, Any]:
    """A state of two tensors in two chunks, with what the chain says at the genesis."""
    state = {"a": pattern(LARGE), "b": pattern(5)}
    text = b"".join(state[name].astype("<f4").tobytes() for name in sorted(state))
    leaves = compute_leaves(text, STATE_CHUNK_BYTES)
    chain_state = genesis_state(RUN_ID)
    return {
        "tensors": {name: len(tensor) for name, tensor in state.items()},
        "elements": pattern.__doc__,
        "digest": compute_digest(state).hex(),
        "digest of b alone": compute_digest({"b": state["b"]}).hex(),
        "chunk_bytes": STATE_CHUNK_BYTES,
        "chain_state": encode_chain_state(chain_state).hex(),
        "leaves": [leaf.hex() for leaf in compute_state_leaves(chain_state, leaves)],
        "root": compute_state_root(chain_state, leaves).hex(),
        "trees": {
            f"{blocks} blocks of 1": compute_root(compute_leaves(bytes(range(blocks)), 1)).hex()
            for blocks in (0, 1, 2, 3, 5)
        },
    }
