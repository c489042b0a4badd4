"""A new run's manifest from a preset and a few choices. Used by `init` and by the swarm."""

from dataclasses import replace

from demo_protocol.errors import ConfigError
from demo_protocol.manifest import Agreement, Data, Learning, Manifest, validate_manifest
from demo_protocol.presets import PRESETS
from demo_protocol.schedule import BPS, Schedule

TRAIN_BPS, CONTRIBUTE_BPS, PROPOSE_BPS = 5_500, 2_000, 1_500
"""Settling has the remaining tenth of a round."""

OVERLAP_BPS = 1_000, 5_500, 2_000
"""The same where the next round trains meanwhile: nearly all of a round is there for its exchange.
Settling has 15 %, and the tenth of the next round before whose end its update is wanted."""

HOUR_MS = 3_600_000

SHORT_ROUNDS = 100
"""Up to here a run is short; 40 rounds were tried."""


def plan_schedule(genesis_ms: int, round_ms: int, overlap: int = 0) -> Schedule:
    """Phases and proposer slots for rounds of this length, of which so many train at once.

    Longer rounds mean slower networks and more members: they get more proposer slots. The last
    slot begins at 4/9 of the propose phase, which leaves its proposal the larger part of it.
    """
    phases = OVERLAP_BPS if overlap else (TRAIN_BPS, CONTRIBUTE_BPS, PROPOSE_BPS)
    train_bps, contribute_bps, propose_bps = phases
    propose_ms = round_ms * propose_bps // BPS
    slots = 2 if round_ms < 10_000 else 3 if round_ms < 30_000 else 4
    return Schedule(
        genesis_ms=genesis_ms,
        round_ms=round_ms,
        train_bps=train_bps,
        contribute_bps=contribute_bps,
        propose_bps=propose_bps,
        slots=slots,
        slot_offset_ms=propose_ms * 4 // (9 * (slots - 1)),
        skew_max_ms=min(1_000, round_ms // 60),
    )


def plan_run(
    *,
    name: str,
    seed: int,
    preset: str,
    schedule: Schedule,
    data: Data,
    rounds: int = 0,
    overlap: int = 0,
) -> Manifest:
    """A manifest that makes a working run. Raises ConfigError where the choices make none.

    A run of known length, in `rounds`, gets a learning rate that falls over it.
    """
    if preset not in PRESETS:
        raise ConfigError(f"{preset!r} is no preset; there are {', '.join(PRESETS)}")
    defaults = Agreement()
    # Rule 7: voters are remembered for an hour, in rounds, if that is more than the default.
    forget_rounds = max(defaults.forget_rounds, -(-HOUR_MS // schedule.round_ms))
    manifest = Manifest(
        name=name,
        seed=seed,
        schedule=schedule,
        agreement=Agreement(forget_rounds=forget_rounds, overlap_rounds=overlap),
        model=PRESETS[preset].model,
        learning=_plan_learning(PRESETS[preset].learning, rounds),
        data=data,
    )
    validate_manifest(manifest)
    return manifest


def _plan_learning(learning: Learning, rounds: int) -> Learning:
    """A learning rate that falls to the end; in a short run larger steps, steadier gradients.

    The latter by trial, over 40 rounds of dozens of local steps: docs/benchmarks.md.
    """
    falling = replace(learning, lr_decay_rounds=rounds)
    if not 0 < rounds <= SHORT_ROUNDS:
        return falling
    return replace(falling, lr_ppb=2 * learning.lr_ppb, micro_batch=2 * learning.micro_batch)
