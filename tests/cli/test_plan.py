import click
import pytest

from demo_node.cli.init import parse_genesis
from demo_node.cli.plan import plan_run, plan_schedule
from demo_protocol.errors import ConfigError
from demo_protocol.manifest import Data
from demo_protocol.presets import PRESETS
from demo_protocol.schedule import settle_start_ms, train_end_ms

DATA = Data(kind="stdlib-bytes", root="0" * 64, train_bytes=1 << 20, heldout_bytes=1 << 16)


def test_rounds_of_three_seconds_have_the_slots_of_the_issue() -> None:
    schedule = plan_schedule(0, 3_000)
    assert (schedule.train_bps, schedule.contribute_bps, schedule.propose_bps) == (5500, 2000, 1500)
    assert (schedule.slots, schedule.slot_offset_ms) == (2, 200)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("round_ms", [100, 500, 3_000, 9_999, 10_000, 30_000, 60_000, 86_400_000])
def test_every_preset_and_length_makes_a_run(preset: str, round_ms: int) -> None:
    schedule = plan_schedule(1_800_000_000_000, round_ms)
    manifest = plan_run(name="x", seed=1, preset=preset, schedule=schedule, data=DATA)
    hour_in_rounds = 3_600_000 / round_ms
    assert manifest.agreement.forget_rounds >= max(400, hour_in_rounds)


def test_choices_that_make_no_run_are_refused() -> None:
    with pytest.raises(ConfigError, match="name"):
        plan_run(name="", seed=1, preset="tiny", schedule=plan_schedule(0, 3_000), data=DATA)
    with pytest.raises(ConfigError, match="'huge' is no preset"):
        plan_run(name="x", seed=1, preset="huge", schedule=plan_schedule(0, 3_000), data=DATA)


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("now", 5_000),
        ("+90", 95_000),
        ("+0.5", 5_500),
        ("1970-01-01T00:01:00+00:00", 60_000),
        ("1970-01-01T02:00:00+02:00", 0),
    ],
)
def test_genesis_is_read(text: str, ms: int) -> None:
    assert parse_genesis(text, 5_000) == ms


@pytest.mark.parametrize("text", ["", "+", "-5", "soon", "+1e3"])
def test_another_genesis_is_a_usage_error(text: str) -> None:
    with pytest.raises(click.BadParameter, match="neither now"):
        parse_genesis(text, 5_000)


@pytest.mark.parametrize(("rounds", "factor"), [(0, 1), (40, 2), (100, 2), (5_000, 1)])
def test_a_short_run_takes_larger_steps_and_any_with_an_end_slows_down(
    rounds: int, factor: int
) -> None:
    learning = plan_run(
        name="x", seed=1, preset="tiny", schedule=plan_schedule(0, 3_000), data=DATA, rounds=rounds
    ).learning
    usual = PRESETS["tiny"].learning
    assert learning.lr_decay_rounds == rounds
    assert learning.lr_ppb == factor * usual.lr_ppb
    assert learning.micro_batch == factor * usual.micro_batch


def test_where_rounds_overlap_nearly_all_of_one_is_there_for_its_exchange() -> None:
    schedule = plan_schedule(0, 10_000, overlap=1)
    manifest = plan_run(name="x", seed=1, preset="tiny", schedule=schedule, data=DATA, overlap=1)
    assert manifest.agreement.overlap_rounds == 1
    assert train_end_ms(schedule, 0) == 1_000
    assert settle_start_ms(schedule, 0) - train_end_ms(schedule, 0) == 7_500
