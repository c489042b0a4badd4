"""What a simulated run begins with: a manifest, and a record at which everybody is a member.

A run of thousands could not be simulated from its first join: rule 6 lets an eighth in at a time.
"""

import hashlib
from dataclasses import replace

from demo_node.sim.keys import peer_name
from demo_protocol.identity import compute_key
from demo_protocol.manifest import Agreement, Data, Learning, Manifest, Model, validate_manifest
from demo_protocol.roster import GENESIS_ROUND, ChainState, Member, genesis_state
from demo_protocol.schedule import Schedule

EPOCH_MS = 1_700_000_000_000
"""Unix milliseconds at which every simulation begins. Any constant would do."""

HEIGHT = 64
"""Records behind the one everybody starts from: enough for finality (rule 19)."""


def plan_manifest(seed: int, *, contributors: int | None = None) -> Manifest:
    """Ten-second rounds of a model whose payloads have some fifty bytes."""
    agreement = Agreement()
    if contributors is not None:
        agreement = replace(agreement, contributors=contributors)
    manifest = Manifest(
        name="simulation",
        seed=seed % 2**32,
        schedule=Schedule(
            genesis_ms=EPOCH_MS + 1_000,
            round_ms=10_000,
            train_bps=5_500,
            contribute_bps=2_000,
            propose_bps=1_500,
            slots=3,
            slot_offset_ms=333,
            skew_max_ms=166,
        ),
        agreement=agreement,
        model=Model(layers=1, width=64, hidden=64, heads=2, context=16),
        learning=Learning(k=2, samples_start=8),
        data=Data(kind="stdlib-bytes", root="00" * 32, train_bytes=10_000_000, heldout_bytes=1_000),
    )
    validate_manifest(manifest)
    return manifest


def found(run_id: bytes, members: int) -> ChainState:
    """A record before round 0 at which nodes 0 to `members` - 1 are members; genesis for none."""
    genesis = genesis_state(run_id)
    if not members:
        return genesis
    record = hashlib.sha256(b"demo-node/simulated founding\0" + run_id).digest()
    return replace(
        genesis,
        record=record,
        parent=run_id,
        height=HEIGHT,
        known={name: _member(name, record) for name in map(peer_name, range(members))},
    )


def _member(name: bytes, record: bytes) -> Member:
    return Member(
        peer=name,
        key=compute_key(record, name),
        admitted_by=record,
        since_round=GENESIS_ROUND,
        credited_round=GENESIS_ROUND,
        included=3,
        left=False,
        samples=(),
        member_round=GENESIS_ROUND,
    )
