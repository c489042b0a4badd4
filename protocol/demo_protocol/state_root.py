"""The Merkle root of a state, which every so many records name (rule 21).

Leaf 0 is what the chain says at the record, so that whoever starts there need not believe anybody
who is in; the others are the parameters, one tensor after the other in canonical order (rule E14),
fp32 little endian, in chunks of STATE_CHUNK_BYTES. Which records carry one: `carries_root`.
"""

from collections.abc import Sequence

from demo_protocol.answers import encode_chain_state
from demo_protocol.limits import STATE_CHUNK_BYTES
from demo_protocol.merkle import compute_leaf, compute_root
from demo_protocol.roster import ChainState


def compute_state_leaves(state: ChainState, parameter_leaves: Sequence[bytes]) -> tuple[bytes, ...]:
    """All leaves of the state at a record, from those of the parameters there."""
    return (compute_leaf(encode_chain_state(state)), *parameter_leaves)


def compute_state_root(state: ChainState, parameter_leaves: Sequence[bytes]) -> bytes:
    """The root of the state at a record, 32 bytes."""
    return compute_root(compute_state_leaves(state, parameter_leaves))


def count_leaves(parameters: int) -> int:
    """Leaves of a state of so many parameters."""
    return 1 - (-4 * parameters // STATE_CHUNK_BYTES)
