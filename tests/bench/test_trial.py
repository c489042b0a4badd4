"""What the rows of a table have in common, and in what they differ."""

import pytest

from demo_node.bench.trial import Length, Trial, What, plan_manifest, plan_trials
from demo_protocol.errors import ConfigError
from demo_protocol.manifest import Data, compute_run_id
from demo_protocol.presets import PRESETS

DATA = Data(kind="stdlib-bytes", root="00" * 32, train_bytes=10_000, heldout_bytes=1_000)


def trials(**changes: int) -> list[Trial]:
    return plan_trials(
        whats=list(What),
        nodes=(1, 4, 8),
        length=Length(rounds=30, micro_batches=5),
        preset="tiny",
        changes=changes,
    )


def test_a_table_has_swarms_of_every_size_and_the_baselines() -> None:
    names = [trial.name for trial in trials()]
    assert names == ["swarm-1", "swarm-4", "swarm-8", "plain-1", "accumulate-4", "averaged-4"]


def test_all_rows_have_the_same_work_and_the_same_schedule() -> None:
    rows = [trial.learning for trial in trials()]
    assert {row.micro_batch for row in rows} == {PRESETS["tiny"].learning.micro_batch}
    assert {row.lr_decay_rounds for row in rows} == {30}
    assert {row.samples_start for row in rows} == {5 * rows[0].micro_batch}
    assert len({(row.lr_warmup_rounds, row.lr_final_bps) for row in rows}) == 1


def test_a_change_reaches_every_row() -> None:
    assert {trial.learning.clip_ppm for trial in trials(clip_ppm=500_000)} == {500_000}


def test_an_unknown_key_is_named() -> None:
    with pytest.raises(ConfigError, match="betta_ppm"):
        trials(betta_ppm=1)


def test_an_unusable_value_is_named() -> None:
    with pytest.raises(ConfigError, match=r"learning\.k"):
        plan_manifest(trials(k=0)[0], 0, DATA)


def test_a_seed_is_another_run() -> None:
    trial = trials()[0]
    assert len({compute_run_id(plan_manifest(trial, seed, DATA)) for seed in range(3)}) == 3
