"""What one training is: who trains, for how long, from which manifest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any, Final

from demo_node.sim.whole.virtual_loop import EPOCH_MS
from demo_protocol.errors import ConfigError
from demo_protocol.manifest import Agreement, Data, Learning, Manifest, validate_manifest
from demo_protocol.presets import PRESETS
from demo_protocol.schedule import Schedule


class What(StrEnum):
    """Who trains."""

    SWARM = "swarm"
    """Nodes with the preset's learning: what `demo-node start` does."""
    PLAIN = "plain"
    """One machine with nothing but AdamW."""
    ACCUMULATE = "accumulate"
    """Nodes that send compressed gradients and take no local steps: DeMo as published."""
    AVERAGED = "averaged"
    """Machines that average all gradients at every step, as in a data centre."""


BASELINE_NODES: Final = 4

CHANGED: Final[dict[What, dict[str, Any]]] = {
    What.SWARM: {},
    What.PLAIN: {"inner_lr_ppb": 3_000_000, "inner_beta2_ppm": 990_000},
    What.ACCUMULATE: {"local": "accumulate", "lr_ppb": 6_000_000, "beta_ppm": 990_000},
    What.AVERAGED: {},
}
"""Where a baseline's best learning differs from the preset's (docs/benchmarks.md, "Trials")."""

SCHEDULE: Final = Schedule(
    genesis_ms=EPOCH_MS + 1_000,
    round_ms=3_000,
    train_bps=5_500,
    contribute_bps=2_000,
    propose_bps=1_500,
    slots=2,
    slot_offset_ms=200,
    skew_max_ms=50,
)
"""As `demo-node swarm` has it. Virtual time: how long a round is does not matter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Length:
    """How long every node trains."""

    rounds: int
    micro_batches: int  # of each node, in each round


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One row: the same training, with as many seeds as wanted."""

    what: What
    nodes: int
    length: Length
    preset: str
    learning: Learning

    @property
    def name(self) -> str:
        """Short and unique within a table."""
        return f"{self.what}-{self.nodes}"


def plan_trials(
    *,
    whats: Sequence[What],
    nodes: Sequence[int],
    length: Length,
    preset: str,
    changes: Mapping[str, int],
) -> list[Trial]:
    """The trials of a table. `changes` go on top of every row's learning. Raises ConfigError."""
    counts = {
        What.SWARM: tuple(nodes),
        What.PLAIN: (1,),
        What.ACCUMULATE: (BASELINE_NODES,),
        What.AVERAGED: (BASELINE_NODES,),
    }
    return [
        Trial(
            what=what,
            nodes=count,
            length=length,
            preset=preset,
            learning=_plan_learning(what, length, preset, changes),
        )
        for what in whats
        for count in counts[what]
    ]


def _plan_learning(what: What, length: Length, preset: str, changes: Mapping[str, int]) -> Learning:
    if unknown := changes.keys() - {field.name for field in fields(Learning)}:
        raise ConfigError(f"{', '.join(sorted(unknown))}: no key of the manifest's learning")
    # Every row has the same schedule: linear, down to a tenth in the last round.
    row = {"lr_decay_rounds": length.rounds, **CHANGED[what], **changes}
    learning = replace(PRESETS[preset].learning, **row)
    return replace(learning, samples_start=length.micro_batches * learning.micro_batch)


def plan_manifest(trial: Trial, seed: int, data: Data) -> Manifest:
    """The run of one seed: state 0 and, through the run id, the samples' order depend on it.

    Raises ConfigError where the trial's learning makes no working run.
    """
    manifest = Manifest(
        name=f"bench {trial.name}",
        seed=seed,
        schedule=SCHEDULE,
        agreement=Agreement(),
        model=PRESETS[trial.preset].model,
        learning=trial.learning,
        data=data,
    )
    validate_manifest(manifest)
    return manifest
