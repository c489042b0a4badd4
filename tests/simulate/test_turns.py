"""Contributors that are drawn, and rounds that overlap, under everything that can happen."""

from dataclasses import replace

import pytest

from demo_node.sim.invariants import SamplesOnce
from demo_node.sim.scenario import standard_mix
from demo_node.sim.simulation import simulate
from demo_protocol import roster
from demo_protocol.assignment import Interval
from demo_protocol.manifest import Manifest
from demo_protocol.roster import CANDIDATES_DRAWN
from tests.simulate.stages import QUIET, Stage, sized

OVERLAP = (("overlap_rounds", 1),)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(
    ("contributors", "agreement"),
    [(5, ()), (0, OVERLAP), (5, OVERLAP)],
    ids=["drawn", "overlap", "both"],
)
def test_the_full_mix_breaks_nothing(
    contributors: int, agreement: tuple[tuple[str, int | str], ...], seed: int
) -> None:
    mix = sized(standard_mix(), 20, 30)
    report = simulate(replace(mix, contributors=contributors, agreement=agreement), seed)
    assert not report.violations, (report.violations, *report.transcript)
    assert report.records >= 15
    if contributors:
        assert 0 < report.contributors <= contributors + CANDIDATES_DRAWN


@pytest.mark.parametrize("contributors", [0, 4])
def test_with_overlap_every_round_has_a_record_and_samples_are_looked_at(contributors: int) -> None:
    samples = SamplesOnce()
    quiet = replace(QUIET, rounds=14, contributors=contributors, agreement=OVERLAP)
    stage = Stage(quiet, samples)
    assert stage.run() == []
    heights = {actor.view.head_state.height for actor in stage.world.actors}
    assert heights == {stage.world.root.height + quiet.rounds}
    assert samples.checked >= (contributors or QUIET.nodes) * 10


def test_with_overlap_samples_that_are_dealt_twice_are_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def same_ones(
        state: roster.ChainState, peer: bytes, round_: int, manifest: Manifest
    ) -> tuple[Interval, bytes]:
        interval, key = roster.compute_interval(state, peer, round_, manifest)
        return Interval(interval.first % 64, interval.count), key

    monkeypatch.setattr("demo_protocol.round.compute_interval", same_ones)
    stage = Stage(replace(QUIET, contributors=0, agreement=OVERLAP), SamplesOnce())
    assert set(stage.run()) == {SamplesOnce.name}
