"""State 0 of a run, from integers alone (rule E1).

Library generators of normal numbers differ in their last bits between processors. Here an
element is (n - 2^23) * 2^-e with a 24-bit integer n: no rounding, no libm, the same everywhere.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from demo_protocol.prng import compute_stream_key, compute_words
from demo_protocol.schema import Schema, TensorSpec

_HALF: Final = 1 << 23


def compute_initial_state(schema: Schema, seed: int) -> dict[str, npt.NDArray[np.float32]]:
    """Parameters before the first round, by name, fp32 arrays of the schema's shapes.

    Matrices are uniform in [-2^-b, 2^-b) with b of their spec; norm weights are exactly 1.
    """
    return {spec.name: _initial_tensor(spec, seed) for spec in schema.tensors}


def _initial_tensor(spec: TensorSpec, seed: int) -> npt.NDArray[np.float32]:
    if spec.init_bits is None:
        return np.ones(spec.shape, dtype=np.float32)
    key = compute_stream_key(b"demo-node/state-0/1", seed.to_bytes(4, "little"), spec.name.encode())
    words = compute_words(key, np.arange(spec.size, dtype=np.uint32))
    integers = (words >> np.uint32(8)).astype(np.int32) - np.int32(_HALF)
    # Both factors and every product are exact: 24 significant bits times a power of two.
    unit = np.float32(2.0 ** -(23 + spec.init_bits))
    return (integers.astype(np.float32) * unit).reshape(spec.shape)
