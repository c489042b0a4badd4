"""What once broke something is tried again: scenarios in tests/sim/seeds, each with its story."""

from pathlib import Path

import pytest

from demo_node.sim.scenario import read_scenario
from demo_node.sim.simulation import simulate
from tests.simulate.stages import SEEDS

FILES = sorted(SEEDS.glob("*.toml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_what_was_mended_stays_mended(file: Path) -> None:
    scenario = read_scenario(file)
    report = simulate(scenario, scenario.seed)
    assert not report.violations, (report.violations, *report.transcript)
    assert report.rounds == scenario.rounds
    assert 0 <= report.final_lag <= 12


def test_every_seed_names_the_commit_that_mended_it() -> None:
    assert FILES
    for file in FILES:
        story = file.read_text().partition("name =")[0]
        assert "Fixed by " in story, file.name
