"""The full mix of faults breaks nothing; the standard churn costs next to no rounds."""

from collections import Counter
from dataclasses import replace

import pytest

from demo_node.sim.scenario import Scenario, churn, standard_mix
from demo_node.sim.simulation import Report, simulate
from tests.simulate.stages import sized


def check(scenario: Scenario, seed: int) -> Report:
    report = simulate(scenario, seed)
    assert not report.violations, (report.violations, *report.transcript)
    return report


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 7))
def test_the_full_mix_breaks_nothing(seed: int) -> None:
    report = check(sized(standard_mix(), 24, 40), seed)
    assert report.rounds == 40
    assert report.records >= 20  # a third of the nodes may be gone for rounds
    assert report.faults.total() > 40
    born = report.nodes + report.comings["join"]
    assert report.liars == born // 5
    assert report.finals > 0


OFTEN = replace(standard_mix().mix, cut=0.2, mass_leave=0.1, slow=0.1, full_disk=0.02)
"""As often as it takes to happen within a few rounds."""


@pytest.mark.slow
def test_over_some_seeds_everything_of_the_mix_happens() -> None:
    faults: Counter[str] = Counter()
    scenario = sized(standard_mix(), 14, 20)
    for seed in range(1, 9):
        report = check(replace(scenario, mix=OFTEN), seed)
        faults += report.faults
    assert set(faults) == {
        "clock",
        "crash",
        "full_disk",
        "hang",
        "leave",
        "liar",
        "mass_leave",
        "one_way_cut",
        "partial_cut",
        "power_cut",
        "slow",
        "trainer_dies",
        "two_way_cut",
    }


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_under_the_standard_churn_most_rounds_get_a_record(seed: int) -> None:
    report = check(sized(churn(), 30, 40), seed)
    assert report.records >= 38
    assert report.faults["leave"] + report.faults["crash"] > 20
    assert report.nodes_at_end > 20  # as many come as go


def test_churn_with_contributors_drawn_keeps_going() -> None:
    report = check(replace(sized(churn(), 30, 40), contributors=8), 1)
    assert report.records >= 38
    assert 5 < report.contributors <= 12
