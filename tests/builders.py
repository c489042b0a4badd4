"""Valid things to start a test from; each argument makes one of them different."""

from dataclasses import replace

from demo_node.sim.virtual_loop import EPOCH_MS
from demo_protocol.manifest import Agreement, Data, Learning, Manifest, Model
from demo_protocol.schedule import Schedule


def schedule(**changes: int) -> Schedule:
    """Three-second rounds, as `make swarm` has them."""
    usual = Schedule(
        genesis_ms=EPOCH_MS + 1_000,
        round_ms=3_000,
        train_bps=5_500,
        contribute_bps=2_000,
        propose_bps=1_500,
        slots=2,
        slot_offset_ms=200,
        skew_max_ms=100,
    )
    return replace(usual, **changes)


def manifest(
    *,
    schedule_: Schedule | None = None,
    agreement: Agreement | None = None,
    learning: Learning | None = None,
) -> Manifest:
    """A run of a model so small that payloads are a few hundred bytes."""
    return Manifest(
        name="test",
        seed=1,
        schedule=schedule_ or schedule(),
        agreement=agreement or Agreement(),
        model=Model(layers=1, width=64, hidden=64, heads=2, context=16),
        learning=learning or Learning(k=2, samples_start=8),
        data=Data(kind="stdlib-bytes", root="00" * 32, train_bytes=10_000, heldout_bytes=1_000),
    )
