"""The plan of a killing swarm, and what its victims' rounds are made of."""

import itertools
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo_node.cli.plan import plan_schedule
from demo_node.cli.swarm.drive import compute_delay_ms, compute_poll_s
from demo_node.cli.swarm.faults import (
    KINDS,
    LEAST_MS,
    QUIET_MS,
    QUIET_ROUNDS,
    STARTING_MS,
    STOPPED_MS,
    plan_faults,
)
from demo_node.cli.swarm.inflicting import Suffered
from demo_node.cli.swarm.lives import (
    ROUNDS_AGAIN,
    ROUNDS_LOOKED_AT,
    Life,
    count_forks,
    count_joins,
    count_replayed,
    count_sent,
    merge_rounds,
)
from demo_node.cli.swarm.outcomes import compute_outcomes
from demo_node.sim.scenario import Do, Event
from demo_node.views import NodeState
from tests.cli.command import demo_node
from tests.control.fake_node import round_view, status_view


@dataclass(frozen=True)
class Fault:
    """An event of the plan, in milliseconds from genesis on."""

    at_ms: int
    node: int
    kind: Do
    lasts_ms: int


def plan_in_ms(seed: int, nodes: int, every_ms: int, rounds: int, round_ms: int) -> list[Fault]:
    def fault(event: Event) -> Fault:
        (node,) = event.nodes
        at_ms, lasts_ms = (event.round + event.at) * round_ms, event.rounds * round_ms
        assert event.at < 1
        return Fault(round(at_ms), node, event.do, round(lasts_ms))

    plan = plan_faults(seed=seed, nodes=nodes, every_ms=every_ms, rounds=rounds, round_ms=round_ms)
    return [fault(event) for event in plan]


PLANS = st.builds(
    lambda seed, nodes, every_ms, rounds, round_ms: (
        (nodes, every_ms, rounds * round_ms - max(QUIET_ROUNDS * round_ms, QUIET_MS)),
        plan_in_ms(seed, nodes, every_ms, rounds, round_ms),
    ),
    seed=st.integers(0, 2**32 - 1),
    nodes=st.integers(1, 9),
    every_ms=st.integers(1_000, 40_000),
    rounds=st.integers(1, 200),
    round_ms=st.integers(500, 10_000),
)


def issue_plan(seed: int = 0) -> list[Fault]:
    """`--kill-every 15` and nothing else."""
    return plan_in_ms(seed, nodes=4, every_ms=15_000, rounds=40, round_ms=3_000)


def life(pid: int, *rounds: int, **changes: object) -> Life:
    made = Life(pid)
    made.look(status_view(pid=pid, **changes), [round_view(r) for r in rounds])
    return made


def test_the_issues_plan_hurts_somebody_every_15_s_and_leaves_the_end_in_peace() -> None:
    faults = issue_plan()
    assert [fault.at_ms for fault in faults] == [15_000, 30_000, 45_000, 60_000, 75_000, 90_000]
    assert all(fault.at_ms + fault.lasts_ms <= 100_000 for fault in faults)
    for begin in (0, 3):
        assert {fault.kind for fault in faults[begin : begin + 3]} == set(KINDS)


def test_equal_seeds_give_equal_faults_and_others_do_not() -> None:
    assert issue_plan() == issue_plan()
    assert len({tuple(issue_plan(seed)) for seed in range(20)}) > 10


def test_every_node_is_hurt_in_some_plan_the_first_one_too() -> None:
    hurt = {fault.node for seed in range(20) for fault in issue_plan(seed)}
    assert hurt == {0, 1, 2, 3}


@given(PLANS)
def test_no_node_is_hurt_while_it_is_away_and_all_are_back_in_time(
    plan: tuple[tuple[int, int, int], list[Fault]],
) -> None:
    (nodes, every_ms, quiet_ms), faults = plan
    for fault in faults:
        assert 0 <= fault.node < nodes
        assert fault.at_ms % every_ms == 0
        assert fault.at_ms + LEAST_MS <= quiet_ms
        assert fault.at_ms + fault.lasts_ms <= quiet_ms
        assert (fault.lasts_ms == 0) == (fault.kind is Do.TRAINER_DIES)
        assert fault.lasts_ms <= STOPPED_MS
    for node in range(nodes):
        own = [fault for fault in faults if fault.node == node]
        for before, after in itertools.pairwise(own):
            starting_ms = STARTING_MS if before.kind is Do.KILL else 0
            assert before.at_ms + before.lasts_ms + starting_ms <= after.at_ms


@given(PLANS)
def test_at_least_half_of_the_nodes_stay(
    plan: tuple[tuple[int, int, int], list[Fault]],
) -> None:
    (nodes, _, _), faults = plan
    for fault in faults:
        away = {
            other.node
            for other in faults
            if other.at_ms <= fault.at_ms < other.at_ms + other.lasts_ms
        }
        assert len(away) <= max(nodes // 2, 1)


def test_a_run_too_short_to_hurt_anybody_is_refused() -> None:
    done = demo_node("swarm", "--rounds", "8", "--kill-every", "15")
    assert done.returncode == 2
    assert "--kill-every: the run is too short" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_what_a_killed_process_told_is_kept() -> None:
    first = life(100, 0, 1, 2, replayed_total=0, bytes_out=1_000, forks_total=2)
    second = life(101, 5, 6, replayed_total=5, bytes_out=300, forks_total=1)
    third = life(102, replayed_total=7, bytes_out=20, forks_total=0)
    lives = [first, second, third]
    assert [view.round for view in merge_rounds(lives)] == [0, 1, 2, 5, 6]
    assert count_replayed(lives) == 12
    assert count_sent(lives) == 1_320
    assert count_joins(lives) == 2
    assert count_forks(lives) == 3


def test_a_life_is_its_last_status_and_all_rounds_it_ever_showed() -> None:
    made = life(100, 0, 1, replayed_total=1)
    made.look(status_view(replayed_total=3), [round_view(1, included=False), round_view(2)])
    assert [view.round for view in merge_rounds([made])] == [0, 1, 2]
    assert not merge_rounds([made])[1].included
    assert count_replayed([made]) == 3


def test_rounds_are_looked_at_again_while_something_of_theirs_may_still_come() -> None:
    made = Life(100)
    assert made.count_asked(status_view(round=70)) == ROUNDS_LOOKED_AT  # nothing was seen of it
    made.look(status_view(round=70, state=NodeState.SYNCING), [])
    assert made.count_asked(status_view(round=71)) == ROUNDS_LOOKED_AT  # it was catching up
    made.look(status_view(round=71, forks_total=2), [])
    assert made.count_asked(status_view(round=71, forks_total=2)) == ROUNDS_AGAIN
    assert made.count_asked(status_view(round=74, forks_total=2)) == ROUNDS_AGAIN + 3
    assert made.count_asked(status_view(round=171, forks_total=2)) == ROUNDS_LOOKED_AT
    assert made.count_asked(status_view(round=71, forks_total=3)) == ROUNDS_LOOKED_AT


@pytest.mark.parametrize(("round_ms", "poll_s"), [(500, 0.5), (3_000, 0.5), (10_000, 1), (3e6, 2)])
def test_nodes_are_asked_some_times_a_round_and_no_slower_than_people_look(
    round_ms: int, poll_s: float
) -> None:
    assert compute_poll_s(plan_schedule(0, int(round_ms))) == poll_s


def test_a_later_life_does_not_overrule_what_an_earlier_one_saw() -> None:
    second = Life(101)
    second.look(status_view(), [round_view(1, included=False)])
    (view,) = merge_rounds([life(100, 1), second])
    assert view.included


def test_only_a_killed_node_that_takes_part_again_has_joined() -> None:
    never_answered = Life(102)
    syncing = life(101, state=NodeState.SYNCING)
    assert count_joins([life(100)]) == 0
    assert count_joins([life(100), syncing, never_answered]) == 0
    syncing.look(status_view(state=NodeState.ACTIVE), [])
    syncing.look(status_view(state=NodeState.DRAINING), [])
    assert count_joins([life(100), syncing, never_answered]) == 1


def suffered(round_: int, node: int, kind: Do = Do.KILL) -> Suffered:
    return Suffered(kind, node, round_, back_s=1.0)


@pytest.mark.parametrize(
    ("included", "lost"),
    [
        ({0, 1, 2, 3, 4}, 0),  # the fault came after round 2's payload was out, and was over at 3
        ({0, 1, 3, 4}, 1),  # round 2 was lost
        ({0, 1, 2, 4}, 1),  # round 2 was out already, round 3 was lost
        ({0, 1}, 8),  # it never contributed again
    ],
)
def test_rounds_lost_are_those_until_the_victim_counts_again(included: set[int], lost: int) -> None:
    own = [round_view(r, included=r in included) for r in range(5)]
    (outcome,) = compute_outcomes([suffered(2, node=1)], [[], own], rounds=10)
    assert outcome.rounds_lost == lost


def test_rounds_without_record_are_charged_to_the_fault_before_them() -> None:
    one = [round_view(r) for r in (0, 2, 3, 4)]
    other = [round_view(5), round_view(6, record=b""), round_view(7), round_view(8)]
    first, second, third = compute_outcomes(
        [suffered(1, 0), suffered(4, 1), suffered(8, 0)], [one, other], rounds=10
    )
    assert first.rounds_without_record == 1  # round 1
    assert second.rounds_without_record == 1  # round 6
    assert third.rounds_without_record == 1  # round 9
    assert compute_outcomes([], [one, other], rounds=10) == []


def test_a_cut_has_no_victim_but_may_cost_rounds() -> None:
    cut = Suffered(Do.CUT, None, 1, back_s=9.0)
    (outcome,) = compute_outcomes([cut], [[round_view(0)], [round_view(3)]], rounds=4)
    assert (outcome.node, outcome.rounds_lost, outcome.rounds_without_record) == (None, 0, 2)


@pytest.mark.parametrize(
    ("nodes", "up_ms", "delay_ms"),
    [(4, 3_000, 6_000), (8, 13_000, 13_000), (8, 170_000, 30_000), (20, 20_000, 44_000)],
)
def test_rounds_begin_later_where_nodes_took_long_to_start(
    nodes: int, up_ms: int, delay_ms: int
) -> None:
    assert compute_delay_ms(nodes, up_ms) == delay_ms
