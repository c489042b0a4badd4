"""Nobody misses rounds for want of uplink where k follows it; with a fixed k 128 slow links do."""

import pytest

from tests.sim.link_rates import K_MAX, run_links

ROUNDS, EACH = 24, 2
MISSED_MAX = 0.05


@pytest.mark.parametrize("seed", [1])
def test_with_k_by_the_uplink_nobody_misses_one_round_in_twenty(seed: int) -> None:
    outcomes = run_links(seed, 0, rounds=ROUNDS, each=EACH)
    for outcome in outcomes:
        assert outcome.missed <= MISSED_MAX * outcome.rounds, outcome
        # And it is no trick: the fast ones send all that the run allows.
        assert outcome.mbit < 10 or outcome.k[0] == K_MAX, outcome
        assert outcome.uplink_mbit == pytest.approx(2, rel=0.1) or outcome.mbit > 2


@pytest.mark.parametrize("seed", [1])
def test_with_a_fixed_k_slow_links_do(seed: int) -> None:
    outcomes = run_links(seed, K_MAX, rounds=ROUNDS, each=EACH)
    assert max(each.missed / each.rounds for each in outcomes if each.mbit == 2) > MISSED_MAX
